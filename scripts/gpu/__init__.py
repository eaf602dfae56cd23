"""`make gpu`: everything that needs a graphics card, in one go.

`card` finds the card (and needs nothing installed); `run` has the steps one after another, each a process of
its own by `step`, within eight minutes; `exact_step` (which needs FAISS and numpy alone), `faiss_steps`,
`text_step` and `training_step` measure, and `markdown` writes the section of docs/benchmarks.md.
"""
