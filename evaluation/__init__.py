"""Metrics, held-out splits and the arithmetic of the baselines: numpy and scipy only."""
