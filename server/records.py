"""What the retriever is asked and what it answers; no protobuf."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from indexer.filters import Filter
from store.records import UserViews

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StoredUser:
    """A person whom the store may know."""

    user_id: str


@dataclass(frozen=True)
class InlineViews:
    """An anonymous person; friends carry no history yet, they are looked up by id."""

    views: UserViews


@dataclass(frozen=True)
class SimilarTo:
    """An item, asking for others like it."""

    item_id: str


@dataclass(frozen=True)
class FreeText:
    """A text, as if a person had written nothing else."""

    text: str


@dataclass(frozen=True)
class RawVector:
    """A point of the shared space, (D,) float32."""

    vector: FloatArray


Subject = StoredUser | InlineViews | SimilarTo | FreeText | RawVector


@dataclass(frozen=True)
class Query:
    """One question: the top k items for a subject."""

    subject: Subject
    k: int = 10
    exclude_seen: bool = True
    filter: Filter | None = None


@dataclass(frozen=True)
class Timings:
    """Milliseconds per stage, of the whole batch that a query was answered in."""

    views_ms: float
    encode_ms: float
    search_ms: float


@dataclass(frozen=True)
class Candidates:
    """The items found, best first.

    Shapes:
        scores: (n,) float32 inner products, n <= k.
        shares: (n, 3) float32 in the order H, T, S, or None for a raw vector.
        prior: (n,) float32 share of popularity, or None; shares and prior sum to the scores.
    """

    item_ids: list[str]
    scores: FloatArray
    shares: FloatArray | None
    prior: FloatArray | None
    views_used: tuple[str, ...]
    exact: bool
    model_id: str
    index_id: str
    timings: Timings = field(default=Timings(0.0, 0.0, 0.0))

    @property
    def fallback(self) -> bool:
        """Whether popularity answered because no view was there."""
        return self.prior is not None


@dataclass(frozen=True)
class EncodedUser:
    """V_u (D,) and its parts (3, D) float32, zero rows for absent views."""

    vector: FloatArray
    parts: FloatArray
    views_used: tuple[str, ...]
    model_id: str
