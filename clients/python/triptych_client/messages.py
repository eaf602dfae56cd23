"""Rows and queries of clients, as request messages of the API; and an export of a user, as rows."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict, TypeVar
from uuid import uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import triptych_pb2 as pb

_Row = TypeVar("_Row")
_Request = TypeVar("_Request")


@dataclass(frozen=True, slots=True)
class Item:
    """An item; a time without a zone is UTC.

    `attributes` is what JSON can hold, by name; `kind` is such as film or article. `vector` is an embedding
    that the caller brings, as long as those of other items: up to 8,192 finite numbers, not all zero.
    """

    item_id: str
    title: str | None = None
    text: str | None = None
    kind: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    available: bool = True
    updated_at: datetime | None = None
    vector: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Behavior:
    """An action of a user on an item; a time without a zone is UTC."""

    user_id: str
    item_id: str
    action: str = "interact"
    weight: float = 1.0
    ts: datetime | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A text that a user wrote, about an item where one is named."""

    user_id: str
    text: str
    item_id: str = ""
    ts: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tie:
    """A tie of a user to a friend."""

    user_id: str
    friend_id: str
    relation: str = "friend"
    weight: float = 1.0
    ts: datetime | None = None


@dataclass(frozen=True, slots=True)
class Impression:
    """An item that was shown to a user, at a time or for a query, at a position from 0 in a list."""

    user_id: str
    item_id: str
    ts: datetime | None = None
    position: int | None = None
    query_id: str = ""
    clicked: bool = False


@dataclass(frozen=True, slots=True)
class Consent:
    """What a user allows to be done with a view, H, T or S; None leaves it as it is."""

    user_id: str
    view: str
    use: bool | None = None
    share: bool | None = None


class QueryFields(TypedDict, total=False):
    """The fields of QueryRequest; exactly one of the first five, the subject, is given."""

    user_id: str
    views: pb.Views
    item_id: str
    text: str
    vector: Sequence[float]
    k: int
    exclude_seen: bool
    filter: pb.Filter
    target: "pb.Target.ValueType"
    view_weights: pb.ViewWeights
    min_score: float
    text_query: str
    text_query_weight: float
    diversity: float
    explain: bool
    exact: bool
    offset: int
    index_id: str
    min_commit: int


def query_message(fields: QueryFields) -> pb.QueryRequest:
    """Return the request of one query."""
    given = dict(fields)
    if "vector" in fields:
        given["vector"] = pb.Vector(values=fields["vector"])
    return pb.QueryRequest(**given)  # type: ignore[arg-type]


def encode_message(subject: str | pb.Views) -> pb.EncodeUserRequest:
    """Return the request to encode a stored user, or views."""
    if isinstance(subject, str):
        return pb.EncodeUserRequest(user_id=subject)
    return pb.EncodeUserRequest(views=subject)


def predict_message(
    subject: str | pb.Views,
    item_ids: Sequence[str],
    head: "pb.Head.ValueType",
    positions: Sequence[int],
    k: int,
) -> pb.PredictRequest:
    """Return the request to predict of a stored user, or of views."""
    request = pb.PredictRequest(item_ids=item_ids, head=head, positions=positions, k=k)
    if isinstance(subject, str):
        request.user_id = subject
    else:
        request.views.CopyFrom(subject)
    return request


def behaviors_message(rows: Iterable[Behavior], request_id: str) -> ingest.AppendBehaviorsRequest:
    """Return the request to append behaviours."""
    behaviors = [
        ingest.BehaviorRow(
            user_id=row.user_id,
            item_id=row.item_id,
            action=row.action,
            weight=row.weight,
            ts=_timestamp(row.ts),
        )
        for row in rows
    ]
    return ingest.AppendBehaviorsRequest(behaviors=behaviors, request_id=_id_or_new(request_id))


def texts_message(rows: Iterable[Text], request_id: str) -> ingest.AppendTextsRequest:
    """Return the request to append texts."""
    texts = [
        ingest.TextRow(user_id=row.user_id, text=row.text, item_id=row.item_id, ts=_timestamp(row.ts))
        for row in rows
    ]
    return ingest.AppendTextsRequest(texts=texts, request_id=_id_or_new(request_id))


def ties_message(rows: Iterable[Tie], request_id: str) -> ingest.PutFriendsRequest:
    """Return the request to put ties."""
    friends = [
        ingest.FriendRow(
            user_id=row.user_id,
            friend_id=row.friend_id,
            relation=row.relation,
            weight=row.weight,
            ts=_timestamp(row.ts),
        )
        for row in rows
    ]
    return ingest.PutFriendsRequest(friends=friends, request_id=_id_or_new(request_id))


