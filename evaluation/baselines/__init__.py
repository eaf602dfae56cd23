"""The baselines that a model has to beat: popularity, EASE, ItemKNN, iALS, BPR, EASE with side features."""
