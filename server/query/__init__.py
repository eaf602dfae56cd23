"""Queries: from a subject to its candidates, without protobuf.

`retriever` tells the flow: `query` has the records of a query and its answer, `subject_vectors` makes the
vectors of subjects from a `snapshot` (the index and models that serve together), by the user tower from the
raw views that `subject_views` puts together, and `pages` searches the index and chooses the page, by
`diversity` where a query wants that.
Finished vectors of stored users are kept in `user_vectors` until the log of the state tells of a change.
`explain` divides the shares of a score among events, texts and friends; `user_search` finds users instead of
items; `predict` asks the heads of the model. `visible` keeps to what a caller may see,
`drift` samples people who are asked for. `other_index` answers from an index that does not serve, and
`item_map` draws the items of one that does in two dimensions.
"""

from server.query.diversity import diversified, pool_size
from server.query.drift import DriftSampler
from server.query.item_map import MOST_POINTS, ItemMap, ItemMaps, groups_of
from server.query.other_index import OtherIndex, TextModelDiffersError
from server.query.predict import ItemNotServedError, Prediction, Question
from server.query.query import (
    Candidates,
    CommitNotReachedError,
    EncodedUser,
    Explanation,
    FloatArray,
    FreeText,
    IndexChangedError,
    InlineViews,
    Query,
    QueryOptions,
    RawVector,
    SimilarTo,
    StoredUser,
    Subject,
    Target,
    TextQuery,
    Timings,
)
from server.query.retriever import NotReadyError, QueryPriority, Retriever
from server.query.snapshot import Snapshot, cache_stored_vectors, prepare, text_encoder
from server.query.stored_rows import OwnerUnreachableError, ReadReplicaError, StoredRows
from server.query.subject_views import SubjectViews, raw_views, stack
from server.query.user_search import AudienceGroupError, AudienceTooSmallError, NoUserIndexError

__all__ = [
    "MOST_POINTS",
    "AudienceGroupError",
    "AudienceTooSmallError",
    "Candidates",
    "CommitNotReachedError",
    "DriftSampler",
    "EncodedUser",
    "Explanation",
    "FloatArray",
    "FreeText",
    "IndexChangedError",
    "InlineViews",
    "ItemMap",
    "ItemMaps",
    "ItemNotServedError",
    "NoUserIndexError",
    "NotReadyError",
    "OtherIndex",
    "OwnerUnreachableError",
    "Prediction",
    "Query",
    "QueryOptions",
    "QueryPriority",
    "Question",
    "RawVector",
    "ReadReplicaError",
    "Retriever",
    "SimilarTo",
    "Snapshot",
    "StoredRows",
    "StoredUser",
    "Subject",
    "SubjectViews",
    "Target",
    "TextModelDiffersError",
    "TextQuery",
    "Timings",
    "cache_stored_vectors",
    "diversified",
    "groups_of",
    "pool_size",
    "prepare",
    "raw_views",
    "stack",
    "text_encoder",
]
