"""Wire messages of Ingest to rows, with the bounds of a request; rows are checked when they are written."""

import hashlib
from collections.abc import Sized
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from server.pb.triptych.v1 import ingest_pb2 as pb
from server.status import InvalidRequestError
from server.wire.bounds import MAX_ID_BYTES
from store.imports.files import FORMATS
from store.imports.run import ImportOptions
from store.imports.text_files import UTF_8
from store.imports.time_columns import AUTO
from store.state.packing import NO_TIME
from store.writes.request import Behaviors, Content, Deletion, Friends, Items, Request, Texts
from store.writes.rows import BAD_TIME, FIRST_TIME, LAST_TIME, BehaviorRow, FriendRow, ItemRow, TextRow

MAX_ROWS = 10_000
MAX_TEXT_ROWS = 1_000
MAX_REQUEST_ID_BYTES = 64

Write = (
    pb.PutItemsRequest
    | pb.DeleteItemsRequest
    | pb.AppendBehaviorsRequest
    | pb.AppendTextsRequest
    | pb.PutFriendsRequest
)


def request_of(message: Write) -> Request:
    """Return what a message asks to be written.

    Raises:
        InvalidRequestError: it has no rows, or too many, or its request id is too long.
    """
    content = _content(message)
    size = len(message.request_id.encode())
    if size > MAX_REQUEST_ID_BYTES:
        raise InvalidRequestError(
            f"request_id has {size} bytes, more than {MAX_REQUEST_ID_BYTES}", "request_id"
        )
    if not message.request_id:
        return Request(content)
    # With the kind of the request: an empty field more or less must not make two requests one.
    digest = hashlib.sha256(type(message).__name__.encode() + message.SerializeToString(deterministic=True))
    return Request(content, message.request_id, digest.hexdigest())


def person_of(message: pb.EraseUserRequest | pb.ExportUserRequest) -> str:
    """Return the id of the person that a message is about.  Raises: InvalidRequestError."""
    size = len(message.user_id.encode())
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidRequestError(f"user_id has {size} bytes, not 1..{MAX_ID_BYTES}", "user_id")
    return message.user_id


def folder_of(message: pb.ImportFolderRequest) -> tuple[Path, ImportOptions]:
    """Return the folder to import and how.  Raises: InvalidRequestError."""
    path = Path(message.path)
    options = ImportOptions(
        file_format=message.format or AUTO,
        strict=message.strict,
        encoding=message.encoding or UTF_8,
        times=message.times or AUTO,
        create_items=message.create_items,
    )
    if not path.is_absolute():
        raise InvalidRequestError(f"path {message.path!r} is not absolute", "path")
    if options.file_format not in (AUTO, *FORMATS):
        raise InvalidRequestError(
            f"format {message.format!r} is none of {AUTO}, {', '.join(FORMATS)}", "format"
        )
    return path, options


def _content(message: Write) -> Content:
    if isinstance(message, pb.AppendBehaviorsRequest):
        _bounded("behaviors", message.behaviors, MAX_ROWS)
        return Behaviors([_behavior(row) for row in message.behaviors])
    if isinstance(message, pb.AppendTextsRequest):
        _bounded("texts", message.texts, MAX_TEXT_ROWS)
        return Texts([TextRow(row.user_id, row.text, row.item_id, _ts(row)) for row in message.texts])
    if isinstance(message, pb.PutFriendsRequest):
        _bounded("friends", message.friends, MAX_ROWS)
        return Friends([_friend(row) for row in message.friends])
    if isinstance(message, pb.PutItemsRequest):
        _bounded("items", message.items, MAX_ROWS)
        return Items([_item(row) for row in message.items])
    _bounded("item_ids", message.item_ids, MAX_ROWS)
    return Deletion(list(message.item_ids))


def _bounded(field: str, rows: Sized, most: int) -> None:
    if not 1 <= len(rows) <= most:
        raise InvalidRequestError(f"{field} has {len(rows)} entries, not 1..{most}", field)


def _behavior(row: pb.BehaviorRow) -> BehaviorRow:
    weight = row.weight if row.HasField("weight") else 1.0
    return BehaviorRow(row.user_id, row.item_id, row.action or "interact", weight, _ts(row))


def _friend(row: pb.FriendRow) -> FriendRow:
    weight = row.weight if row.HasField("weight") else 1.0
    return FriendRow(row.user_id, row.friend_id, row.relation or "friend", weight, _ts(row))


def _item(row: pb.ItemRow) -> ItemRow:
    return ItemRow(
        item_id=row.item_id,
        title=row.title if row.HasField("title") else None,
        text=row.text if row.HasField("text") else None,
        kind=row.kind if row.HasField("kind") else None,
        attributes=row.attributes if row.HasField("attributes") else None,
        available=row.available if row.HasField("available") else True,
        updated_at=_time(row.updated_at) if row.HasField("updated_at") else NO_TIME,
    )


def _ts(row: pb.BehaviorRow | pb.TextRow | pb.FriendRow) -> int:
    return _time(row.ts) if row.HasField("ts") else NO_TIME


def _time(ts: Timestamp) -> int:
    """Return microseconds since 1970; what is no time comes out as one that every check refuses."""
    time = ts.seconds * 1_000_000 + ts.nanos // 1_000
    return time if 0 <= ts.nanos < 1_000_000_000 and FIRST_TIME <= time <= LAST_TIME else BAD_TIME
