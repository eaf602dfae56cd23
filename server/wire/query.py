"""Messages of a query to records and back, with every bound that a client could overstep."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from indexer.filters import Filter, FilterError, Moment, Number, Value, above, below
from indexer.index import VectorDimError
from server.query import (
    Candidates,
    EncodedUser,
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
)
from server.status import Failure, InvalidRequestError
from server.wire.packed import VIEW_OF, packed_reply
from store.records import Event, Friend, UserViews
from store.store import ItemNotFoundError
from store.tables import MAX_WEIGHT
from triptych_client.pb.v1 import triptych_pb2 as pb

DEFAULT_K = 10
MAX_K = 1_000
MAX_BATCH = 256
MAX_BATCH_K = 50_000  # replies of that size stay below the message limit
MAX_EXPLAINED = 5_000  # candidates of a batch, whose replies are ten times as large
MAX_EVENTS = 10_000
MAX_TEXTS = 1_000
MAX_FRIENDS = 1_000
MAX_DIM = 65_536
MAX_NORM = 1e12
MAX_VIEW_WEIGHT = 1_000.0
MAX_MIN_SCORE = 1e30
_TARGETS = frozenset(pb.Target.values())


def query_of(request: pb.QueryRequest, visible: Filter | None = None) -> Query:
    """Translate the request of one query.

    Args:
        request: of the query.
        visible: what its caller may see of items; None for all.

    Raises:
        InvalidRequestError: a field is missing, malformed or beyond its bound.
    """
    k = request.k or DEFAULT_K
    if k > MAX_K:
        raise InvalidRequestError(f"k is {k}, not in 1..{MAX_K}", "k")
    if request.offset + k > MAX_K:
        raise InvalidRequestError(f"offset {request.offset} and k {k} add up to more than {MAX_K}", "offset")
    index_id = checked_id("index_id", request.index_id) if request.index_id else ""
    exclude_seen = request.exclude_seen if request.HasField("exclude_seen") else True
    item_filter = filter_of(request.filter) if request.HasField("filter") else None
    if visible is not None:
        item_filter = visible if item_filter is None else visible.both(item_filter)
    target = _target(request)
    options, offset = options_of(request), request.offset
    return Query(
        _subject(request),
        k,
        exclude_seen,
        item_filter,
        options,
        target,
        offset,
        index_id,
        visible,
        request.min_commit,
    )


def compared_query(request: pb.QueryIndexRequest) -> Query:
    """Translate the query of an index that does not serve.  Raises: InvalidRequestError."""
    query = request.query
    if query.target == pb.TARGET_USERS:
        raise InvalidRequestError("target is TARGET_USERS: other indexes are asked for items", "query.target")
    for name in ("offset", "index_id"):
        if getattr(query, name):
            raise InvalidRequestError(f"{name} is not for other indexes", f"query.{name}")
    try:
        return query_of(query)
    except InvalidRequestError as error:
        raise InvalidRequestError(str(error), f"query.{error.field}" if error.field else "query") from error


def queries_of(request: pb.QueryBatchRequest, visible: Filter | None = None) -> list[Query]:
    """Translate the requests of a batch; an error names the position.  Raises: InvalidRequestError."""
    if not 1 <= len(request.requests) <= MAX_BATCH:
        raise InvalidRequestError(
            f"a batch has 1..{MAX_BATCH} requests, not {len(request.requests)}", "requests"
        )
    queries = []
    for position, one in enumerate(request.requests):
        try:
            queries.append(query_of(one, visible))
        except InvalidRequestError as error:
            place = f"requests[{position}]"
            field = f"{place}.{error.field}" if error.field else place
            raise InvalidRequestError(f"{place}: {error}", field) from error
    total = sum(query.k for query in queries)
    if total > MAX_BATCH_K:
        raise InvalidRequestError(f"the k of a batch add up to {total}, more than {MAX_BATCH_K}", "requests")
    explained = sum(query.k for query in queries if query.options.explain)
    if explained > MAX_EXPLAINED:
        raise InvalidRequestError(
            f"the k of a batch's explained requests add up to {explained}, more than {MAX_EXPLAINED}",
            "requests",
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
            case _, IndexChangedError() if query.index_id == error.index_id:
                return f"requests[{position}]"
    raise ValueError(f"none of {len(queries)} queries has to do with: {error}")


def user_of(request: pb.EncodeUserRequest | pb.PredictRequest) -> StoredUser | InlineViews:
    """Translate the person whom a request is about.  Raises: InvalidRequestError."""
    if request.WhichOneof("subject") == "user_id":
        return StoredUser(checked_id("user_id", request.user_id))
    if request.WhichOneof("subject") == "views":
        return InlineViews(_views(request.views))
    raise InvalidRequestError("no subject: set user_id or views", "subject")


def options_of(request: pb.QueryRequest) -> QueryOptions:
    """Translate the options of one query.

    Raises:
        InvalidRequestError: a field is malformed, beyond its bound, or does not go with another.
    """
    view_weights = _view_weights(request)
    if request.WhichOneof("subject") == "vector":
        weighted = view_weights != QueryOptions.view_weights
        for name, is_set in (("view_weights", weighted), ("explain", request.explain)):
            if is_set:
                raise InvalidRequestError(
                    f"{name} does not go with vector: nothing is known of its views", name
                )
    return QueryOptions(
        view_weights,
        _within("min_score", request.min_score, -MAX_MIN_SCORE, MAX_MIN_SCORE)
        if request.HasField("min_score")
        else None,
        _text_query(request),
        _within("diversity", request.diversity, 0.0, 1.0) if request.HasField("diversity") else 1.0,
        request.explain,
        request.exact,
    )


def query_reply(candidates: Candidates) -> pb.QueryResponse:
    """Translate candidates to packed parallel arrays."""
    return pb.QueryResponse.FromString(packed_reply(candidates))


def stream_reply(outcome: Candidates | Failure) -> pb.QueryStreamResponse:
    """Translate candidates, or the failure to find them, to the reply to one request of a stream."""
    if isinstance(outcome, Failure):
        error = pb.QueryError(
            code=outcome.code, reason=outcome.reason, message=outcome.message, field=outcome.field
        )
        return pb.QueryStreamResponse(error=error)
    return pb.QueryStreamResponse(response=query_reply(outcome))


def encode_reply(user: EncodedUser) -> pb.EncodeUserResponse:
    """Translate a user vector and its parts; an absent view's part is empty."""
    parts = [pb.Vector(values=part.tolist() if part.any() else []) for part in user.parts]
    return pb.EncodeUserResponse(
        vector=pb.Vector(values=user.vector.tolist()),
        history_part=parts[0],
        text_part=parts[1],
        social_part=parts[2],
        views_used=[VIEW_OF[view] for view in user.views_used],
        model_id=user.model_id,
    )


