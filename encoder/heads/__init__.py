"""Task heads: small models on frozen user and item vectors that predict clicks, ratings or categories.

`model` is the entry: it makes `examples` from a data set (of clicks from `impressions`), the classes of a
category from `labels`, asks them of `subjects`, who do not know them, fits a head with `fit` and has `report`
measure it beside baselines. In torch, `pair_fit` and `class_fit` fit what `scores` computes, by `training`.
`graph` writes a fitted head as ONNX, `runtime` saves, loads and runs it without torch; `places` are those of
a list. `statistics` holds what fitting and baselines share, `options` the settings and tasks.
"""

from encoder.heads.options import HEAD_TASKS, HeadOptions, Quantity, Task
from encoder.heads.runtime import OLD_FILES, Head, HeadInputError, NoHeadError, Pairs, load_heads, save_head
from encoder.heads.subjects import Subjects

__all__ = [
    "HEAD_TASKS",
    "OLD_FILES",
    "Head",
    "HeadInputError",
    "HeadOptions",
    "NoHeadError",
    "Pairs",
    "Quantity",
    "Subjects",
    "Task",
    "load_heads",
    "save_head",
]
