"""What the owner knows of its query processes, and how many processors there are."""

import threading
from contextlib import ExitStack

import pytest

from server.live import NotPreparedError, QueryProcesses
from tests.live_server import SOON


def test_an_index_serves_once_every_process_has_prepared_it() -> None:
    processes, served = QueryProcesses(), threading.Event()

    def publish() -> None:
        with processes.preparing("index-b"):
            served.set()

    with processes.joined(1) as first, processes.joined(2) as second:
        thread = threading.Thread(target=publish)
        thread.start()
        for told in (first, second):
            assert told.get(timeout=SOON).health == {}
            assert told.get(timeout=SOON).prepare == "index-b"
        processes.prepared(1, "index-b", "")
        processes.prepared(2, "index-a", "")  # the answer to an earlier publish
        assert not served.is_set()
        processes.prepared(2, "index-b", "")
        thread.join(SOON)
        assert served.is_set()


def test_one_that_cannot_prepare_it_keeps_it_from_all() -> None:
    processes = QueryProcesses()
    with processes.joined(1) as first, processes.joined(2) as second:
        threading.Thread(target=processes.prepared, args=(2, "index-b", "")).start()
        refuse = threading.Thread(target=_refuse_when_told, args=(processes, first))
        refuse.start()
        with (
            pytest.raises(NotPreparedError, match="process 1 cannot serve it: no room"),
            processes.preparing("index-b"),
        ):
            raise AssertionError("it must not serve")
        refuse.join(SOON)
        told = [second.get(timeout=SOON) for _ in range(3)]
        assert told[1].prepare == "index-b"
        assert told[2].drop


def _refuse_when_told(processes: QueryProcesses, told: object) -> None:
    while not told.get(timeout=SOON).prepare:  # type: ignore[attr-defined]
        pass
    processes.prepared(1, "index-b", "no room")


def test_a_process_that_leaves_is_not_waited_for_and_one_that_joins_is() -> None:
    processes, served = QueryProcesses(), threading.Event()

    def publish() -> None:
        with processes.preparing("index-b"):
            served.set()

    with ExitStack() as leaving:
        leaving_told = leaving.enter_context(processes.joined(1))
        thread = threading.Thread(target=publish)
        thread.start()
        while not leaving_told.get(timeout=SOON).prepare:
            pass
        with processes.joined(2) as joined:
            joined.get(timeout=SOON)
            assert joined.get(timeout=SOON).prepare == "index-b"
            leaving.close()
            assert not served.is_set()
            processes.prepared(2, "index-b", "")
            thread.join(SOON)
    assert served.is_set()


def test_health_is_told_to_those_who_join_and_again_when_it_changes() -> None:
    processes = QueryProcesses()
    processes.tell_health({"a": True})
    with processes.joined(1) as told:
        assert dict(told.get(timeout=SOON).health) == {"a": True}
        processes.tell_health({"a": False})
        assert dict(told.get(timeout=SOON).health) == {"a": False}
        processes.close()
        assert told.get(timeout=SOON) is None
    with processes.joined(2) as told:
        told.get(timeout=SOON)
        assert told.get(timeout=SOON) is None


def test_who_has_joined_is_announced_whenever_it_changes() -> None:
    processes, announced = QueryProcesses(), list[list[int]]()
    processes.announce_by(lambda pids: announced.append(list(pids)))
    with processes.joined(2), processes.joined(1):
        pass
    assert announced == [[], [2], [1, 2], [2], []]