def _target(request: pb.QueryRequest) -> Target:
    """Return whether items or users are searched, and refuse the options that do not go with users."""
    if request.target not in _TARGETS:
        raise InvalidRequestError(
            f"target is {request.target}, which is none of TARGET_ITEMS, TARGET_USERS", "target"
        )
    if request.target != pb.TARGET_USERS:
        return Target.ITEMS
    for name in ("filter", "view_weights", "min_score", "text_query", "text_query_weight", "diversity"):
        if request.HasField(name):
            raise InvalidRequestError(f"{name} does not go with TARGET_USERS", name)
    if request.explain:
        raise InvalidRequestError("explain does not go with TARGET_USERS", "explain")
    return Target.USERS


def _subject(request: pb.QueryRequest) -> Subject:
    match request.WhichOneof("subject"):
        case "user_id":
            return StoredUser(checked_id("user_id", request.user_id))
        case "views":
            return InlineViews(_views(request.views))
        case "item_id":
            return SimilarTo(checked_id("item_id", request.item_id))
        case "text":
            return FreeText(checked_text("text", request.text))
        case "vector":
            return _vector(request.vector)
    raise InvalidRequestError("no subject: set one of user_id, views, item_id, text, vector", "subject")


def _views(views: pb.Views) -> UserViews:
    for name, values, most in (
        ("events", views.events, MAX_EVENTS),
        ("texts", views.texts, MAX_TEXTS),
        ("friends", views.friends, MAX_FRIENDS),
    ):
        if len(values) > most:
            raise InvalidRequestError(
                f"views.{name} has {len(values)} entries, more than {most}", f"views.{name}"
            )
    friends: dict[str, float] = {}  # several ties to one friend add up, as they do in the store
    for i, friend in enumerate(views.friends):
        friend_id = checked_id(f"views.friends[{i}].friend_id", friend.friend_id)
        friends[friend_id] = friends.get(friend_id, 0.0) + _weight(f"views.friends[{i}]", friend)
    return UserViews(
        history=tuple(_event(i, event) for i, event in enumerate(views.events)),
        texts=tuple(checked_text(f"views.texts[{i}]", text) for i, text in enumerate(views.texts)),
        friends=tuple(Friend(friend_id, weight, ()) for friend_id, weight in sorted(friends.items())),
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
        raise InvalidRequestError(f"{place}.weight is {weight}, not in 0..{MAX_WEIGHT:g}", f"{place}.weight")
    return weight


def _vector(vector: pb.Vector) -> RawVector:
    if not 1 <= len(vector.values) <= MAX_DIM:
        raise InvalidRequestError(
            f"vector has {len(vector.values)} values, not 1..{MAX_DIM}", "vector.values"
        )
    values = np.array(vector.values, dtype=np.float32)
    norm = float(np.linalg.norm(values.astype(np.float64)))
    if not norm <= MAX_NORM:  # also refuses NaN; inner products must not overflow
        raise InvalidRequestError(f"vector has length {norm:g}, not within 0..{MAX_NORM:g}", "vector.values")
    return RawVector(values)


def _view_weights(request: pb.QueryRequest) -> tuple[float, float, float]:
    """Return the weights of H, T and S; three zeros, as in a message without fields, mean the default."""
    if not request.HasField("view_weights"):
        return QueryOptions.view_weights
    weights = (
        _within("view_weights.history", request.view_weights.history, 0.0, MAX_VIEW_WEIGHT),
        _within("view_weights.text", request.view_weights.text, 0.0, MAX_VIEW_WEIGHT),
        _within("view_weights.social", request.view_weights.social, 0.0, MAX_VIEW_WEIGHT),
    )
    return weights if any(weights) else QueryOptions.view_weights


def _text_query(request: pb.QueryRequest) -> TextQuery | None:
    if not request.HasField("text_query"):
        if request.HasField("text_query_weight"):
            raise InvalidRequestError(
                f"text_query_weight is {request.text_query_weight}, but there is no text_query",
                "text_query_weight",
            )
        return None
    text = checked_text("text_query", request.text_query)
    if not request.HasField("text_query_weight"):
        return TextQuery(text)
    return TextQuery(text, _within("text_query_weight", request.text_query_weight, 0.0, 1.0))


def _within(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:  # also refuses NaN
        raise InvalidRequestError(f"{name} is {value}, not in {least:g}..{most:g}", name)
    return value


MAX_ID_BYTES = 256
MAX_TEXT_BYTES = 100_000

_FIRST_SECOND = -62_135_596_800  # 0001-01-01, also the first in the store
_LAST_SECOND = 253_402_300_799  # 9999-12-31


def checked_id(place: str, value: str) -> str:
    """Check the bytes of an id, and return it.  Raises: InvalidRequestError."""
    size = len(value.encode())
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidRequestError(f"{place} has {size} bytes, not 1..{MAX_ID_BYTES}", place)
    return value


def checked_text(place: str, value: str) -> str:
    """Check the bytes of a text, and that it is not blank; return it.  Raises: InvalidRequestError."""
    size = len(value.encode())
    if size > MAX_TEXT_BYTES:
        raise InvalidRequestError(f"{place} has {size} bytes, more than {MAX_TEXT_BYTES}", place)
    if not value.strip():
        raise InvalidRequestError(f"{place} is blank", place)
    return value


def checked_time(place: str, ts: Timestamp) -> None:
    """Check that a time is within its bounds.  Raises: InvalidRequestError."""
    if not (_FIRST_SECOND <= ts.seconds <= _LAST_SECOND and 0 <= ts.nanos < 1_000_000_000):
        raise InvalidRequestError(
            f"{place} is not within the years 1 to 9999: {ts.seconds} s, {ts.nanos} ns", place
        )


MAX_KINDS = 100
MAX_CONDITIONS = 32
MAX_VALUES = 1_000
MAX_FILTER_IDS = 10_000
MAX_VALUE_BYTES = 1_000

_ANY_NUMBER = (-math.inf, math.inf)
_ANY_TIME = (Moment(-(2**63)), Moment(2**63 - 1))


def filter_of(message: pb.Filter) -> Filter | None:
    """Translate a filter; None for a message without a condition.

    Raises:
        InvalidRequestError: a field is malformed or beyond its bound.
    """
    _bounded("filter.kinds", len(message.kinds), MAX_KINDS)
    _bounded("filter.attributes", len(message.attributes), MAX_CONDITIONS)
    conditions = [_condition(f"filter.attributes[{i}]", one) for i, one in enumerate(message.attributes)]
    try:
        item_filter = Filter(
            kinds=tuple(_text(f"filter.kinds[{i}]", kind) for i, kind in enumerate(message.kinds)),
            equals=tuple((one.name, one.any_of) for one in conditions if one.any_of),
            ranges=tuple((one.name, *one.numbers) for one in conditions if one.numbers != _ANY_NUMBER),
            allow=tuple(_ids("filter.allow", message.allow)) if message.HasField("allow") else None,
            deny=tuple(_ids("filter.deny", message.deny)),
            times=tuple((one.name, *one.times) for one in conditions if one.times != _ANY_TIME),
            unequal=tuple((one.name, one.none_of) for one in conditions if one.none_of),
        )
    except FilterError as error:
        raise InvalidRequestError(f"filter: {error}", "filter.attributes") from error
    return item_filter if item_filter != Filter() else None


@dataclass(frozen=True)
class _Condition:
    name: str
    any_of: tuple[Value, ...]
    none_of: tuple[Value, ...]
    numbers: tuple[Number, Number]
    times: tuple[Moment, Moment]


def _condition(place: str, one: pb.AttributeCondition) -> _Condition:
    name = _text(f"{place}.name", one.name)
    condition = _Condition(
        name, _values(place, one, "any_of"), _values(place, one, "none_of"), *_ends(place, one)
    )
    bounded = condition.numbers != _ANY_NUMBER or condition.times != _ANY_TIME
    if not condition.any_of and not condition.none_of and not bounded:
        raise InvalidRequestError(
            f"{place} asks nothing of {name!r}: set any_of, none_of, at_least, at_most, lower or upper",
            place,
        )
    return condition


def _values(place: str, one: pb.AttributeCondition, field: str) -> tuple[Value, ...]:
    values = getattr(one, field)
    _bounded(f"{place}.{field}", len(values), MAX_VALUES)
    return tuple(_value(f"{place}.{field}[{i}]", value) for i, value in enumerate(values))


def _ends(place: str, one: pb.AttributeCondition) -> tuple[tuple[Number, Number], tuple[Moment, Moment]]:
    """Return the least and greatest number, and the first and last moment, that pass the condition."""
    least: list[Number] = [one.at_least] if one.HasField("at_least") else []
    greatest: list[Number] = [one.at_most] if one.HasField("at_most") else []
    first, last = _ANY_TIME
    if one.HasField("lower"):
        end = _end(f"{place}.lower", one.lower)
        if isinstance(end, Moment):
            first = Moment(end + one.lower.exclusive)
        else:
            least.append(above(end) if one.lower.exclusive else end)
    if one.HasField("upper"):
        end = _end(f"{place}.upper", one.upper)
        if isinstance(end, Moment):
            last = Moment(end - one.upper.exclusive)
        else:
            greatest.append(below(end) if one.upper.exclusive else end)
    for end in least + greatest:
        if math.isnan(end):
            raise InvalidRequestError(
                f"{place}: the range of attribute {one.name!r} is empty: NaN is no number",
                place,
            )
    return (max(least, default=-math.inf), min(greatest, default=math.inf)), (first, last)


def _end(place: str, bound: pb.Bound) -> Number | Moment:
    value = _value(f"{place}.value", bound.value)
    if isinstance(value, str | bool):
        raise InvalidRequestError(
            f"{place}.value has no order: set number, integer, unsigned or time", f"{place}.value"
        )
    return value


def _value(place: str, value: pb.AttributeValue) -> Value:
    match value.WhichOneof("value"):
        case "text":
            return _text(place, value.text, least=0)
        case "number":
            if math.isnan(value.number):
                raise InvalidRequestError(f"{place} is no number", place)
            return value.number
        case "truth":
            return value.truth
        case "integer":
            return value.integer
        case "unsigned":
            return value.unsigned
        case "time":
            checked_time(place, value.time)
            return Moment(value.time.seconds * 1_000_000 + value.time.nanos // 1_000)
    raise InvalidRequestError(f"{place} is empty: set text, number, truth, integer, unsigned or time", place)


def _ids(place: str, ids: pb.ItemIds) -> Iterator[str]:
    _bounded(f"{place}.item_ids", len(ids.item_ids), MAX_FILTER_IDS)
    for i, item_id in enumerate(ids.item_ids):
        yield checked_id(f"{place}.item_ids[{i}]", item_id)


def _text(place: str, value: str, least: int = 1) -> str:
    size = len(value.encode())
    if not least <= size <= MAX_VALUE_BYTES:
        raise InvalidRequestError(f"{place} has {size} bytes, not {least}..{MAX_VALUE_BYTES}", place)
    return value


def _bounded(place: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidRequestError(f"{place} has {count} entries, more than {most}", place)
