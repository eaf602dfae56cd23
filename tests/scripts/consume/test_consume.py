"""`triptych consume` with a real NATS server and a real one of ours: each event counts once."""

import json
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, RetentionPolicy

from scripts.bench.faults.log_kills import log_rounds
from scripts.bench.faults.nats_server import NatsServer, free_port, nats_server
from tests.command_line import Run
from tests.live_server import SOON, Client, server, soon
from tests.small_stores import ROWS, make_store
from triptych_client import Client as TypedClient
from triptych_client.pb.v1 import ingest_pb2 as pb

LOG = "nats/EVENTS"


def liked(user: str, item: str, weight: float = 1.0, **more: str) -> bytes:
    """An event as an app in any language would write it."""
    row = {"user_id": user, "item_id": item, "action": "like", "weight": weight} | more
    return json.dumps({"append_behaviors": {"behaviors": [row]}}).encode()


@dataclass(frozen=True)
class Place:
    broker: NatsServer
    live: Client
    client: TypedClient

    def publish(self, *payloads: bytes, subject: str = "events.web") -> None:
        async def work(streams: JetStreamContext) -> None:
            for payload in payloads:
                await streams.publish(subject, payload)

        self.broker.call(work)

    def command(self, *options: str) -> list[str]:
        words = ["consume", "--from", f"{self.broker.url}/EVENTS", "--address", self.live.address]
        return [sys.executable, "-m", "scripts.cli", *words, *options]

    def consume(self, *options: str) -> "subprocess.CompletedProcess[str]":
        command = self.command(*(options or ("--until-empty",)))
        return subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False)

    @contextmanager
    def consuming(self, *options: str) -> Iterator["subprocess.Popen[str]"]:
        with subprocess.Popen(self.command(*options), stderr=subprocess.PIPE, text=True) as running:
            try:
                yield running
            finally:
                running.kill()

    def standing(self, log: str = LOG) -> pb.ApplyLogResponse:
        return self.client.apply_log(log)

    def liked_by(self, user: str) -> dict[str, float]:
        rows = self.client.export_user(user).get("behaviors", [])
        return {str(row["item_id"]): float(str(row["weight"])) for row in rows if row["action"] == "like"}

    def dead_letters(self) -> list[RawStreamMsg]:
        async def work(streams: JetStreamContext) -> list[RawStreamMsg]:
            last = (await streams.stream_info("EVENTS_DEAD")).state.last_seq
            return [await streams.get_msg("EVENTS_DEAD", number) for number in range(1, last + 1)]

        return self.broker.call(work)

    def make_stream(self, **options: object) -> None:
        self.broker.call(lambda streams: streams.add_stream(name="EVENTS", subjects=["events.>"], **options))

    def remove_stream(self) -> None:
        self.broker.call(lambda streams: streams.delete_stream("EVENTS"))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
def place(broker: NatsServer, tmp_path: Path) -> Iterator[Place]:
    home = make_store(tmp_path, ROWS)
    with server(home) as live, TypedClient(live.address, timeout=SOON) as client:
        place = Place(broker, live, client)
        place.make_stream()
        yield place
    for name in broker.call(names):
        broker.call(lambda streams, name=name: streams.delete_stream(name))  # type: ignore[misc]


async def names(streams: JetStreamContext) -> list[str]:
    return [str(info.config.name) for info in await streams.streams_info()]


def test_events_of_all_kinds_are_written_in_their_order(place: Place) -> None:
    friends = pb.LogEvent(
        put_friends=pb.PutFriendsRequest(friends=[pb.FriendRow(user_id="a", friend_id="b")])
    )
    text = pb.LogEvent(append_texts=pb.AppendTextsRequest(texts=[pb.TextRow(user_id="a", text="hello")]))
    place.publish(
        b'{"put_items": {"items": [{"item_id": "new", "title": "New"}]}}',
        liked("a", "new"),
        friends.SerializeToString(),
        text.SerializeToString(),
        b'{"appendImpressions": {"impressions": [{"userId": "a", "itemId": "new", "queryId": "q"}]}}',
        b'{"set_consent": {"consents": [{"user_id": "a", "view": "S", "share": false}]}}',
        liked("a", "new", 2),
        b'{"delete_items": {"item_ids": ["x"]}}',
        liked("a", "new", 3),
    )
    done = place.consume()
    assert (done.returncode, done.stdout) == (0, "9 events written, 0 rows or events rejected\n"), done.stderr
    stored = place.client.export_user("a")
    assert {table: len(stored[table]) for table in ("texts", "social", "impressions", "consents")} == {
        "texts": 1,
        "social": 1,
        "impressions": 1,
        "consents": 3,  # a row for each view
    }
    assert place.liked_by("a") == {"new": 3.0}
    standing = place.standing()
    assert (standing.position.sequence, standing.events) == (9, 9)
    assert (standing.inserted, standing.updated, standing.unchanged) == (6, 3, 0)


