"""Learned blocks of the tower: a denoising autoencoder over the three views, trained with torch.

`batches` hides some event groups of an epoch from every view, as targets. `model` is the module, which
gives a `Block` of the tower once it is trained; `losses` rank the targets. `trainer` runs the training and
`checkpoint` lets a killed run go on. `config` holds the settings and `start` the weights of an earlier block;
neither loads torch.
"""

from encoder.learned.config import CHECKPOINT_FILE, LearnConfig
from encoder.learned.start import BlockStart, StartMismatchError

__all__ = [
    "CHECKPOINT_FILE",
    "BlockStart",
    "LearnConfig",
    "StartMismatchError",
]
