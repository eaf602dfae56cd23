"""The tasks that have a head, and the options of a head."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Task = Literal["retrieval", "click", "rating", "category"]
HEAD_TASKS: tuple[Task, ...] = get_args(Task)[1:]


class TaskError(ValueError):
    """A task is unknown, or has no head: retrieval is the tower itself."""

    def __init__(self, task: str) -> None:
        super().__init__(f"task {task!r} has no head; there are {', '.join(HEAD_TASKS)}")
        self.task = task


class HeadOptionsError(ValueError):
    """An option of a head is out of range."""

    def __init__(self, name: str, value: object, wanted: str) -> None:
        super().__init__(f"head option {name} is {value!r}, not {wanted}")
        self.name = name
        self.value = value


@dataclass(frozen=True)
class HeadOptions:
    """Options of a task head.

    Attributes:
        label: of `category`: `kind`, or a dotted path such as `attributes.genre`; None for other tasks.
        epochs: at most; training stops after `patience` epochs without a better valid loss.
        patience: see `epochs`.
        batch: examples a step, of click and rating.
        user_batch: users a step, of `category`.
        rate: learning rate of AdamW.
        decay: weight decay of AdamW.
        rank: of the bilinear term between user and item.
        negatives: unobserved pairs drawn for each observed one (`click`).
        shrinkage: examples that an item's own mean must outweigh to count half.
        max_classes: of `category`; more are refused.
        holdout: share of the train pairs that early stopping looks at where there is no valid split.
        seed: of every random draw.
    """

    label: str | None = None
    epochs: int = 50
    patience: int = 5
    batch: int = 2048
    user_batch: int = 64
    rate: float = 0.003
    decay: float = 0.01
    rank: int = 8
    negatives: int = 4
    shrinkage: float = 10.0
    max_classes: int = 1000
    holdout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch", "user_batch", "rank", "negatives"):
            if getattr(self, name) < 1:
                raise HeadOptionsError(name, getattr(self, name), "at least 1")
        for name in ("rate", "shrinkage"):
            if not getattr(self, name) > 0:
                raise HeadOptionsError(name, getattr(self, name), "positive")
        if not self.decay >= 0:
            raise HeadOptionsError("decay", self.decay, "at least 0")
        if self.max_classes < 2:
            raise HeadOptionsError("max_classes", self.max_classes, "at least 2")
        if not 0 < self.holdout < 1:
            raise HeadOptionsError("holdout", self.holdout, "between 0 and 1")
        if self.seed < 0:
            raise HeadOptionsError("seed", self.seed, "at least 0")

    def as_json(self) -> dict[str, Any]:
        """Return the options as plain JSON values."""
        return asdict(self)
