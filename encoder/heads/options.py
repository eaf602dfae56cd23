"""The tasks that have a head, and the options of a head."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Task = Literal["retrieval", "click", "rating", "category"]
HEAD_TASKS: tuple[Task, ...] = get_args(Task)[1:]
Quantity = Literal["probability", "score", "rating"]
"""What the numbers of a head are: calibrated; higher is likelier, and no more; in units of ratings."""


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
        decays: weight decays of AdamW to choose from by the valid loss; many people and examples need little.
        rank: of the bilinear term between user and item.
        negatives: unobserved pairs drawn for each observed one (`click`).
        shrinkage: examples that an item's own share of clicks must outweigh to count half.
        rating_shrinkage: as `shrinkage`, of an item's and of a user's mean rating.
        taste_rank: coordinates of the taste that is read off a user's ratings.
        taste_decay: weight decay of these coordinates.
        max_classes: of `category`; more are refused.
        folds: into so many parts the train examples are dealt; a user's vector is made anew for each, without
            what is in it. Where there is no valid split, early stopping looks at the first.
        most_examples: about so many train examples, all those of users drawn at random, are enough to fit on.
        seed: of every random draw.
    """

    label: str | None = None
    epochs: int = 50
    patience: int = 8
    batch: int = 2048
    user_batch: int = 64
    rate: float = 0.0015
    decays: tuple[float, ...] = (0.3, 30.0)
    rank: int = 8
    negatives: int = 4
    shrinkage: float = 10.0
    rating_shrinkage: float = 3.0
    taste_rank: int = 16
    taste_decay: float = 3.0
    max_classes: int = 1000
    folds: int = 8
    most_examples: int = 300_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "patience",
            "batch",
            "user_batch",
            "rank",
            "negatives",
            "taste_rank",
            "most_examples",
        ):
            if getattr(self, name) < 1:
                raise HeadOptionsError(name, getattr(self, name), "at least 1")
        for name in ("max_classes", "folds"):
            if getattr(self, name) < 2:
                raise HeadOptionsError(name, getattr(self, name), "at least 2")
        for name in ("rate", "shrinkage", "rating_shrinkage"):
            if not getattr(self, name) > 0:
                raise HeadOptionsError(name, getattr(self, name), "positive")
        for name in ("taste_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise HeadOptionsError(name, getattr(self, name), "at least 0")
        if not self.decays or not min(self.decays) >= 0:
            raise HeadOptionsError("decays", self.decays, "one or more numbers of at least 0")

    def as_json(self) -> dict[str, Any]:
        """Return the options as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "HeadOptions":
        """Make options from the JSON values of `as_json`; those that an earlier version had are left out.

        Raises:
            HeadOptionsError: one is out of range.
        """
        known = {one.name for one in fields(cls)}
        given: dict[str, Any] = {name: value for name, value in values.items() if name in known}
        if "decays" in given:
            given["decays"] = tuple(given["decays"])
        return cls(**given)
