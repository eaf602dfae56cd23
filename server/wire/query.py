"""Wire messages to records, with every bound that a client could overstep."""

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from encoder.config import VIEWS
from indexer.index import VectorDimError
from server.pb.triptych.v1 import triptych_pb2 as pb
from server.query.query import (
    PLAIN,
    Candidates,
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
    TextQuery,
)
from server.status import Failure
from server.wire.bounds import InvalidRequestError, checked_id, checked_text, checked_time
from server.wire.filters import filter_of
from store.imports.validation import MAX_WEIGHT
from store.records import Event, Friend, UserViews
from store.store import ItemNotFoundError

DEFAULT_K = 10
MAX_K = 1_000
MAX_BATCH = 256
MAX_BATCH_K = 50_000  # replies of that size stay below the message limit
MAX_EXPLAINED = 5_000  # results of a batch; they are as much larger
MAX_EVENTS = 10_000
MAX_TEXTS = 1_000
MAX_FRIENDS = 1_000
MAX_DIM = 65_536
MAX_NORM = 1e12


def query_of(request: pb.QueryRequest) -> Query:
    """Return the query that a request asks.

    Raises:
        InvalidRequestError: a field is missing, malformed or beyond its bound.
    """
    k = request.k or DEFAULT_K
    if k > MAX_K:
        raise InvalidRequestError(f"k is {k}, not in 1..{MAX_K}")
    if request.offset + k > MAX_K:
        raise InvalidRequestError(f"offset {request.offset} and k {k} add up to more than {MAX_K}")
    index_id = checked_id("index_id", request.index_id) if request.index_id else ""
    exclude_seen = request.exclude_seen if request.HasField("exclude_seen") else True
    wanted = filter_of(request.filter) if request.HasField("filter") else None
    people = _target(request)
    options = options_of(request)
    return Query(_subject(request), k, exclude_seen, wanted, options, people, request.offset, index_id)


def _target(request: pb.QueryRequest) -> bool:
    """Return whether users are asked for, which few options go with."""
    if request.target not in pb.Target.values():
        raise InvalidRequestError(f"target is {request.target}, which is none of TARGET_ITEMS, TARGET_USERS")
    if request.target != pb.TARGET_USERS:
        return False
    for name in ("filter", "view_weights", "min_score", "text_query", "text_query_weight", "diversity"):
        if request.HasField(name):
            raise InvalidRequestError(f"{name} does not go with TARGET_USERS")
    if request.explain:
        raise InvalidRequestError("explain does not go with TARGET_USERS")
    return True


def queries_of(request: pb.QueryBatchRequest) -> list[Query]:
    """Return the queries of a batch; an error names the position.  Raises: InvalidRequestError."""
    if not 1 <= len(request.requests) <= MAX_BATCH:
        raise InvalidRequestError(f"a batch has 1..{MAX_BATCH} requests, not {len(request.requests)}")
    queries = []
    for position, one in enumerate(request.requests):
        try:
            queries.append(query_of(one))
        except InvalidRequestError as error:
            raise InvalidRequestError(f"requests[{position}]: {error}") from error
    total = sum(query.k for query in queries)
    if total > MAX_BATCH_K:
        raise InvalidRequestError(f"the k of a batch add up to {total}, more than {MAX_BATCH_K}")
    explained = sum(query.k for query in queries if query.options.explain)
    if explained > MAX_EXPLAINED:
        raise InvalidRequestError(
            f"the k of a batch's explained requests add up to {explained}, more than {MAX_EXPLAINED}"
        )
    return queries


def place_of(error: ItemNotFoundError | VectorDimError | IndexChangedError, queries: Sequence[Query]) -> str:
    """Return the place in a batch of the first query that an error of the retriever is about."""
    for position, query in enumerate(queries):
        match query.subject, error:
            case SimilarTo(item_id), ItemNotFoundError() if item_id == error.item_id:
                return f"requests[{position}]"
            case RawVector(vector), VectorDimError() if len(vector) == error.got:
                return f"requests[{position}]"
            case _, IndexChangedError() if query.index_id == error.wanted:
                return f"requests[{position}]"
    raise ValueError(f"none of {len(queries)} queries has to do with: {error}")


