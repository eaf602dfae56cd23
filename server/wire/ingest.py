"""Messages of Ingest: requests as rows, within the bounds of a request, and results as replies."""

import hashlib
from collections.abc import Iterator, Sequence, Sized
from pathlib import Path

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from server.live import Erased
from server.status import InvalidRequestError, NotThisMachineError
from server.wire.query import MAX_ID_BYTES
from store.attribute_summary import AttributeSummary, CatalogSummary, ValueCounts
from store.catalog import ItemSearch, StoredItem
from store.imports import AUTO, FORMATS, UTF_8, ImportOptions, ImportReport
from store.masking import Masking, UnknownMaskingError
from store.privacy import USER_TABLES, RowPart
from store.state import NO_TIME
from store.tables import MAX_VECTOR_LENGTH
from store.writes import (
    BAD_TIME,
    FIRST_TIME,
    LAST_TIME,
    BehaviorRow,
    Behaviors,
    ConsentChanges,
    ConsentRow,
    Content,
    Deletion,
    EventBatch,
    EventEntry,
    FloatArray,
    FriendRow,
    Friends,
    ImpressionRow,
    Impressions,
    ItemRow,
    Items,
    LogPosition,
    LogStanding,
    Request,
    TextRow,
    Texts,
    WriteResult,
)
from triptych_client.pb.v1 import ingest_pb2 as pb

MAX_ROWS = 10_000
MAX_TEXT_ROWS = 1_000
MAX_REQUEST_ID_BYTES = 64
MAX_EVENTS = 10_000  # of a batch
MAX_EVENT_ROWS = 20_000  # of a batch of more than one event
MAX_LOG_BYTES = 256  # of the name of a log, and of an epoch
MAX_SEQUENCE = 2**63 - 1
FOUND, MAX_FOUND = 100, 1_000  # items that one search returns, where it does not say how many, and at most
MAX_KINDS = 100
MAX_PART_ROWS = 1_000  # of each table, where not all rows of a person are asked for
MAX_PART_BYTES = 3_000_000  # of rows; a client that sets no limit of its own takes messages below 4 MiB
_ROW_BYTES = 8  # of a message, beside the text of a row

_LOOPBACK = ("ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D", "unix:")

Write = (
    pb.PutItemsRequest
    | pb.DeleteItemsRequest
    | pb.AppendBehaviorsRequest
    | pb.AppendTextsRequest
    | pb.PutFriendsRequest
    | pb.AppendImpressionsRequest
    | pb.SetConsentRequest
)