def test_it_goes_on_where_it_was(place: Place) -> None:
    place.publish(*(liked(f"u{n}", "x") for n in range(30)))
    assert place.consume("--limit", "7", "--batch", "3").stdout.startswith("7 events written")
    assert place.standing().position.sequence == 7
    assert place.consume().stdout.startswith("23 events written")
    assert place.consume().stdout.startswith("0 events written")
    assert (place.standing().inserted, place.standing().unchanged) == (30, 0)


def test_what_cannot_be_written_is_kept_with_its_reason(place: Place) -> None:
    two = pb.AppendBehaviorsRequest(behaviors=[pb.BehaviorRow(user_id=u, item_id=i) for u, i in ("ax", "a?")])
    place.publish(
        b"{not json, says anna@example.org",
        b"\xff\xfe",
        b'{"append_behaviors": {"behaviours": []}}',
        b"{}",
        b'{"append_texts": {"texts": []}}',
        pb.LogEvent(append_behaviors=two).SerializeToString(),
        b'{"append_behaviors": {"behaviors": [{"user_id": "a", "item_id": "y"}, '
        b'{"user_id": "a", "item_id": "??"}]}}',
    )
    done = place.consume()
    assert done.returncode == 0
    assert done.stdout == "7 events written, 7 rows or events rejected\n"
    assert "anna" not in done.stdout + done.stderr
    letters = {int(one.headers["Triptych-Sequence"]): one for one in place.dead_letters()}
    reasons = {number: one.headers["Triptych-Reasons"] for number, one in sorted(letters.items())}
    assert reasons == {
        1: "unreadable_json=1",
        2: "unreadable_protobuf=1",
        3: "unreadable_json=1",
        4: "empty_event=1",
        5: "invalid_request=1",
        6: "unknown_item=1",
        7: "unknown_item=1",
    }
    assert letters[1].data == b"{not json, says anna@example.org"
    assert letters[6].subject == "EVENTS_DEAD.unknown_item"
    assert letters[6].headers["Triptych-Subject"] == "events.web"
    (row,) = pb.LogEvent.FromString(letters[6].data).append_behaviors.behaviors  # but not what was written
    assert row.item_id == "?"
    assert [row["item_id"] for row in json.loads(letters[7].data)["append_behaviors"]["behaviors"]] == ["??"]
    # Mended and published again, it is an event like others.
    place.publish(letters[7].data.replace(b"??", b"z"))
    assert place.consume().stdout == "1 events written, 0 rows or events rejected\n"


def test_a_rejected_row_is_kept_though_its_writer_was_killed(place: Place) -> None:
    place.publish(liked("a", "no such item"))
    created = place.broker.call(lambda streams: streams.stream_info("EVENTS")).created
    assert created is not None
    through = pb.LogPosition(epoch=created.isoformat(), sequence=1)
    event = pb.LogEvent(
        append_behaviors=pb.AppendBehaviorsRequest(behaviors=[pb.BehaviorRow(user_id="a", item_id="no")])
    )
    reply = place.client.apply_log(LOG, pb.LogPosition(), through, [pb.LogEntry(sequence=1, event=event)])
    assert reply.position == through  # written by a consumer that did not live to keep the dead letter
    assert place.consume().stdout.startswith("0 events written")
    assert [one.headers["Triptych-Reasons"] for one in place.dead_letters()] == ["unknown_item=1"]


def test_what_was_delivered_to_a_killed_consumer_comes_again_before_anything_newer(place: Place) -> None:
    place.publish(liked("a", "x", 1))
    assert place.consume().returncode == 0
    place.publish(*(liked("a", "x", weight) for weight in (2, 3, 4)))
    home_id = place.standing().home_id

    async def take(streams: JetStreamContext) -> None:
        pull = await streams.pull_subscribe_bind(f"triptych-{home_id[:16]}", "EVENTS")
        assert len(await pull.fetch(2, SOON)) == 2  # and never acknowledged

    place.broker.call(take)
    assert place.consume().stdout.startswith("3 events written")
    assert place.liked_by("a") == {"x": 4.0}
    assert place.standing().updated == 3


def test_a_stream_that_was_made_anew_is_read_from_its_beginning(place: Place) -> None:
    place.publish(*(liked(f"u{n}", "x") for n in range(5)))
    assert place.consume().returncode == 0
    place.remove_stream()
    place.make_stream()
    place.publish(liked("u0", "y"), liked("u1", "y"))
    done = place.consume()
    assert done.stdout.startswith("2 events written")
    assert "was made anew" in done.stderr
    assert (place.standing().position.sequence, place.standing().events) == (2, 7)


def test_a_purge_is_told(place: Place) -> None:
    place.publish(*(liked(f"u{n}", "x") for n in range(5)))
    assert place.consume("--limit", "2").returncode == 0
    place.broker.call(lambda streams: streams.purge_stream("EVENTS"))
    place.publish(liked("u9", "x"))
    done = place.consume()
    assert done.stdout.startswith("1 events written")
    assert "dropped 3 messages before they were read here" in done.stderr
    assert place.standing().position.sequence == 6