def impressions_message(rows: Iterable[Impression], request_id: str) -> ingest.AppendImpressionsRequest:
    """Return the request to append impressions."""
    impressions = [
        ingest.ImpressionRow(
            user_id=row.user_id,
            item_id=row.item_id,
            ts=_timestamp(row.ts),
            position=row.position,
            query_id=row.query_id,
            clicked=row.clicked,
        )
        for row in rows
    ]
    return ingest.AppendImpressionsRequest(impressions=impressions, request_id=_id_or_new(request_id))


def consents_message(rows: Iterable[Consent], request_id: str) -> ingest.SetConsentRequest:
    """Return the request to set consents."""
    consents = [
        ingest.ConsentRow(user_id=row.user_id, view=row.view, use=row.use, share=row.share) for row in rows
    ]
    return ingest.SetConsentRequest(consents=consents, request_id=_id_or_new(request_id))


def items_message(rows: Iterable[Item], request_id: str) -> ingest.PutItemsRequest:
    """Return the request to put items."""
    items = [
        ingest.ItemRow(
            item_id=row.item_id,
            title=row.title,
            text=row.text,
            kind=row.kind,
            attributes=json.dumps(dict(row.attributes)),
            available=row.available,
            updated_at=_timestamp(row.updated_at),
            vector=row.vector,
        )
        for row in rows
    ]
    return ingest.PutItemsRequest(items=items, request_id=_id_or_new(request_id))


def deletions_message(item_ids: Iterable[str], request_id: str) -> ingest.DeleteItemsRequest:
    """Return the request to delete items."""
    return ingest.DeleteItemsRequest(item_ids=list(item_ids), request_id=_id_or_new(request_id))


def stream_messages(
    message_of: Callable[[Iterable[_Row], str], _Request], batches: Iterable[Iterable[_Row]], request_id: str
) -> Iterator[_Request]:
    """Yield a request for each batch of rows, drawn one by one; ids are request_id-0, request_id-1, etc."""
    name = _id_or_new(request_id)
    for number, batch in enumerate(batches):
        yield message_of(batch, f"{name}-{number}")


def user_export(parts: Iterable[ingest.ExportUserResponse]) -> dict[str, list[Mapping[str, object]]]:
    """Return the rows of an export of a user by table, joined from the messages that it came in."""
    tables: dict[str, list[Mapping[str, object]]] = {}
    pieces: list[str] = []  # of a row that goes on in the next message
    for part in parts:
        for place, piece in enumerate(part.rows, start=1):
            pieces.append(piece)
            if place < len(part.rows) or not part.unfinished:
                tables.setdefault(part.table, []).append(json.loads("".join(pieces)))
                pieces.clear()
    return tables


@dataclass(frozen=True)
class UserRows:
    """A part of the rows of one table about a user.

    Attributes:
        rows: the part.
        total: the number of all of them.
    """

    rows: list[Mapping[str, object]]
    total: int


def user_rows(parts: Iterable[ingest.ExportUserResponse]) -> dict[str, UserRows]:
    """Return the rows of a part of an export of a user by table, with the number of all of them."""
    known = list(parts)
    rows = user_export(known)
    totals = {part.table: part.total for part in reversed(known)}  # the first message of a table has it
    return {table: UserRows(rows.get(table, []), total) for table, total in reversed(totals.items())}


@dataclass(frozen=True)
class MapOfItems:
    """Items as points in two dimensions, in parallel arrays.

    Attributes:
        axes: on which vectors of people are placed, too, and what the groups are.
        item_ids: of the points.
        places: x and y of each in turn, float32, little-endian.
        groups: a byte each: the number of its group; 255 where it has none of them.
    """

    axes: pb.MapAxes
    item_ids: list[str]
    places: bytes
    groups: bytes


def map_of_items(parts: Iterable[pb.ReadMapResponse]) -> MapOfItems:
    """Return the points that several messages brought."""
    known = list(parts)
    axes = next((part.axes for part in known if part.HasField("axes")), pb.MapAxes())
    points = [part.points for part in known if part.HasField("points")]
    return MapOfItems(
        axes,
        [item_id for some in points for item_id in some.item_ids],
        b"".join(some.places for some in points),
        b"".join(some.groups for some in points),
    )


def _id_or_new(request_id: str) -> str:
    return request_id or uuid4().hex


def _timestamp(ts: datetime | None) -> Timestamp | None:
    if ts is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(ts)
    return stamp
