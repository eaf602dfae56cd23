"""The baselines that a model has to beat: popularity, EASE, ItemKNN, iALS, BPR, EASE with side features.

Each is a Scorer with `fit` and `scores`, and a function that chooses its settings on valid by `selection`.
"""