def test_a_work_queue_forgets_what_is_written(place: Place) -> None:
    place.remove_stream()
    place.make_stream(retention=RetentionPolicy.WORK_QUEUE)
    place.publish(*(liked(f"u{n}", "x") for n in range(20)), liked("u0", "nowhere"))
    assert place.consume("--batch", "5", "--until-empty").stdout.startswith("21 events written")
    left = place.broker.call(lambda streams: streams.stream_info("EVENTS")).state.messages
    assert left == 0
    assert len(place.dead_letters()) == 1
    place.publish(liked("u1", "y"))
    assert place.consume().stdout.startswith("1 events written")


def test_subjects_have_a_position_of_their_own(place: Place) -> None:
    place.publish(liked("a", "x"), subject="events.web")
    place.publish(liked("b", "x"), subject="events.app")
    assert place.consume("--subject", "events.app", "--until-empty").stdout.startswith("1 events")
    assert place.standing(f"{LOG}/events.app").position.sequence == 2
    assert (place.liked_by("a"), place.liked_by("b")) == ({}, {"x": 1.0})


def test_an_erased_person_does_not_come_back_with_what_was_in_the_stream(place: Place) -> None:
    place.publish(liked("a", "x"), liked("b", "x"))
    place.client.erase_user("a")
    place.publish(liked("a", "y"))
    done = place.consume()
    assert done.stdout == "3 events written, 1 rows or events rejected\n"
    assert place.liked_by("a") == {"y": 1.0}
    assert place.dead_letters() == []  # nothing of the erased is kept


def test_the_one_that_begins_last_reads(place: Place) -> None:
    with place.consuming() as first:
        soon(lambda: consumers(place) == 1)
        place.publish(liked("a", "x"))
        soon(lambda: place.standing().events == 1)
        with place.consuming():
            assert first.wait(SOON) == 1
            assert first.stderr is not None
            assert "another `triptych consume` has begun to read EVENTS for this home" in first.stderr.read()
            place.publish(liked("b", "x"))
            soon(lambda: place.standing().events == 2)


def consumers(place: Place) -> int:
    return place.broker.call(lambda streams: streams.stream_info("EVENTS")).state.consumer_count


def test_it_ends_gently_and_tells_prometheus(place: Place) -> None:
    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SOON) as reply:
            return str(reply.read().decode())

    port = free_port()
    with place.consuming("--metrics-port", str(port)) as running:
        place.publish(liked("a", "x"), liked("a", "nowhere"))
        soon(lambda: place.standing().events == 2)
        soon(lambda: "triptych_consumed_events_total 2.0" in scrape())
        told = scrape()
        assert 'triptych_consumed_rejected_total{reason="unknown_item"} 1.0' in told
        assert "triptych_consumed_position 2.0" in told
        assert "triptych_consumed_pending 0.0" in told
        running.terminate()
        assert running.wait(SOON) == 0


def test_what_cannot_be_consumed_is_refused_at_once(place: Place, run: Run) -> None:
    at = ("--address", place.live.address)
    code, _, err = run("consume", "--from", "kafka://127.0.0.1/x", *at)
    assert (code, "a log is given as nats://HOST:PORT/STREAM" in err) == (1, True)
    code, _, err = run("consume", "--from", f"{place.broker.url}/NOWHERE", *at)
    assert (code, "NATS has no stream NOWHERE" in err) == (1, True)
    place.broker.call(
        lambda streams: streams.add_stream(name="I", subjects=["i"], retention=RetentionPolicy.INTEREST)
    )
    code, _, err = run("consume", "--from", f"{place.broker.url}/I", *at)
    assert (code, "give it the retention limits or workqueue" in err) == (1, True)


def test_a_token_and_a_nats_user_are_asked_for(tmp_path: Path, run: Run) -> None:
    home = make_store(tmp_path, ROWS)
    _, token, _ = run("token", "create", "--home", home.path, "--scope", "ingest")
    (tmp_path / "token").write_text(token.split()[-1])
    with (
        nats_server(tmp_path / "nats", ["--user", "app", "--pass", "secret"]) as broker,
        server(home) as live,
    ):
        at = ("--address", live.address, "--until-empty")
        code, _, err = run("consume", "--from", f"{broker.url}/EVENTS", *at)
        assert (code, "UNAUTHENTICATED" in err) == (1, True)
        at = (*at, "--token-file", str(tmp_path / "token"))
        code, _, err = run("consume", "--from", f"{broker.url}/EVENTS", *at)
        assert (code, "NATS refuses this user" in err) == (1, True)
        named = broker.url.replace("//", "//app:secret@")
        code, _, err = run("consume", "--from", f"{named}/EVENTS", *at)
        assert (code, "have options of their own" in err, "secret" in err) == (1, True, False)


def test_kills_of_consumer_server_and_nats_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    home = make_store(tmp_path, ROWS)
    counts = log_rounds(home, 5, 2_000, tmp_path, random.Random(3))
    assert counts == {
        "tried": 5,
        "killed": 5,
        "lost": 0,
        "mixed": 0,
        "failed": 0,
        "events": 2_000,
        "inserted": 1_801,
        "updated": 199,
    }
