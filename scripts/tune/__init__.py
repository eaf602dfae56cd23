"""triptych tune: settings of training, chosen by Optuna on valid.

`command` parses and calls. `closed_form` and `learned` hold a space of settings each, what a trial in it
reaches, and which trials come first. `study` runs the trials and keeps them in a file, so that a killed
search goes on; `trials` has them ended by workers.
"""

from scripts.tune.command import tune_command

__all__ = [
    "tune_command",
]
