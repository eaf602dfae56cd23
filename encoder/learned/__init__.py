"""Learned blocks of the tower: a denoising autoencoder over the three views, trained with torch.

`batches` hides some event groups of an epoch from every view, as targets. `model` is the module, which
gives a `Block` of the tower once it is trained; `losses` rank the targets. `trainer` runs the training and
`checkpoint` lets a killed run go on, in a folder that it has to itself (`folders`). `config` holds the
settings and `start` the weights of an earlier block. `config`, `folders` and `start` do not load torch.
"""

from encoder.learned.config import LearnConfig
from encoder.learned.folders import remove_checkpoints
from encoder.learned.start import BlockStart, StartMismatchError

__all__ = [
    "BlockStart",
    "LearnConfig",
    "StartMismatchError",
    "remove_checkpoints",
]
