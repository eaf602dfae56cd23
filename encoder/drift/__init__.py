"""Drift: how people were when a model was trained, so that a server can tell when those who ask are others.

`measure` takes a sample of people after training, `reference` keeps the distributions of what is known of
them in the model, and `stability` compares two. The last one loads nothing, as some processes want no more.
"""