def request_of(message: Write) -> Request:
    """Return the rows of a message as a request to write; each row is checked when it is written.

    Raises:
        InvalidRequestError: it has no rows, or too many, or its request id is too long, or the vector of an
            item is unusable.
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


def log_of(message: pb.ApplyLogRequest) -> str:
    """Return the name of the log in a message.  Raises: InvalidRequestError."""
    size = len(message.log.encode())
    if not 1 <= size <= MAX_LOG_BYTES:
        raise InvalidRequestError(f"log has {size} bytes, not 1..{MAX_LOG_BYTES}", "log")
    return message.log


def batch_of(message: pb.ApplyLogRequest) -> Request:
    """Return the events of a message as a request; one that cannot be read is refused when it is written.

    Raises:
        InvalidRequestError: there are too many of them or of their rows, or their sequences do not ascend
            from `after` to `through`.
    """
    after, through = _position(message.after, "after"), _position(message.through, "through")
    if through.epoch == after.epoch and through.sequence <= after.sequence:
        raise InvalidRequestError(
            f"through is at {through.sequence}, not behind {after.sequence}", "through.sequence"
        )
    _at_most("entries", message.entries, MAX_EVENTS)
    last = after.sequence if through.epoch == after.epoch else 0
    for number, entry in enumerate(message.entries):
        if not last < entry.sequence <= through.sequence:
            said = f"sequence {entry.sequence} is not between {last} and {through.sequence}"
            raise InvalidRequestError(said, f"entries[{number}].sequence")
        last = entry.sequence
    request = Request(EventBatch(log_of(message), after, through, [_event(one) for one in message.entries]))
    if len(message.entries) > 1 and request.rows > MAX_EVENT_ROWS:
        raise InvalidRequestError(
            f"entries have {request.rows} rows together, more than {MAX_EVENT_ROWS}", "entries"
        )
    return request


def standing_reply(standing: LogStanding, home_id: str) -> pb.ApplyLogResponse:
    """Return the reply that says where the store of a home stands in a log."""
    epoch, sequence = standing.position
    return pb.ApplyLogResponse(
        position=pb.LogPosition(epoch=epoch, sequence=sequence),
        rejected=[
            pb.RejectedEvent(sequence=one.sequence, reason=one.reason, position=one.position)
            for one in standing.refusals
        ],
        events=standing.events,
        inserted=standing.inserted,
        updated=standing.updated,
        unchanged=standing.unchanged,
        rejected_rows=standing.rejected,
        home_id=home_id,
    )


def user_of(message: pb.EraseUserRequest | pb.ExportUserRequest) -> str:
    """Return the user id in a message.  Raises: InvalidRequestError."""
    size = len(message.user_id.encode())
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidRequestError(f"user_id has {size} bytes, not 1..{MAX_ID_BYTES}", "user_id")
    return message.user_id


def part_of(message: pb.ExportUserRequest) -> RowPart | None:
    """Return which part of the rows a message asks for; None for all.  Raises: InvalidRequestError."""
    if message.limit > MAX_PART_ROWS:
        raise InvalidRequestError(f"limit is {message.limit}, more than {MAX_PART_ROWS}", "limit")
    if message.table and message.table not in USER_TABLES:
        raise InvalidRequestError(f"table is none of {', '.join(USER_TABLES)}", "table")
    if message.offset and not (message.limit and message.table):
        raise InvalidRequestError("offset goes with a limit and a table", "offset")
    if not (message.limit or message.table):
        return None
    return RowPart(message.limit or None, message.table, message.offset)


def item_search_of(message: pb.FindItemsRequest, *, available: bool = False) -> ItemSearch:
    """Return the search in a message; only of available items where that is said.

    Raises:
        InvalidRequestError: something is beyond its bound.
    """
    _at_most("item_ids", message.item_ids, MAX_FOUND)
    _at_most("kinds", message.kinds, MAX_KINDS)
    for name in ("contains", "after"):
        size = len(getattr(message, name).encode())
        if size > MAX_ID_BYTES:
            raise InvalidRequestError(f"{name} has {size} bytes, more than {MAX_ID_BYTES}", name)
    if message.limit > MAX_FOUND:
        raise InvalidRequestError(f"limit is {message.limit}, more than {MAX_FOUND}", "limit")
    return ItemSearch(
        item_ids=tuple(message.item_ids),
        contains=message.contains,
        kinds=tuple(message.kinds),
        after=message.after,
        limit=message.limit or FOUND,
        brief=message.brief,
        available=available,
    )


def found_reply(items: Sequence[StoredItem], more: bool) -> pb.FindItemsResponse:
    """Return the reply that brings items, and whether others follow."""
    return pb.FindItemsResponse(items=map(_row_of, items), more=more)


def attributes_reply(found: CatalogSummary) -> pb.ListAttributesResponse:
    """Return the reply that tells of kinds and attributes."""
    return pb.ListAttributesResponse(
        items=found.items,
        looked_at=found.looked_at,
        kinds=_counts(found.kinds),
        attributes=map(_summary_of, found.attributes),
        more_attributes=found.more_attributes,
    )


def _summary_of(one: AttributeSummary) -> pb.AttributeSummary:
    summary = pb.AttributeSummary(
        name=one.name,
        type=pb.AttributeType.Value(f"ATTRIBUTE_TYPE_{one.type.upper()}"),
        items=one.items,
        values=one.values,
        frequent=_counts(one.frequent),
        least=one.least,
        greatest=one.greatest,
        whole=one.whole and one.type == "number",
    )
    if one.first is not None and one.last is not None:
        summary.first.FromDatetime(one.first)
        summary.last.FromDatetime(one.last)
    return summary


def _counts(values: ValueCounts) -> list[pb.ValueCount]:
    return [pb.ValueCount(value=value, items=items) for value, items in values]


def _row_of(item: StoredItem) -> pb.ItemRow:
    row = pb.ItemRow(
        item_id=item.item_id,
        title=item.title,
        text=item.text,
        kind=item.kind,
        attributes=item.attributes,
        available=item.available,
    )
    if item.updated_at is not None:
        row.updated_at.FromDatetime(item.updated_at)
    return row


def folder_of(message: pb.ImportFolderRequest, peer: str) -> tuple[Path, ImportOptions]:
    """Return the folder in a message, and the options of its import.

    Args:
        message: a request.
        peer: address of the caller.

    Raises:
        NotThisMachineError: the caller is on another machine.
        InvalidRequestError: the path is not absolute, or the format or a kind to mask is unknown.
    """
    if not peer.startswith(_LOOPBACK):
        raise NotThisMachineError(peer)
    path = Path(message.path)
    options = ImportOptions(
        file_format=message.format or AUTO,
        strict=message.strict,
        encoding=message.encoding or UTF_8,
        times=message.times or AUTO,
        create_items=message.create_items,
        masking=_masking(message),
    )
    if not path.is_absolute():
        raise InvalidRequestError(f"path {message.path!r} is not absolute", "path")
    if options.file_format not in (AUTO, *FORMATS):
        raise InvalidRequestError(
            f"format {message.format!r} is none of {AUTO}, {', '.join(FORMATS)}", "format"
        )
    return path, options


def _masking(message: pb.ImportFolderRequest) -> Masking:
    try:
        return Masking(tuple(message.mask))
    except UnknownMaskingError as error:
        raise InvalidRequestError(str(error), "mask") from error


def write_reply(done: WriteResult, commit: int) -> pb.WriteResponse:
    """Return the result of a request, and the commit that has it, as a reply."""
    return pb.WriteResponse(
        commit=commit,
        inserted=done.inserted,
        updated=done.updated,
        unchanged=done.unchanged,
        rejected=[pb.RejectedRow(position=i, reason=reason) for i, reason in done.rejected],
        repeated_request=done.repeated,
        without_text=done.without_text,
        masked=done.masked,
    )


def add_to(total: pb.StreamResponse, done: WriteResult) -> None:
    """Add the result of the next request of a stream to its reply, which names `MAX_ROWS` rejects."""
    total.inserted += done.inserted
    total.updated += done.updated
    total.unchanged += done.unchanged
    total.rejected_rows += len(done.rejected)
    total.repeated_requests += done.repeated
    total.without_text += done.without_text
    for kind, count in done.masked.items():
        total.masked[kind] += count
    room = MAX_ROWS - len(total.rejected)
    total.rejected.extend(
        pb.RejectedRow(position=i, reason=reason, request=total.requests)
        for i, reason in done.rejected[:room]
    )
    total.requests += 1


def erase_reply(done: Erased, commit: int) -> pb.EraseUserResponse:
    """Return the result of an erasure, and the commit that has it, as a reply."""
    return pb.EraseUserResponse(
        removed=done.removed,
        models=done.models,
        unknown_models=done.unknown_models,
        indexes=done.indexes,
        commit=commit,
    )


def import_reply(report: ImportReport, commit: int) -> pb.ImportFolderResponse:
    """Return the report of an import, and the commit that has it, as a reply."""
    tables = [
        pb.TableReport(
            table=name,
            file=str(one.file),
            read=one.read,
            inserted=one.inserted,
            updated=one.updated,
            unchanged=one.unchanged,
            rejected=one.rejected,
            ignored_columns=one.ignored_columns,
            rejects_file=str(one.rejects_file or ""),
            without_text=one.without_text,
            items_made=one.items_made,
            remarks=one.remarks,
            masked=one.masked,
        )
        for name, one in report.tables.items()
    ]
    return pb.ImportFolderResponse(
        import_id=report.import_id, tables=tables, seconds=report.seconds, commit=commit
    )


def export_replies(
    table: str, rows: Sequence[str], total: int | None = None
) -> Iterator[pb.ExportUserResponse]:
    """Yield rows of a table in replies of at most `MAX_PART_BYTES`; a longer row goes on in the next one.

    The first reply has the number of all rows of the table where it is given, also where none of them comes.
    """
    part, size = pb.ExportUserResponse(table=table, total=total or 0), 0
    for row in rows:
        *first, last = _pieces(row)
        for piece, unfinished in (*((piece, True) for piece in first), (last, False)):
            needed = len(piece.encode()) + _ROW_BYTES
            if part.rows and size + needed > MAX_PART_BYTES:
                yield part
                part, size = pb.ExportUserResponse(table=table), 0
            part.rows.append(piece)
            size += needed
            if unfinished:
                part.unfinished = True
                yield part
                part, size = pb.ExportUserResponse(table=table), 0
    if part.rows or part.total:
        yield part


def _content(message: Write) -> Content:
    content: Content
    match message:
        case pb.AppendBehaviorsRequest():
            _bounded("behaviors", message.behaviors, MAX_ROWS)
            content = Behaviors([_behavior(row) for row in message.behaviors])
        case pb.AppendTextsRequest():
            _bounded("texts", message.texts, MAX_TEXT_ROWS)
            content = Texts([TextRow(row.user_id, row.text, row.item_id, _ts(row)) for row in message.texts])
        case pb.PutFriendsRequest():
            _bounded("friends", message.friends, MAX_ROWS)
            content = Friends([_friend(row) for row in message.friends])
        case pb.AppendImpressionsRequest():
            _bounded("impressions", message.impressions, MAX_ROWS)
            content = Impressions([_impression(row) for row in message.impressions])
        case pb.SetConsentRequest():
            _bounded("consents", message.consents, MAX_ROWS)
            content = ConsentChanges([_consent(row) for row in message.consents])
        case pb.PutItemsRequest():
            _bounded("items", message.items, MAX_ROWS)
            content = Items([_item(row, position) for position, row in enumerate(message.items)])
        case pb.DeleteItemsRequest():
            _bounded("item_ids", message.item_ids, MAX_ROWS)
            content = Deletion(list(message.item_ids))
    return content


def _position(message: pb.LogPosition, field: str) -> LogPosition:
    size = len(message.epoch.encode())
    if size > MAX_LOG_BYTES:
        raise InvalidRequestError(f"epoch has {size} bytes, more than {MAX_LOG_BYTES}", f"{field}.epoch")
    if message.sequence > MAX_SEQUENCE:
        raise InvalidRequestError(
            f"sequence is {message.sequence}, more than {MAX_SEQUENCE}", f"{field}.sequence"
        )
    return LogPosition(message.epoch, message.sequence)


def _event(entry: pb.LogEntry) -> EventEntry:
    published = _time(entry.published) if entry.HasField("published") else NO_TIME
    write = entry.event.WhichOneof("write")
    if published == BAD_TIME:
        return EventEntry(entry.sequence, NO_TIME, None, "unparsable_time")
    if write is None:
        return EventEntry(entry.sequence, published, None, "empty_event")
    try:
        return EventEntry(entry.sequence, published, request_of(getattr(entry.event, write)))
    except InvalidRequestError:
        return EventEntry(entry.sequence, published, None, "invalid_request")


def _bounded(field: str, rows: Sized, most: int) -> None:
    if not 1 <= len(rows) <= most:
        raise InvalidRequestError(f"{field} has {len(rows)} entries, not 1..{most}", field)


def _behavior(row: pb.BehaviorRow) -> BehaviorRow:
    weight = row.weight if row.HasField("weight") else 1.0
    return BehaviorRow(row.user_id, row.item_id, row.action or "interact", weight, _ts(row))


def _friend(row: pb.FriendRow) -> FriendRow:
    weight = row.weight if row.HasField("weight") else 1.0
    return FriendRow(row.user_id, row.friend_id, row.relation or "friend", weight, _ts(row))


def _impression(row: pb.ImpressionRow) -> ImpressionRow:
    position = row.position if row.HasField("position") else None
    return ImpressionRow(row.user_id, row.item_id, _ts(row), position, row.query_id, row.clicked)


def _consent(row: pb.ConsentRow) -> ConsentRow:
    use, share = (getattr(row, name) if row.HasField(name) else None for name in ("use", "share"))
    return ConsentRow(row.user_id, row.view, use, share)


def _item(row: pb.ItemRow, position: int) -> ItemRow:
    return ItemRow(
        item_id=row.item_id,
        title=row.title if row.HasField("title") else None,
        text=row.text if row.HasField("text") else None,
        kind=row.kind if row.HasField("kind") else None,
        attributes=row.attributes if row.HasField("attributes") else None,
        available=row.available if row.HasField("available") else True,
        updated_at=_time(row.updated_at) if row.HasField("updated_at") else NO_TIME,
        vector=_vector(row, position) if row.vector else None,
    )


def _vector(row: pb.ItemRow, position: int) -> FloatArray:
    """Return the vector of an item, (n,) float32; whether others have its length is known when it is written.

    Raises:
        InvalidRequestError: it is too long, or has a number that is not finite, or zeros alone.
    """
    field, whose = f"items[{position}].vector", f"the vector of item {row.item_id!r}"
    if len(row.vector) > MAX_VECTOR_LENGTH:
        raise InvalidRequestError(f"{whose} has {len(row.vector)} numbers, not 1..{MAX_VECTOR_LENGTH}", field)
    vector = np.array(row.vector, dtype=np.float32)
    unusable = np.flatnonzero(~np.isfinite(vector))
    if len(unusable):
        at = unusable[0]
        raise InvalidRequestError(f"{whose} has {vector[at]} at {at}, which is not finite", field)
    if not vector.any():
        raise InvalidRequestError(f"{whose} has {len(vector)} zeros and nothing else", field)
    return vector


def _ts(row: pb.BehaviorRow | pb.TextRow | pb.FriendRow | pb.ImpressionRow) -> int:
    return _time(row.ts) if row.HasField("ts") else NO_TIME


def _time(ts: Timestamp) -> int:
    """Return microseconds since 1970; `BAD_TIME`, which rejects the row, for a time beyond the calendar."""
    time = ts.seconds * 1_000_000 + ts.nanos // 1_000
    return time if 0 <= ts.nanos < 1_000_000_000 and FIRST_TIME <= time <= LAST_TIME else BAD_TIME


def _pieces(row: str) -> list[str]:
    """Return a row in pieces that each fit into a message of their own, whatever their characters are."""
    most = (MAX_PART_BYTES - _ROW_BYTES) // 4  # characters, of up to four bytes
    return [row[start : start + most] for start in range(0, len(row), most)] or [row]


def _at_most(name: str, entries: Sized, most: int) -> None:
    if len(entries) > most:
        raise InvalidRequestError(f"{name} has {len(entries)} entries, more than {most}", name)
