"""A query and its answer as records, and the vector that a query searches for; no protobuf."""

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from encoder.config import VIEWS
from indexer.filters import Filter
from indexer.index import VectorDimError
from store.records import UserViews

FloatArray = npt.NDArray[np.float32]

_SMALL_DEPTH = 200  # candidates


@dataclass(frozen=True)
class StoredUser:
    """A user by id; one whom the store does not know has no views."""

    user_id: str


@dataclass(frozen=True)
class InlineViews:
    """An anonymous user; friends carry no history, which is read by their id."""

    views: UserViews


@dataclass(frozen=True)
class SimilarTo:
    """An item, for which similar items or the users whom it suits are searched."""

    item_id: str


@dataclass(frozen=True)
class FreeText:
    """A text, searched for as a user who has written nothing else."""

    text: str


@dataclass(frozen=True)
class RawVector:
    """A vector (D,) float32 of the shared space."""

    vector: FloatArray


Subject = StoredUser | InlineViews | SimilarTo | FreeText | RawVector


class Target(Enum):
    """What a query searches among."""

    ITEMS = "items"
    USERS = "users"


@dataclass(frozen=True)
class TextQuery:
    """A text that is searched for beside the subject, with a weight in 0..1; the subject's is 1 − weight."""

    text: str
    weight: float = 0.5


@dataclass(frozen=True)
class QueryOptions:
    """How the candidates of a query are scored and chosen; by default by their score alone.

    Attributes:
        view_weights: of H, T, S, which multiply their parts of the query vector; 0 leaves a view out.
        min_score: candidates with a lower score are left out.
        text_query: None where there is none.
        diversity: λ of maximal marginal relevance; 1 is the order by score.
        explain: name the sources that contributed most to each score.
        exact: score every item, without FAISS.
    """

    view_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    min_score: float | None = None
    text_query: TextQuery | None = None
    diversity: float = 1.0
    explain: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Query:
    """A search for the k best items, or users, for a subject.

    Attributes:
        exclude_seen: leave out the items in the subject's history.
        filter: of items; None lets all of them pass.
        offset: how many of the best are left out, because an earlier page had them.
        index_id: of the index that must answer; "" for any.
        visible: what the caller may see at all, which is in `filter`, too; None for everything.
        min_commit: of the state; the answer knows of all up to it.
    """

    subject: Subject
    k: int = 10
    exclude_seen: bool = True
    filter: Filter | None = None
    options: QueryOptions = field(default=QueryOptions())
    target: Target = Target.ITEMS
    offset: int = 0
    index_id: str = ""
    visible: Filter | None = None
    min_commit: int = 0

    @property
    def depth(self) -> int:
        """The number of candidates to rank: those of this page and of earlier ones."""
        return self.offset + self.k

    @property
    def is_small(self) -> bool:
        """Whether it takes no longer than most, so that it may be answered together with others."""
        options = self.options
        return (
            isinstance(self.subject, StoredUser | RawVector)
            and self.target is Target.ITEMS
            and self.filter is None
            and self.depth <= _SMALL_DEPTH
            and options.text_query is None
            and options.diversity >= 1.0
            and not (options.explain or options.exact)
        )


class IndexChangedError(RuntimeError):
    """A query is for another index than the one that serves."""

    def __init__(self, index_id: str, serving: str) -> None:
        super().__init__(f"index {serving} serves by now, not {index_id}: begin again with the first page")
        self.index_id = index_id


class CommitNotReachedError(RuntimeError):
    """A query is for a state with a commit that this server does not know of yet."""

    def __init__(self, wanted: int, reached: int) -> None:
        super().__init__(
            f"commit {wanted} is not here yet, this server has come to {reached}: try again, or ask another "
            f"replica or the owner"
        )
        self.wanted, self.reached = wanted, reached


@dataclass(frozen=True)
class QueryVector:
    """The vector of one query and the parts it is the sum of.

    Shapes:
        vector: (D,) float32.
        parts: (3, D) float32 of H, T, S, or (4, D) with that of the text query; they sum to `vector`. None
            where a raw vector is in the sum, whose parts are unknown.
        scale: (3,) float32, factors by which the model's parts of H, T, S are multiplied in `parts`.
    """

    vector: FloatArray
    parts: FloatArray | None
    scale: FloatArray

    @classmethod
    def unweighted(
        cls, vector: FloatArray, parts: FloatArray, views_used: tuple[str, ...], is_empty: bool
    ) -> "QueryVector":
        """Make the vector of a user again, of which the properties are known."""
        made = cls(vector, parts, UNSCALED)
        made.__dict__.update(views_used=views_used, is_empty=is_empty)  # where `cached_property` keeps them
        return made

    @cached_property
    def views_used(self) -> tuple[str, ...]:
        """The views with a part in the vector."""
        return () if self.parts is None else views_used(self.parts)

    @cached_property
    def is_empty(self) -> bool:
        """Whether no part has a direction to search in, so that the most popular items are the answer."""
        return self.parts is not None and not self.parts.any()


