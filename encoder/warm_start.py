"""A warm start: what a training leaves in its model for the next one, which then begins where it ended.

Beside the graphs, which serve and are compressed, a model keeps the right singular vectors of its closed form
and the weights of its learned blocks, with a row for each item and none for users.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from encoder.arrays import IntArray
from encoder.config import TowerConfig
from encoder.content import ContentSettings
from encoder.dataset import Dataset, rows_of
from encoder.learned import BlockStart, LearnConfig
from encoder.left_out import LeftOutIds
from encoder.model_files import METRICS_FILE
from encoder.runtime import ITEMS_FILE
from encoder.tower import ChosenTrust
from encoder.views import FloatArray
from store.artifact import verify

WARM_START_FILE = "warm_start.safetensors"
METRICS_KEY = "warm_start"
CHAIN_KEY = "started_from"  # of the manifest
_RIGHT = "right"
log = logging.getLogger(__name__)


class NoWarmStartError(LookupError):
    """A model holds nothing that a training can start from."""

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"model {model_id} holds nothing to start from, because an earlier version made it: "
            "run `triptych train` once without --from"
        )
        self.model_id = model_id


class OtherTextModelError(ValueError):
    """A training is to start from a model that was trained with another text model."""

    def __init__(self, model_id: str, theirs: str, ours: str) -> None:
        super().__init__(
            f"model {model_id} was trained with the text model {theirs}, not {ours}: its text paths are of "
            "no use here; run `triptych train` without --from"
        )
        self.model_id = model_id


class UnknownItemsError(ValueError):
    """A training is to start from a model that knows none of the items."""

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"model {model_id} knows none of the items here, so it is of no use as a start: "
            "run `triptych train` without --from"
        )
        self.model_id = model_id


class Origin(NamedTuple):
    """A model that later ones were started from, and the export that it learned from."""

    model_id: str
    export_id: str


@dataclass(frozen=True)
class KeptSettings:
    """The settings that a training chose, as the next one takes them over.

    Attributes:
        closed: of the closed form, with the half-life that it was fitted with.
        learn: of the learned blocks; None where there are none.
        best_epochs: of each learned block, in the last training that searched.
        weight: of the learned blocks beside the closed form; 0 leaves them out.
        half_life: of the whole tower.
        max_dim: to how many coordinates it was compressed, at most.
        trust: of all blocks.
        content: how item vectors are made from content.
    """

    closed: TowerConfig
    learn: LearnConfig | None
    best_epochs: tuple[int, ...]
    weight: float
    half_life: float
    max_dim: int
    trust: ChosenTrust
    content: ContentSettings = field(default_factory=ContentSettings)

    def as_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "KeptSettings":
        """Make settings from the JSON values that `as_json` returned.  Raises: SettingsError."""
        learn = values["learn"]
        return cls(
            closed=TowerConfig.from_json(values["closed"]),
            learn=None if learn is None else LearnConfig.from_json(learn),
            best_epochs=tuple(values["best_epochs"]),
            weight=values["weight"],
            half_life=values["half_life"],
            max_dim=values["max_dim"],
            trust=ChosenTrust.from_json(values["trust"]),
            content=ContentSettings(**values.get("content", {})),  # not there before new items had settings
        )


@dataclass(frozen=True)
class Kept:
    """The parts of a fitted tower that the next training starts from.

    Attributes:
        settings: what was chosen.
        right: (N, R) float32, the right singular vectors of the closed form.
        members: parameters of each learned block by name.
    """

    settings: KeptSettings
    right: FloatArray
    members: tuple[dict[str, FloatArray], ...] = ()

    def save(self, directory: Path) -> None:
        """Write the arrays into a model that is being built; the settings go into its metrics.json."""
        tensors = {_RIGHT: np.asarray(self.right, order="C")}
        for number, weights in enumerate(self.members):
            tensors |= {f"{number}.{name}": np.asarray(array, order="C") for name, array in weights.items()}
        save_file(tensors, directory / WARM_START_FILE)


@dataclass(frozen=True)
class WarmStart:
    """A model as the start of another training.

    Attributes:
        model_id: of the model.
        text_model_id: the language model that it was trained with.
        chain: the models that its weights come from and the export of each, the first training first and
            itself last.
        items: (N,) sorted ids, the rows of the arrays in `kept`.
        known: (N,) bool, the items that somebody had done something with; the rows of the others say nothing.
        left_out: the users and items that it never saw, on purpose.
        kept: its arrays and settings.
    """

    model_id: str
    text_model_id: str
    chain: tuple[Origin, ...]
    items: pa.StringArray
    known: npt.NDArray[np.bool_]
    left_out: LeftOutIds
    kept: Kept

    @classmethod
    def load(cls, directory: Path) -> "WarmStart":
        """Read what a model left for the next training.

        Raises:
            DamagedArtifactError: a file of the model is missing or damaged.
            NoWarmStartError: the model has nothing to start from.
        """
        manifest = verify(directory)
        metrics = json.loads((directory / METRICS_FILE).read_text("utf-8"))
        if WARM_START_FILE not in manifest["files"] or METRICS_KEY not in metrics:
            raise NoWarmStartError(directory.name)
        members: dict[int, dict[str, FloatArray]] = {}
        tensors = load_file(directory / WARM_START_FILE)
        right = tensors.pop(_RIGHT)
        for key, array in tensors.items():
            number, _, name = key.partition(".")
            members.setdefault(int(number), {})[name] = array
        items = pq.read_table(directory / ITEMS_FILE)
        return cls(
            model_id=directory.name,
            text_model_id=manifest["text_model_id"],
            chain=(
                *(Origin(**one) for one in manifest.get(CHAIN_KEY, ())),
                Origin(directory.name, manifest["export_id"]),
            ),
            items=items.column("item_id").combine_chunks(),
            known=items.column("popularity").to_numpy() > 0,
            left_out=LeftOutIds.load(directory),
            kept=Kept(
                settings=KeptSettings.from_json(metrics[METRICS_KEY]),
                right=right,
                members=tuple(members[number] for number in sorted(members)),
            ),
        )

    def check(self, data: Dataset, text_model_id: str) -> None:
        """Check that the model is of use for a data set.

        Raises:
            OtherTextModelError: its text paths are of another text model.
            UnknownItemsError: it knows none of the items.
        """
        if text_model_id != self.text_model_id:
            raise OtherTextModelError(self.model_id, self.text_model_id, text_model_id)
        known = int((self._rows(data) >= 0).sum())
        if not known:
            raise UnknownItemsError(self.model_id)
        log.info(
            "starting from model %s, with its settings: it knows %d of %d items",
            self.model_id, known, len(data.items),
        )  # fmt: skip

    def right(self, data: Dataset) -> FloatArray:
        """Return the right singular vectors for the items of a data set, zero rows for new ones."""
        rows = self._rows(data)
        vectors: FloatArray = self.kept.right[rows] * (rows >= 0)[:, None].astype(np.float32)
        return vectors

    def blocks(self, data: Dataset) -> list[BlockStart]:
        """Return the starts of the learned blocks for the items of a data set."""
        rows = self._rows(data)
        return [BlockStart(self.model_id, weights, rows) for weights in self.kept.members]

    def _rows(self, data: Dataset) -> IntArray:
        """Return the row here of each item of a data set, −1 where nothing was learned of it."""
        rows = rows_of(data.items, self.items)
        known = (rows >= 0) & self.known[rows]
        return np.where(known, rows, -1)
