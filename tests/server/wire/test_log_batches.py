"""ApplyLog: what of a message is refused whole, and what of it event by event."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from server.status import InvalidRequestError
from server.wire.ingest import MAX_EVENT_ROWS, MAX_EVENTS, batch_of, log_of
from store.state import NO_TIME
from store.writes import EventBatch, EventEntry
from triptych_client.pb.v1 import ingest_pb2 as pb


def at(sequence: int, epoch: str = "") -> pb.LogPosition:
    return pb.LogPosition(epoch=epoch, sequence=sequence)


def behaviors(rows: int = 1) -> pb.LogEvent:
    row = pb.BehaviorRow(user_id="a", item_id="x")
    return pb.LogEvent(append_behaviors=pb.AppendBehaviorsRequest(behaviors=[row] * rows))


def request(
    entries: list[pb.LogEntry], after: pb.LogPosition | None = None, through: pb.LogPosition | None = None
) -> pb.ApplyLogRequest:
    return pb.ApplyLogRequest(log="log", after=after or at(0), through=through or at(10**6), entries=entries)


def entries(*sequences: int) -> list[pb.LogEntry]:
    return [pb.LogEntry(sequence=one, event=behaviors()) for one in sequences]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (request([], after=at(5), through=at(5)), "through.sequence"),
        (request([], after=at(5), through=at(4)), "through.sequence"),
        (request(entries(5), after=at(5)), "entries[0].sequence"),
        (request(entries(0)), "entries[0].sequence"),
        (request(entries(3, 3)), "entries[1].sequence"),
        (request(entries(3, 7, 2)), "entries[2].sequence"),
        (request(entries(3, 7), through=at(6)), "entries[1].sequence"),
        (request(entries(*range(1, MAX_EVENTS + 2))), "entries"),
        (
            request([pb.LogEntry(sequence=n, event=behaviors(MAX_EVENT_ROWS // 3 + 1)) for n in (1, 2, 3)]),
            "entries",
        ),
        (request([], through=at(2**63)), "through.sequence"),
        (request([], after=at(2**64 - 1), through=at(1, "new")), "after.sequence"),
        (request([], through=at(1, "é" * 129)), "through.epoch"),
    ],
)
def test_a_message_that_is_no_batch_is_refused_by_its_field(message: pb.ApplyLogRequest, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        batch_of(message)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["", "x" * 257, "é" * 129])
def test_a_log_has_a_name(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="log has"):
        log_of(pb.ApplyLogRequest(log=name))


def test_another_epoch_begins_with_any_sequence() -> None:
    request_of = batch_of(request(entries(1, 2), after=at(100, "old"), through=at(2, "new")))
    assert request_of.rows == 2


def test_an_event_that_cannot_be_read_is_refused_alone() -> None:
    late = Timestamp(seconds=2**60)
    bad_vector = pb.PutItemsRequest(items=[pb.ItemRow(item_id="i", vector=[float("nan")])])
    message = request(
        [
            pb.LogEntry(sequence=1),
            pb.LogEntry(sequence=2, event=pb.LogEvent(append_texts=pb.AppendTextsRequest())),
            pb.LogEntry(sequence=3, event=behaviors(10_001)),
            pb.LogEntry(sequence=4, event=pb.LogEvent(put_items=bad_vector)),
            pb.LogEntry(sequence=5, event=behaviors(), published=late),
            pb.LogEntry(sequence=6, event=behaviors(), published=Timestamp(seconds=1)),
            pb.LogEntry(sequence=7, event=behaviors()),
        ]
    )
    content = batch_of(message).content
    assert isinstance(content, EventBatch)
    read: list[EventEntry] = list(content.entries)
    assert [one.reason for one in read] == [
        "empty_event",
        "invalid_request",
        "invalid_request",
        "invalid_request",
        "unparsable_time",
        "",
        "",
    ]
    assert [one.request is None for one in read] == [True] * 5 + [False] * 2
    assert (read[5].published, read[6].published) == (1_000_000, NO_TIME)
