"""What the retriever is asked and what it answers; no protobuf."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from encoder.config import VIEWS
from indexer.filters.filter import Filter
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
class TextQuery:
    """What is searched for beside the subject: (1 − weight) of the one and weight of the other, 0 to 1."""

    text: str
    weight: float = 0.5


@dataclass(frozen=True)
class QueryOptions:
    """What a query may ask beyond the plain order by score.

    Attributes:
        view_weights: of H, T, S, times which their parts go into the vector; 0 leaves a view out.
        min_score: results with a lower one are left out.
        text_query: None where there is none.
        diversity: λ of maximal marginal relevance; 1 is the order by score.
        explain: say for each result what contributed most.
        exact: compare every item.
    """

    view_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    min_score: float | None = None
    text_query: TextQuery | None = None
    diversity: float = 1.0
    explain: bool = False
    exact: bool = False


PLAIN = QueryOptions()


@dataclass(frozen=True)
class Query:
    """One question: the top k items for a subject, or with `people` the top k users.

    Attributes:
        offset: how many of the best are left out, because an earlier page had them.
        index_id: of the index that must answer; "" for any.
    """

    subject: Subject
    k: int = 10
    exclude_seen: bool = True
    filter: Filter | None = None
    options: QueryOptions = PLAIN
    people: bool = False
    offset: int = 0
    index_id: str = ""

    @property
    def depth(self) -> int:
        """How many results are put in order, those of earlier pages among them."""
        return self.offset + self.k


class IndexChangedError(RuntimeError):
    """Another index serves than the one that a query is for."""

    def __init__(self, wanted: str, serves: str) -> None:
        super().__init__(f"index {serves} serves by now, not {wanted}: begin again with the first page")
        self.wanted = wanted


@dataclass(frozen=True)
class Timings:
    """Milliseconds per stage, of the whole batch that a query was answered in."""

    views_ms: float
    encode_ms: float
    search_ms: float


@dataclass(frozen=True)
class Contribution:
    """A source, an item id, a text or a friend id, and its portion of a view's share in a score."""

    name: str
    value: float


Explanation = tuple[tuple[Contribution, ...], tuple[Contribution, ...], tuple[Contribution, ...]]
"""Of one result: the sources of H, T and S that contributed most, greatest first."""


@dataclass(frozen=True)
class Candidates:
    """The items found, best first, or in the order in which diversity chose them.

    Shapes:
        scores: (n,) float32 inner products, n <= k.
        shares: (n, 4) float32 in the order H, T, S, text query, or None for a raw vector.
        prior: (n,) float32 share of popularity, or None; shares and prior sum to the scores.
        explanations: n of them where they were asked for.

    With `people`, item_ids are the ids of users, and there are neither shares nor a prior.
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
    explanations: tuple[Explanation, ...] = ()
    people: bool = False

    @property
    def fallback(self) -> bool:
        """Whether popularity answered because no view was there."""
        return self.prior is not None

    def finite(self) -> "Candidates":
        """Return the candidates with a finite score: all, unless the index is of a model that is broken."""
        kept = np.isfinite(self.scores)
        if kept.all():
            return self
        places = np.flatnonzero(kept).tolist()
        return replace(
            self,
            item_ids=[self.item_ids[place] for place in places],
            scores=self.scores[kept],
            shares=None if self.shares is None else self.shares[kept],
            prior=None if self.prior is None else self.prior[kept],
            explanations=tuple(self.explanations[place] for place in places if self.explanations),
        )


@dataclass(frozen=True)
class EncodedUser:
    """V_u (D,) and its parts (3, D) float32, zero rows for absent views."""

    vector: FloatArray
    parts: FloatArray
    views_used: tuple[str, ...]
    model_id: str


@dataclass(frozen=True)
class QueryVector:
    """The vector of one query.

    Shapes:
        vector: (D,) float32.
        parts: (3, D) float32 of H, T, S, or (4, D) with that of the text query; they sum to `vector`. None
            where a raw vector is in it, whose parts nobody knows.
        scale: (3,) float32, times which the model's own parts stand in `parts`.
    """

    vector: FloatArray
    parts: FloatArray | None
    scale: FloatArray

    @property
    def used(self) -> tuple[str, ...]:
        """The views with a part in the vector."""
        if self.parts is None:
            return ()
        return tuple(view for view, part in zip(VIEWS, self.parts, strict=False) if part.any())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to search for, so that popularity must answer."""
        return self.parts is not None and not self.parts.any()


_ONE = np.ones(len(VIEWS), dtype=np.float32)


def query_vector_of(
    query: Query, vector: FloatArray, parts: FloatArray, text: FloatArray | None
) -> QueryVector:
    """Return what a query searches for.

    Each part is multiplied by its view's weight. With a text query of weight w the sum is multiplied by
    1 − w, and w times the vector of that text alone is added. As with the gates of views, what is not there
    (a subject without any view, a text that says nothing to the model) leaves all of the weight to the other.

    Args:
        query: its options, and whether its subject is a raw vector.
        vector: (D,) the user vector, or the raw vector.
        parts: (3, D) which sum to the user vector; of no account for a raw vector.
        text: (D,) the vector of the text query, None where there is none.
    """
    raw = isinstance(query.subject, RawVector)
    if query.options.view_weights == QueryOptions.view_weights and text is None:
        return QueryVector(vector, None if raw else parts, _ONE)
    scale = np.array(query.options.view_weights, dtype=np.float32)
    weighted = parts * scale[:, None]
    if text is None or query.options.text_query is None:
        return QueryVector(weighted.sum(axis=0), weighted, scale)
    there = vector.any() if raw else weighted.any()
    asked = query.options.text_query.weight * bool(text.any())
    share = np.float32(asked if there or not asked else 1.0)
    rest = np.float32(1.0) - share
    if raw:
        return QueryVector(rest * vector + share * text, None, scale)
    blended = np.concatenate([rest * weighted, share * text[None]])
    return QueryVector(blended.sum(axis=0), blended, rest * scale)
