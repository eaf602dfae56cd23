"""triptych tune: settings chosen by Optuna on valid."""
