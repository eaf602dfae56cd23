"""The benchmark of writes, and what kill -9 amid them leaves: on a small real server."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.bench.faults import server_kills as bench_kills
from scripts.bench.faults.server_kills import write_rounds
from scripts.bench.ingest import IngestOptions, NeverSeenError, measure_ingest, visibility
from scripts.bench.load import APPEND, QUERY, CallFailedError, Pace, append_requests, call_at_pace
from server.app import running
from server.config import ServerConfig
from store.export import Export
from store.home import Home
from tests.live_server import copy_home
from triptych_client import Behavior, Client
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import triptych_pb2 as pb


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copy_home(small_home, tmp_path_factory.mktemp("bench") / "home")


@pytest.fixture
def address(home: Home) -> Iterator[str]:
    with running(ServerConfig(home, port=0)) as address:
        yield address


def test_batches_are_new_rows_of_known_people_and_items() -> None:
    made = [
        ingest.AppendBehaviorsRequest.FromString(one)
        for one in append_requests(["u"], ["i"], events=6, size=3, seed=1)
    ]
    rows = [row for request in made for row in request.behaviors]
    assert [len(request.behaviors) for request in made] == [3, 3]
    assert len({row.ts.ToMicroseconds() for row in rows}) == 6
    assert {(row.user_id, row.item_id) for row in rows} == {("u", "i")}
    other = append_requests(["u"], ["i"], events=3, size=3, seed=2)
    assert ingest.AppendBehaviorsRequest.FromString(other[0]).behaviors[0].ts != rows[0].ts


def test_a_pace_is_kept_and_ends(address: str) -> None:
    query = pb.QueryRequest(user_id="nobody").SerializeToString()
    paced = call_at_pace(address, Pace(QUERY, (query,), seconds=0.5, rate=20))
    assert 0 < len(paced.latencies) <= 10  # a machine that does much else skips the last
    assert paced.percentile(50) > 0
    with pytest.raises(CallFailedError):
        call_at_pace(address, Pace(QUERY, (b"\xff",), seconds=0.5))


def test_every_measurement_is_reported(address: str, home: Home) -> None:
    with Export.latest(home.exports) as export:
        users, items = export.users().to_pylist(), export.items().column("item_id").to_pylist()
    options = IngestOptions(seconds=0.3, rounds=1, size=20, rate=200, samples=2)
    report = measure_ingest(address, users, items, options)
    loads = {row["load"]: row for row in report["results"]}
    assert len(loads) == 10
    assert loads["writes alone"]["events_per_second"] > 0
    # Of what was asked for; a machine that does much else writes less.
    assert 0 < loads["writes beside queries"]["events_per_second"] <= 300
    assert loads["until a text shows"]["p50_ms"] > 0
    assert loads["until an item is found"]["p50_ms"] > 0
    assert report["ratios"]["query_p99_growth"] == pytest.approx(
        loads["the same beside writes"]["p99_ms"] / loads["queries at half of that"]["p99_ms"]
    )
    made = append_requests(users, items, events=20, size=20, seed=99)
    assert call_at_pace(address, Pace(APPEND, made, 5.0, once=True)).inserted == 20


def test_a_write_that_nobody_sees_is_said_so(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.bench.ingest._SEEN_SECONDS", 0.05)
    with Client(address) as client, pytest.raises(NeverSeenError, match="until a behaviour shows"):
        visibility(client, ["nothing", "nothing"], IngestOptions(samples=1))


@pytest.mark.nightly
@pytest.mark.parametrize("name", bench_kills.WRITES)
def test_kills_amid_writes_leave_nothing_wrong(home: Home, name: str) -> None:
    counts = write_rounds(name, home, 1, random.Random(5))
    assert (counts.tried, counts.lost, counts.mixed, counts.failed) == (1, 0, 0, 0)


def test_what_is_wrong_is_found(address: str, home: Home) -> None:
    with Client(address) as client:
        items = list(client.query(user_id="nobody", k=5).item_ids)
        work = bench_kills.Written(done=["half"], asked=["half"])
        client.append_behaviors([Behavior("half", items[0])])
        assert bench_kills.check_appended(client, work, items) == (True, True)
        assert bench_kills._check_erased(client, work, items) == (True, True)


def test_a_server_that_does_not_come_back_is_a_failure(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_home(small_home, tmp_path / "home")

    def spoil(process: object, work: object, delay: float) -> bool:
        killed = kill(process, work, delay)  # type: ignore[arg-type]
        home.current_index.write_text("gone\n")
        return killed

    kill = bench_kills._kill
    monkeypatch.setattr(bench_kills, "_kill", spoil)
    assert write_rounds("ingest", home, 1, random.Random(5)).failed == 1