def person_of(request: pb.EncodeUserRequest) -> StoredUser | InlineViews:
    """Return the person to encode.  Raises: InvalidRequestError."""
    if request.WhichOneof("subject") == "user_id":
        return StoredUser(checked_id("user_id", request.user_id))
    if request.WhichOneof("subject") == "views":
        return InlineViews(_views(request.views))
    raise InvalidRequestError("no subject: set user_id or views")


def index_of(request: pb.PublishIndexRequest) -> str:
    """Return the id of the index to publish.  Raises: InvalidRequestError."""
    return checked_id("index_id", request.index_id)


def _subject(request: pb.QueryRequest) -> Subject:
    named = request.WhichOneof("subject")
    if named == "user_id":
        return StoredUser(checked_id("user_id", request.user_id))
    if named == "views":
        return InlineViews(_views(request.views))
    if named == "item_id":
        return SimilarTo(checked_id("item_id", request.item_id))
    if named == "text":
        return FreeText(checked_text("text", request.text))
    if named == "vector":
        return _vector(request.vector)
    raise InvalidRequestError("no subject: set one of user_id, views, item_id, text, vector")


def _views(views: pb.Views) -> UserViews:
    for name, values, most in (
        ("events", views.events, MAX_EVENTS),
        ("texts", views.texts, MAX_TEXTS),
        ("friends", views.friends, MAX_FRIENDS),
    ):
        if len(values) > most:
            raise InvalidRequestError(f"views.{name} has {len(values)} entries, more than {most}")
    friends: dict[str, float] = {}  # several ties to one friend add up, as they do in the store
    for i, friend in enumerate(views.friends):
        name = checked_id(f"views.friends[{i}].friend_id", friend.friend_id)
        friends[name] = friends.get(name, 0.0) + _weight(f"views.friends[{i}]", friend)
    return UserViews(
        history=tuple(_event(i, event) for i, event in enumerate(views.events)),
        texts=tuple(checked_text(f"views.texts[{i}]", text) for i, text in enumerate(views.texts)),
        friends=tuple(Friend(name, weight, ()) for name, weight in sorted(friends.items())),
    )


def _event(position: int, event: pb.Event) -> Event:
    place = f"views.events[{position}]"
    return Event(
        checked_id(f"{place}.item_id", event.item_id),
        checked_id(f"{place}.action", event.action) if event.action else "interact",
        _weight(place, event),
        _time(place, event.ts) if event.HasField("ts") else None,
    )


def _time(place: str, ts: Timestamp) -> datetime:
    checked_time(f"{place}.ts", ts)
    return ts.ToDatetime()


def _weight(place: str, message: pb.Event | pb.Friend) -> float:
    weight = message.weight if message.HasField("weight") else 1.0
    if not 0.0 <= weight <= MAX_WEIGHT:  # also refuses NaN
        raise InvalidRequestError(f"{place}.weight is {weight}, not in 0..{MAX_WEIGHT:g}")
    return weight


def _vector(vector: pb.Vector) -> RawVector:
    if not 1 <= len(vector.values) <= MAX_DIM:
        raise InvalidRequestError(f"vector has {len(vector.values)} values, not 1..{MAX_DIM}")
    values = np.array(vector.values, dtype=np.float32)
    norm = float(np.linalg.norm(values.astype(np.float64)))
    if not norm <= MAX_NORM:  # also refuses NaN; inner products must not overflow
        raise InvalidRequestError(f"vector has length {norm:g}, not within 0..{MAX_NORM:g}")
    return RawVector(values)


MAX_VIEW_WEIGHT = 1_000.0
MAX_MIN_SCORE = 1e30


def options_of(request: pb.QueryRequest) -> QueryOptions:
    """Return what a request asks beyond the plain order by score; `PLAIN` itself where that is nothing.

    Raises:
        InvalidRequestError: a field is malformed, beyond its bound, or does not go with another.
    """
    if not (
        request.explain
        or request.exact
        or request.HasField("view_weights")
        or request.HasField("min_score")
        or request.HasField("text_query")
        or request.HasField("text_query_weight")
        or request.HasField("diversity")
    ):
        return PLAIN
    weights = _view_weights(request)
    if request.WhichOneof("subject") == "vector":
        for name, asked in (("view_weights", weights != PLAIN.view_weights), ("explain", request.explain)):
            if asked:
                raise InvalidRequestError(f"{name} does not go with vector: nothing is known of its views")
    return QueryOptions(
        weights,
        _within("min_score", request.min_score, -MAX_MIN_SCORE, MAX_MIN_SCORE)
        if request.HasField("min_score")
        else None,
        _text_query(request),
        _within("diversity", request.diversity, 0.0, 1.0) if request.HasField("diversity") else 1.0,
        request.explain,
        request.exact,
    )