UNSCALED = np.ones(len(VIEWS), dtype=np.float32)


def query_vector_of(query: Query, subject: QueryVector, text: FloatArray | None) -> QueryVector:
    """Weight the parts of a subject's vector and blend in the vector of the text query.

    Each part is multiplied by its view's weight. With a text query of weight w the sum is multiplied by
    1 − w, and w times the vector of that text alone is added. Where one of the two is zero (a subject
    without any view, a text that the model makes nothing of), the other gets all of the weight.

    Args:
        query: its options, and its subject where that is a raw vector.
        subject: the subject's user vector (D,) and its parts (3, D), unweighted; of a raw vector those of
            nobody. Returned itself where the query weights and blends nothing.
        text: (D,) the vector of the text query, None where there is none.

    Raises:
        VectorDimError: a raw vector is not of the model's embedding dim.
    """
    options, vector, parts = query.options, subject.vector, subject.parts
    weighs = options.view_weights != QueryOptions.view_weights or text is not None
    raw = isinstance(query.subject, RawVector)
    if isinstance(query.subject, RawVector):
        if query.subject.vector.shape != vector.shape:
            raise VectorDimError(len(query.subject.vector), len(vector))
        vector = query.subject.vector
        if not weighs:
            return QueryVector(vector, None, UNSCALED)
    if not weighs or parts is None:
        return subject
    scale = np.array(options.view_weights, dtype=np.float32)
    weighted = parts * scale[:, None]
    if text is None or options.text_query is None:
        return QueryVector(weighted.sum(axis=0), weighted, scale)
    has_subject = vector.any() if raw else weighted.any()
    weight = options.text_query.weight if text.any() else 0.0
    share = np.float32(weight if has_subject or not weight else 1.0)
    rest = np.float32(1.0) - share
    if raw:
        return QueryVector(rest * vector + share * text, None, scale)
    blended = np.concatenate([rest * weighted, share * text[None]])
    return QueryVector(blended.sum(axis=0), blended, rest * scale)


def views_used(parts: FloatArray) -> tuple[str, ...]:
    """Return the names of the views whose part (D,) of parts (P, D) is not zero."""
    return tuple(view for view, part in zip(VIEWS, parts, strict=False) if part.any())


@dataclass(frozen=True)
class Timings:
    """Milliseconds of each stage, of the whole batch that a query is part of.

    Attributes:
        search_ms: until the answer is complete.
        page_ms: of `search_ms`, those after the search itself: pages, shares, ids, explanations.
    """

    views_ms: float
    encode_ms: float
    search_ms: float
    page_ms: float = 0.0


@dataclass(frozen=True)
class Contribution:
    """A source (an item id, a text or a friend id) and its portion of a view's share in a score."""

    name: str
    value: float


Explanation = tuple[tuple[Contribution, ...], tuple[Contribution, ...], tuple[Contribution, ...]]
"""Of one candidate: the sources of H, T and S that contributed most, greatest first."""


@dataclass(frozen=True)
class Candidates:
    """The candidates of one query, best first, or in the order in which diversity chose them.

    Shapes:
        scores: (n,) float32 inner products, of users cosines, n <= k; the fallback's are popularity.
        shares: (n, 3) float32 in the order H, T, S, or (n, 4) with the text query; they sum to the scores.
            None for a raw vector, for users and for the fallback.

    Attributes:
        ids: of items or of users, as the query's target says.
        views_used: the views with a part in the query vector.
        exact: whether every item, or user, was scored.
        fallback: whether these are the most popular items, because the query vector is empty.
        explanations: n of them where the query wants them and the candidates have shares.
        state_age: seconds since the state was known to have every commit; None where it always has.
    """

    ids: list[str]
    scores: FloatArray
    shares: FloatArray | None
    views_used: tuple[str, ...]
    exact: bool
    model_id: str
    index_id: str
    target: Target = Target.ITEMS
    fallback: bool = False
    explanations: tuple[Explanation, ...] = ()
    timings: Timings = Timings(0.0, 0.0, 0.0)
    state_age: float | None = None


@dataclass(frozen=True)
class EncodedUser:
    """A user vector V_u (D,) and its parts (3, D) float32, with zero rows for absent views."""

    vector: FloatArray
    parts: FloatArray
    views_used: tuple[str, ...]
    model_id: str
