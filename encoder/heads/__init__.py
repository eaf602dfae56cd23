"""Task heads: small models on frozen user and item vectors that predict clicks, ratings or categories.

`model` is the entry: it makes `examples` from a data set, the classes of a category from `labels`, fits a
head with `fit` (torch) and has `report` measure it beside baselines. `graph` writes a fitted head as ONNX,
`runtime` saves, loads and runs it without torch. `statistics` holds what fitting and baselines share,
`options` the settings and tasks.
"""

from encoder.heads.options import HeadOptions, Task
from encoder.heads.runtime import HEAD_FILE, Head, load_head, save_head

__all__ = [
    "HEAD_FILE",
    "Head",
    "HeadOptions",
    "Task",
    "load_head",
    "save_head",
]
