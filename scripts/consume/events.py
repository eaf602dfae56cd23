"""What a message of a log holds: one event, as JSON or as protobuf."""

from collections import Counter
from collections.abc import Iterable, Sequence

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from scripts.consume.source import DeadLetter, LogMessage
from triptych_client.pb.v1 import ingest_pb2 as pb

MAX_EVENT_BYTES = 16 * 1024 * 1024  # a message of the API has at most 32 MiB
ERASED = "erased"
_ROWS = {
    "put_items": "items",
    "delete_items": "item_ids",
    "append_behaviors": "behaviors",
    "append_texts": "texts",
    "put_friends": "friends",
    "append_impressions": "impressions",
    "set_consent": "consents",
}


class UnreadableEventError(ValueError):
    """A message holds no event; `reason` is a word, and the text may quote the message."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_event(payload: bytes) -> pb.LogEvent:
    """Return the event in a message: JSON where it begins with a brace, as no event in protobuf does.

    Raises:
        UnreadableEventError: it holds none.
    """
    if len(payload) > MAX_EVENT_BYTES:
        said = f"{len(payload)} bytes, more than {MAX_EVENT_BYTES}"
        raise UnreadableEventError("event_too_large", said)
    try:
        if _is_json(payload):
            event = json_format.Parse(payload, pb.LogEvent())
        else:
            event = pb.LogEvent.FromString(payload)
    except (json_format.ParseError, DecodeError, ValueError, RecursionError) as error:
        kind = "unreadable_json" if _is_json(payload) else "unreadable_protobuf"
        raise UnreadableEventError(kind, str(error)) from error
    if event.WhichOneof("write") is None:
        raise UnreadableEventError("empty_event", f"it names none of {', '.join(_ROWS)}")
    return event


def count_rows(event: pb.LogEvent) -> int:
    """Return the number of rows of an event."""
    return len(_rows(event))


def letters_of(messages: Iterable[LogMessage], rejected: Sequence[pb.RejectedEvent]) -> list[DeadLetter]:
    """Return what was rejected of some messages, but rows of erased people, which are kept nowhere."""
    by_sequence: dict[int, list[pb.RejectedEvent]] = {}
    for one in rejected:
        if one.reason != ERASED:
            by_sequence.setdefault(one.sequence, []).append(one)
    return [
        _letter(message, by_sequence[message.sequence])
        for message in messages
        if message.sequence in by_sequence
    ]


def _letter(message: LogMessage, rejected: Sequence[pb.RejectedEvent]) -> DeadLetter:
    reasons = dict(Counter(one.reason for one in rejected))
    if not all(one.HasField("position") for one in rejected):
        return DeadLetter(message, reasons, message.payload)
    event = read_event(message.payload)
    rows, wanted = _rows(event), sorted({one.position for one in rejected})
    kept = [rows[position] for position in wanted]
    del rows[:]
    rows.extend(kept)
    if _is_json(message.payload):
        text = json_format.MessageToJson(event, preserving_proto_field_name=True, indent=None)
        return DeadLetter(message, reasons, text.encode())
    return DeadLetter(message, reasons, event.SerializeToString())


def _rows(event: pb.LogEvent) -> "list[object]":
    write = event.WhichOneof("write") or ""
    rows: list[object] = getattr(getattr(event, write), _ROWS[write])
    return rows


def _is_json(payload: bytes) -> bool:
    return payload.lstrip()[:1] == b"{"