def _view_weights(request: pb.QueryRequest) -> tuple[float, float, float]:
    """Return the weights of H, T and S; three zeros, as a message without fields has, mean none."""
    given = request.view_weights
    weights = (
        _within("view_weights.history", given.history, 0.0, MAX_VIEW_WEIGHT),
        _within("view_weights.text", given.text, 0.0, MAX_VIEW_WEIGHT),
        _within("view_weights.social", given.social, 0.0, MAX_VIEW_WEIGHT),
    )
    return weights if any(weights) else PLAIN.view_weights


def _text_query(request: pb.QueryRequest) -> TextQuery | None:
    if not request.HasField("text_query"):
        if request.HasField("text_query_weight"):
            raise InvalidRequestError(
                f"text_query_weight is {request.text_query_weight}, but there is no text_query"
            )
        return None
    text = checked_text("text_query", request.text_query)
    if not request.HasField("text_query_weight"):
        return TextQuery(text)
    return TextQuery(text, _within("text_query_weight", request.text_query_weight, 0.0, 1.0))


def _within(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:  # also refuses NaN
        raise InvalidRequestError(f"{name} is {value}, not in {least:g}..{most:g}")
    return value


_VIEW_OF = {"H": pb.VIEW_HISTORY, "T": pb.VIEW_TEXT, "S": pb.VIEW_SOCIAL}


def query_reply(found: Candidates) -> pb.QueryResponse:
    """Return candidates as packed parallel arrays."""
    shares = [_packed(found.shares, i) for i in range(len(VIEWS) + 1)]
    return pb.QueryResponse(
        item_ids=[] if found.people else found.item_ids,
        user_ids=found.item_ids if found.people else [],
        scores=found.scores.tolist(),
        history_shares=shares[0],
        text_shares=shares[1],
        social_shares=shares[2],
        query_shares=shares[3],
        prior_shares=found.prior.tolist() if found.prior is not None else [],
        views_used=[_VIEW_OF[view] for view in found.views_used],
        fallback=pb.FALLBACK_POPULARITY if found.fallback else pb.FALLBACK_NONE,
        exact=found.exact,
        query_id=uuid4().hex,
        model_id=found.model_id,
        index_id=found.index_id,
        timings=pb.Timings(
            views_ms=found.timings.views_ms,
            encode_ms=found.timings.encode_ms,
            search_ms=found.timings.search_ms,
        ),
        explanations=[_explanation(one) for one in found.explanations],
    )


def stream_reply(outcome: Candidates | Failure) -> pb.QueryStreamResponse:
    """Return candidates, or why there are none, as the reply to one request of a stream."""
    if isinstance(outcome, Failure):
        error = pb.QueryError(code=outcome.code, reason=outcome.reason, message=outcome.message)
        return pb.QueryStreamResponse(error=error)
    return pb.QueryStreamResponse(response=query_reply(outcome))


def encode_reply(user: EncodedUser) -> pb.EncodeUserResponse:
    """Return a user vector and its parts; an absent view's part is empty."""
    parts = [pb.Vector(values=part.tolist() if part.any() else []) for part in user.parts]
    return pb.EncodeUserResponse(
        vector=pb.Vector(values=user.vector.tolist()),
        history_part=parts[0],
        text_part=parts[1],
        social_part=parts[2],
        views_used=[_VIEW_OF[view] for view in user.views_used],
        model_id=user.model_id,
    )


def _packed(shares: FloatArray | None, view: int) -> list[float]:
    if shares is None or view >= shares.shape[1] or not np.any(shares[:, view]):
        return []
    column: list[float] = shares[:, view].tolist()
    return column


def _explanation(one: Explanation) -> pb.Explanation:
    events, texts, friends = (
        [pb.Contribution(name=source.name, value=source.value) for source in sources] for sources in one
    )
    return pb.Explanation(events=events, texts=texts, friends=friends)
