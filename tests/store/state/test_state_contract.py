"""What queries read of the state, over every place where it may be kept: one suite for all."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from store.privacy import erase_user
from store.state import LogFollower, StateReader, UserState, bring_up_to_date
from store.store import Store
from store.valkey import SharedState, StateMirror, cluster_address
from store.valkey.connection import Cluster
from store.writes import (
    BehaviorRow,
    Behaviors,
    ConsentChanges,
    ConsentRow,
    Content,
    FriendRow,
    Friends,
    ItemRow,
    Items,
    Request,
    TextRow,
    Texts,
    Writer,
)
from tests.engines.valkey import ValkeyCluster, valkey_cluster
from tests.live_server import SOON
from tests.state_contents import expected_state, state_of

ITEMS = ["film", "book", "song"]
VECTOR = np.arange(4, dtype="<f4").tobytes()


@dataclass
class World:
    """A store, the state that its owner writes, and a reader of it; `sync` returns when it may be read."""

    store: Store
    state: UserState
    writer: Writer
    reader: StateReader
    sync: Callable[[], None]

    def write(self, *contents: Content) -> int:
        self.writer.write([Request(one) for one in contents])
        commit = self.state.commit
        self.sync()
        return commit

    def check(self, *user_ids: str) -> None:
        """Compare what the reader has of users with the store."""
        views = self.store.users_views(user_ids)
        for user_id in user_ids:
            assert state_of(self.reader, user_id) == expected_state(views[user_id])  # type: ignore[arg-type]


def item(item_id: str) -> ItemRow:
    return ItemRow(item_id, item_id, item_id, "thing", "{}", True, 0, None)


def events(user_id: str, *item_ids: str, ts: int = 0) -> Behaviors:
    return Behaviors([BehaviorRow(user_id, one, "view", 1.0, ts + n) for n, one in enumerate(item_ids)])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    with valkey_cluster(tmp_path_factory.mktemp("valkey")) as cluster:
        yield cluster


@pytest.fixture(params=["lmdb", "valkey"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(tmp_path / "views.duckdb"))
        state = stack.enter_context(UserState.open(tmp_path / "state"))
        bring_up_to_date(store, state)
        writer = Writer(store, state)
        writer.write([Request(Items([item(one) for one in ITEMS]))])
        reader: StateReader = state

        def sync() -> None:
            assert reader.wait_for(state.commit, SOON)

        if request.param == "valkey":
            cluster: ValkeyCluster = request.getfixturevalue("cluster")
            cluster.flush()
            mirror = mirror_of(store, state, cluster.url)
            mirror.step()
            reader = shared = SharedState(cluster_address(cluster.url), lambda: None)
            shared.start()
            stack.enter_context(shared)

            def sync() -> None:
                mirror.step()
                assert reader.wait_for(state.commit, SOON)

        yield World(store, state, writer, reader, sync)


def mirror_of(store: Store, state: UserState, url: str) -> StateMirror:
    def vectors(_: str, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        return dict.fromkeys(digests, VECTOR)

    return StateMirror(state, Cluster(cluster_address(url)), store.home_id, vectors, lambda _: "model")


def test_records_are_what_the_store_has(world: World) -> None:
    world.write(
        events("ann", "film", "book"),
        events("bob", "song"),
        Texts([TextRow("ann", "a text", "film", 5), TextRow("ann", "another", "", 3)]),
        Friends([FriendRow("ann", "bob", "friend", 2.0, 0), FriendRow("ann", "cleo", "friend", 1.0, 0)]),
    )
    world.check("ann", "bob", "cleo", "nobody")
    world.write(events("bob", "film", ts=9), Friends([FriendRow("ann", "dan", "friend", 3.0, 0)]))
    world.check("ann", "bob", "dan")


def test_a_batch_is_read_in_order_and_repeats_count(world: World) -> None:
    world.write(events("ann", "film"), events("bob", "book", "song"))
    lengths = [len(one.history) for one in world.reader.users(["bob", "nobody", "ann", "bob"])]
    assert lengths == [2, 0, 1, 2]


def test_a_user_without_rows_any_more_is_unknown(world: World) -> None:
    world.write(events("ann", "film"), Friends([FriendRow("bob", "ann", "friend", 1.0, 0)]))
    assert len(world.reader.users(["bob"])[0].events) == 1
    erase_user(world.store, world.state, "ann", [], [])
    world.sync()
    world.check("ann", "bob")
    assert not world.reader.users(["bob"])[0].friends


def test_consents_hold_for_oneself_and_for_others(world: World) -> None:
    world.write(
        events("ann", "film"),
        events("bob", "book"),
        Texts([TextRow("ann", "a text", "", 1)]),
        Friends([FriendRow("bob", "ann", "friend", 1.0, 0)]),
        ConsentChanges([ConsentRow("ann", "H", None, False), ConsentRow("ann", "T", False, None)]),
    )
    own, friend = world.reader.users(["ann", "bob"])
    assert (len(own.history), own.texts) == (1, ())
    assert (len(friend.events), friend.withheld) == (1, ("ann",))
    assert len(world.reader.shared_users(["ann"])[0].history) == 0
    world.write(ConsentChanges([ConsentRow("ann", "H", None, True)]))
    assert len(world.reader.users(["bob"])[0].events) == 2


def test_friends_sent_along_have_their_histories(world: World) -> None:
    world.write(events("ann", "film"), events("bob", "book", "song"))
    record = world.reader.read(lambda reading: reading.record_of_friends({"bob": 2.0, "ann": 1.0}))
    assert record.friends == ("ann", "bob")
    assert record.owners.tolist() == [1, 2, 2]


def test_codes_of_new_items_are_known_when_rows_hold_them(world: World) -> None:
    many = [f"item-{number}" for number in range(2_500)]
    world.write(Items([item(one) for one in many]), events("ann", "item-2400"))
    (record,) = world.reader.users(["ann"])
    assert [world.reader.items.names[code] for code in record.history["item"].tolist()] == ["item-2400"]


def test_every_commit_is_passed_on_once_and_in_order(world: World) -> None:
    follower = LogFollower(sequence=world.reader.commit)
    seen: list[tuple[int, frozenset[str] | None]] = []
    follower.listen(lambda entries, _: seen.extend((one.sequence, one.users) for one in entries or ()))
    commits = [world.write(events(user, "film")) for user in ("ann", "bob")]
    world.reader.read(follower.catch_up)
    world.reader.read(follower.catch_up)
    assert seen == [(commits[0], frozenset(["ann"])), (commits[1], frozenset(["bob"]))]
    assert follower.sequence == world.reader.commit == commits[1]


def test_what_became_of_items_of_an_index_is_told(world: World) -> None:
    with world.state.writing() as draft:
        draft.put_live("index-a", {"film": b"vector", "book": b""}, {"ann": b"person"})
    with world.state.writing() as draft:
        draft.put_live("index-a", {"film": b"", "song": b"sound"})
    world.sync()
    items = world.reader.read(lambda reading: reading.live("index-a", "items"))
    assert {name: change for name, (_, change) in items.items()} == {
        "film": b"",
        "book": b"",
        "song": b"sound",
    }
    some = world.reader.read(lambda reading: reading.live("index-a", "items", ["song", "nothing"]))
    assert some == {"song": items["song"]}
    assert world.reader.read(lambda reading: reading.live("index-a", "users"))["ann"][1] == b"person"
    assert world.reader.read(lambda reading: reading.live("index-b", "items")) == {}


def test_which_index_serves_is_told_and_what_it_was_told_before_is_forgotten(world: World) -> None:
    assert world.reader.read(lambda reading: reading.serves) == ""
    for told in ("film", "book"):
        with world.state.writing() as draft:
            draft.clear_live("index-a")
        with world.state.writing() as draft:
            draft.put_live("index-a", {told: b""})
        with world.state.writing() as draft:
            draft.serve("index-a")
        world.sync()
    assert world.reader.read(lambda reading: reading.serves) == "index-a"
    assert set(world.reader.read(lambda reading: reading.live("index-a", "items"))) == {"book"}


def test_whoever_waits_for_a_commit_gets_it(world: World) -> None:
    commit = world.write(events("ann", "film"))
    assert world.reader.wait_for(commit, 0.0)
    assert not world.reader.wait_for(commit + 1, 0.01)
    assert world.reader.commit == commit


def test_no_reading_is_torn(world: World) -> None:
    """Each write gives a user an event and a text, and a friend who has an event: one, or none of it."""
    over = threading.Event()
    faults: list[object] = []

    def read() -> None:
        before = 0
        while not over.is_set():
            (record,) = world.reader.users(["ann"])
            found = len(record.history), len(record.texts), len(record.friends)
            if len(set(found)) > 1 or found[0] < before:
                faults.append((before, found))
            before = found[0]

    reading = threading.Thread(target=read)
    reading.start()
    for number in range(60):
        name = f"friend-{number:02}"
        world.write(
            Behaviors([BehaviorRow("ann", "film", "view", 1.0, number)]),
            Texts([TextRow("ann", f"text {number}", "", number)]),
            Friends([FriendRow("ann", name, "friend", 1.0, 0)]),
        )
    over.set()
    reading.join()
    assert not faults
    world.check("ann")
