"""Metrics, held-out splits and the arithmetic of the baselines; imports none of our packages.

`ranking` orders items by score, `metrics` measures the ranking by user, `bootstrap` says how sure a mean over
users is. `classification` measures task heads by scikit-learn. `split` says which rows to hold out.
`baselines/` holds the models that ours has to beat. Training uses some of it to stop early and to choose;
serving imports nothing from here.
"""
