"""`bench faults` of servers: what it takes for harm, and a round of each stage on a real server."""

import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from scripts.bench.faults.process_kills import (
    Kill,
    KillTimes,
    TooFewProcessesError,
    in_flight,
    owner_rounds,
    process_rounds,
)
from scripts.bench.faults.run import FaultOptions, run_faults
from scripts.bench.faults.stale import KINDS, WriteThenQuery, stale_rounds
from scripts.bench.faults.swap import newest_two, swap_rounds
from scripts.bench.faults.watchers import FailedCall, ask_for, watching, wrong_with
from server.app import running
from server.config import ServerConfig
from store.export import Export
from store.home import Home
from tests.live_server import copy_home
from triptych_client.pb.v1 import triptych_pb2 as pb

USERS = ["u00001", "u00002", "u00003"]


@pytest.fixture
def home(small_home: Home, tmp_path: Path) -> Home:
    return copy_home(small_home, tmp_path / "home")


def reply(**changed: object) -> pb.QueryResponse:
    """What user u gets of index i, with some fields changed."""
    fields: dict[str, Any] = {
        "item_ids": ["a", "b", "c"],
        "scores": [3.0, 2.0, 2.0],
        "history_shares": [2.0, 1.5, 1.0],
        "text_shares": [1.0, 0.5, 1.0],
        "index_id": "i",
        "model_id": "m",
    }
    return pb.QueryResponse(**(fields | changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"item_ids": ["a", "c", "b"]}, ""),  # equal scores may change places
        ({"scores": [3.00001, 2.0, 2.0]}, ""),
        ({"index_id": "j"}, "index 'j' was never published"),
        ({"model_id": "n"}, "index i came with model n, not m"),
        ({"scores": [3.01, 2.0, 2.0]}, "u got other scores of index i"),
        ({"item_ids": ["b", "a", "c"]}, "u got b with score 3.0 of index i"),
        ({"item_ids": ["x", "b", "c"]}, "u got x with score 3.0 of index i"),
        ({"item_ids": ["a"], "scores": [3.0]}, "u got 1 items, not 3, of index i"),
        ({"text_shares": [1.0, 0.5, 0.9]}, "u got shares that do not add up to the scores of index i"),
    ],
)
def test_an_answer_is_right_for_its_index_alone(changed: dict[str, object], said: str) -> None:
    assert wrong_with(reply(**changed), "u", {"i": {"u": reply()}}) == said


def test_only_calls_that_a_kill_met_may_fail_and_only_unavailable() -> None:
    kills = [Kill(10.0, 1.0), Kill(20.0, 1.0)]
    met = FailedCall(9.9, 10.1, "UNAVAILABLE", "")
    sent_before_it_was_known = FailedCall(20.1, 20.2, "UNAVAILABLE", "")
    later = FailedCall(11.0, 11.1, "UNAVAILABLE", "")
    otherwise = FailedCall(9.9, 10.1, "INTERNAL", "")
    earlier = FailedCall(9.0, 9.9, "UNAVAILABLE", "")
    found = in_flight([met, sent_before_it_was_known, later, otherwise, earlier], kills)
    assert found == ([met, sent_before_it_was_known], [later, otherwise, earlier])


def test_watchers_count_right_wrong_and_missing_answers(home: Home, tmp_path: Path) -> None:
    index_id = home.current_index.read_text("utf-8").strip()
    with ExitStack() as server:
        address = server.enter_context(running(ServerConfig(home, port=0)))
        right = ask_for(address, USERS, 5)
        with watching(address, {index_id: right}, tmp_path) as watched:
            pass
        assert watched.answers >= 2  # one of each process
        assert (watched.wrong, watched.failures) == ([], [])
        others = dict(zip(USERS, [right[user] for user in (*USERS[1:], USERS[0])], strict=True))
        with watching(address, {index_id: others}, tmp_path, processes=1) as watched:
            pass
        assert watched.answers == 0
        assert watched.wrong
        with watching(address, {index_id: right}, tmp_path, processes=1) as watched:
            server.close()
    assert watched.answers
    assert "UNAVAILABLE" in {failure.code for failure in watched.failures}
    assert all(failure.began <= failure.ended for failure in watched.failures)


@pytest.mark.nightly
def test_swaps_of_an_index_change_every_answer_as_a_whole(home: Home, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="has 1 indexes"):
        newest_two(home)
    (first,) = [path for path in home.indexes.iterdir() if path.is_dir()]
    shutil.copytree(first, home.indexes / f"{first.name[:-4]}ffff")
    counts = swap_rounds(home, 12, 1, tmp_path)
    assert {name: counts[name] for name in ("tried", "lost", "mixed", "failed")} == {
        "tried": 12,
        "lost": 0,
        "mixed": 0,
        "failed": 0,
    }
    assert counts["queries"] > 0
    assert all(tenth > 50 for tenth in counts["memory_mib"])
    assert 0.5 < counts["memory_growth"] < 2


@pytest.mark.nightly
def test_processes_that_are_killed_are_replaced(home: Home, tmp_path: Path) -> None:
    """One kill each; how soon is the machine's matter here."""
    chance, times = random.Random(0), KillTimes(pause=0.1, replaced_within=120.0)
    counts = process_rounds(home, 1, 2, times, tmp_path, chance)
    assert (counts["killed"], counts["mixed"], counts["failed"]) == (1, 0, 0)
    assert counts["slowest_replacement_s"] > 0
    owner = owner_rounds(home, 1, 2, tmp_path, chance)
    assert (owner["tried"], owner["lost"], owner["mixed"], owner["failed"]) == (1, 0, 0, 0)
    assert owner["queries"] > 0


def test_one_process_alone_is_not_killed(tmp_path: Path) -> None:
    for stage in ("process", "owner"):
        with pytest.raises(TooFewProcessesError, match="--processes is 1"):
            run_faults(tmp_path / "f", FaultOptions(processes=1), [stage])
    assert not (tmp_path / "f").exists()


@pytest.mark.nightly
def test_no_process_is_stale(home: Home) -> None:
    counts = stale_rounds(home, 20, 2, random.Random(0))
    assert counts["pairs"] == KINDS
    assert (counts["lost"], counts["stale"]) == (0, {})


@pytest.fixture
def two_servers(home: Home, small_home: Home, tmp_path: Path) -> Iterator[tuple[grpc.Channel, grpc.Channel]]:
    """Channels to two servers of which neither knows what the other is told."""
    other = copy_home(small_home, tmp_path / "other")
    with ExitStack() as stack:
        addresses = [stack.enter_context(running(ServerConfig(one, port=0))) for one in (home, other)]
        first, second = (stack.enter_context(grpc.insecure_channel(address)) for address in addresses)
        yield first, second


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_that_does_not_know_of_a_write_is_stale(
    kind: str, home: Home, two_servers: tuple[grpc.Channel, grpc.Channel]
) -> None:
    with Export.latest(home.exports) as export:
        users = export.users().to_pylist()
        items = export.items(columns=["item_id", "title", "text", "kind"]).to_pylist()
    first, second = two_servers
    knowing = WriteThenQuery([first], [first], users, items, random.Random(0))
    assert getattr(knowing, kind)()
    unknowing = WriteThenQuery([first], [second], users, items, random.Random(1))
    assert not getattr(unknowing, kind)()
