"""The weights of an earlier learned block, from which another training starts."""

from collections.abc import Mapping
from dataclasses import dataclass

from encoder.arrays import IntArray
from encoder.views import FloatArray


class StartMismatchError(ValueError):
    """A parameter of an earlier model has another shape than this training needs."""

    def __init__(self, name: str, stored: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        super().__init__(
            f"{name} of the earlier model has the shape {stored}, and {wanted} is needed: "
            "run `triptych train` once without --from"
        )
        self.name = name


@dataclass(frozen=True)
class BlockStart:
    """The weights that a training starts from.

    Attributes:
        source: the id of the model that they come from.
        weights: parameters by name, float32; those of `LearnedBlock.PER_ITEM` have a row for each item of
            that model.
        rows: (N,) int64, the row there of each item of this training, −1 for a new item.
    """

    source: str
    weights: Mapping[str, FloatArray]
    rows: IntArray
