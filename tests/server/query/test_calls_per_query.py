"""What a query costs in calls of Python, which share one lock: counted, so that they do not creep up."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from encoder.text.cache import TextCache
from indexer.publish import current_index, load_index
from server.query.retriever import Retriever
from server.query.snapshot import prepare
from server.wire.servicers import RetrievalServicer
from store.home import Home
from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
from store.store import Store
from tests.live_server import copy_home
from triptych_client.pb.v1 import triptych_pb2 as pb

KEPT, NEW, OF_16, NEW_OF_16 = 400, 900, 145, 500  # calls of a query: measured, and a tenth


@pytest.fixture
def servicer(small_home: Home, tmp_path: Path) -> Iterator[RetrievalServicer]:
    home = copy_home(small_home, tmp_path / "home")
    with (
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        bring_up_to_date(store, state)
        serving = prepare(home, load_index(home, current_index(home).name), store, state, cache, 1)
        yield RetrievalServicer(Retriever(store, state, serving))


def calls(servicer: RetrievalServicer, users: range) -> float:
    """Ask for some users together; return the calls of functions, of C and of Python, for each."""
    requests, count = [pb.QueryRequest(user_id=f"u{number:05d}", k=50) for number in users], 0

    def note(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        replies = servicer.answer_together(requests)
    finally:
        sys.setprofile(None)
    assert all(isinstance(reply, bytes) for reply in replies)
    return count / len(users)


def test_a_query_of_a_stored_user_makes_few_calls(servicer: RetrievalServicer) -> None:
    calls(servicer, range(1))  # what is made once is made now
    first, second = range(10, 11), range(20, 36)
    found = {
        "new": calls(servicer, first),
        "kept": calls(servicer, first),
        "new of 16": calls(servicer, second),
        "of 16": calls(servicer, second),
    }
    most = {"new": NEW, "kept": KEPT, "new of 16": NEW_OF_16, "of 16": OF_16}
    print(found)
    assert {name: count for name, count in found.items() if count > most[name]} == {}, found
