"""triptych evaluate: a published pair judged on held-out rows, beside baselines: tables, plots, JSON."""
