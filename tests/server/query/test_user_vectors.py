"""Kept user vectors give the answers that new ones give, to the last bit, whatever is written meanwhile."""

import gc
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.text.cache import TextCache
from indexer.publish import current_index, load_index
from server.live.commits import CommitListener
from server.query.query import UNSCALED, Candidates, Query, QueryOptions, QueryVector, StoredUser
from server.query.retriever import Retriever
from server.query.snapshot import Snapshot, prepare
from server.query.user_vectors import UserVector, UserVectors
from store.home import Home
from store.privacy.erase import erase_user
from store.state.log import LogEntry, LogHead
from store.state.rebuild import bring_up_to_date
from store.state.state import StateReading, UserState
from store.store import Store
from store.writes.request import (
    BehaviorRow,
    Behaviors,
    ConsentChanges,
    ConsentRow,
    FriendRow,
    Friends,
    Request,
    TextRow,
    Texts,
)
from store.writes.writer import Writer
from tests.live_server import copy_home, soon

USERS = [f"u{number:05d}" for number in range(6)]
ROUNDS = 150


@dataclass(frozen=True)
class World:
    store: Store
    state: UserState
    snapshot: Snapshot
    writer: Writer
    keeping: Retriever
    fresh: Retriever  # which keeps nothing

    def write(self, *requests: Behaviors | Texts | Friends | ConsentChanges) -> None:
        self.writer.write([Request(one) for one in requests])

    def ask(self, retriever: Retriever, users: Sequence[str], **fields: object) -> list[Candidates]:
        return retriever.retrieve([Query(StoredUser(user), 20, **fields) for user in users])  # type: ignore[arg-type]

    def check(self, users: Sequence[str] = USERS, **fields: object) -> None:
        kept, new = self.ask(self.keeping, users, **fields), self.ask(self.fresh, users, **fields)
        assert [facts(one) for one in kept] == [facts(one) for one in new]


def facts(found: Candidates) -> tuple[object, ...]:
    shares = None if found.shares is None else found.shares.tobytes()
    return found.ids, found.scores.tobytes(), shares, found.views_used, found.fallback


@pytest.fixture(scope="module")
def world(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = copy_home(small_home, tmp_path_factory.mktemp("kept") / "home")
    with (
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        bring_up_to_date(store, state)
        snapshot = prepare(home, load_index(home, current_index(home).name), store, state, cache, 1)
        keeping, fresh = (Retriever(store, state, snapshot, user_cache_bytes=most) for most in (1 << 20, 0))
        yield World(store, state, snapshot, Writer(store, state), keeping, fresh)


def items(world: World) -> list[str]:
    return world.snapshot.index.item_ids(np.arange(40))


def writes(world: World) -> st.SearchStrategy[Behaviors | Texts | Friends | ConsentChanges]:
    users, times = st.sampled_from(USERS), st.integers(1, 5)
    behaviors = st.builds(BehaviorRow, users, st.sampled_from(items(world)), ts=times)
    texts = st.builds(TextRow, users, st.sampled_from(["a garden", "a book", "not encoded"]), ts=times)
    friends = st.builds(FriendRow, users, users, weight=st.sampled_from([0.0, 1.0, 2.5]))
    allowed = st.sampled_from([True, False, None])
    consents = st.builds(ConsentRow, users, st.sampled_from("HTS"), allowed, allowed)
    return st.one_of(
        consents.map(lambda row: ConsentChanges([row])),
        behaviors.map(lambda row: Behaviors([row])),
        texts.map(lambda row: Texts([row])),
        friends.filter(lambda row: row.user_id != row.friend_id).map(lambda row: Friends([row])),
    )


@given(data=st.data())
def test_a_kept_vector_answers_as_a_new_one_to_the_last_bit(world: World, data: st.DataObject) -> None:
    options = st.builds(
        QueryOptions, view_weights=st.sampled_from([(1.0, 1.0, 1.0), (0.0, 1.0, 2.0)]), explain=st.booleans()
    )
    for one in data.draw(st.lists(writes(world), min_size=1, max_size=4)):
        users = data.draw(st.lists(st.sampled_from(USERS), min_size=1, max_size=6))
        fields = {"exclude_seen": data.draw(st.booleans()), "options": data.draw(options)}
        for _ in range(2):  # the second time from what was kept
            world.check(users, **fields)
        world.write(one)
        world.check(users, **fields)


@given(users=st.lists(st.sampled_from([*USERS, "nobody"]), min_size=2, max_size=20), exact=st.booleans())
def test_a_batch_answers_as_its_queries_do_alone(world: World, users: list[str], exact: bool) -> None:
    options = QueryOptions(exact=exact)
    alone = [world.ask(world.fresh, [user], options=options)[0] for user in users]
    assert [facts(one) for one in world.ask(world.fresh, users, options=options)] == [*map(facts, alone)]


def test_what_is_written_is_in_the_next_answer_and_so_is_what_a_friend_did(world: World) -> None:
    ann, bob = "a newcomer", "a friend"
    world.write(Friends([FriendRow(ann, bob)]))
    world.check([ann])
    hits = world.keeping.user_vectors.counts().hits
    world.check([ann])
    assert world.keeping.user_vectors.counts().hits == hits + 1
    for number, user in enumerate((bob, ann)):
        (before,) = world.ask(world.keeping, [ann])
        world.write(Behaviors([BehaviorRow(user, items(world)[number], ts=100 + number)]))
        (after,) = world.ask(world.keeping, [ann])
        assert facts(after) != facts(before)
        world.check([ann])


def test_a_vector_is_kept_and_follows_the_consents_of_friends_who_share_nothing(world: World) -> None:
    ann, bob = "somebody", "somebody's friend"
    world.write(Behaviors([BehaviorRow(bob, items(world)[0])]), Friends([FriendRow(ann, bob)]))
    before = facts(world.ask(world.fresh, [ann])[0])
    for share in (False, True, False):
        world.write(ConsentChanges([ConsentRow(bob, "H", share=share)]))
        world.check([ann])
        hits = world.keeping.user_vectors.counts().hits
        world.check([ann])
        assert world.keeping.user_vectors.counts().hits == hits + 1
        assert (facts(world.ask(world.keeping, [ann])[0]) == before) == share
    world.write(ConsentChanges([ConsentRow(bob, "H", share=True)]))


def test_a_text_counts_as_soon_as_it_has_a_vector(world: World) -> None:
    ann, text = USERS[2], "words that nobody wrote before"
    world.write(Texts([TextRow(ann, text)]))
    (without,) = world.ask(world.keeping, [ann])
    encoder = world.snapshot.encoder
    world.snapshot.cache.put(encoder.text_model_id, [text], encoder.encode([text]))
    assert facts(world.ask(world.keeping, [ann])[0]) != facts(without)
    world.check([ann])


def test_a_vector_that_was_imported_with_a_text_takes_the_place_of_the_old_one(world: World) -> None:
    ann, text, encoder = USERS[2], "words with a vector of their own", world.snapshot.encoder
    world.write(Texts([TextRow(ann, text)]))
    world.snapshot.cache.put(encoder.text_model_id, [text], encoder.encode([text]))
    world.check([ann])
    (before,) = world.ask(world.keeping, [ann])
    vector = np.eye(1, encoder.dim, dtype=np.float32)[0]
    with world.store.writing() as cursor:
        cursor.execute(
            "UPDATE data.texts SET vector = $1, text_model_id = $2 WHERE text = $3",
            [vector.tolist(), encoder.text_model_id, text],
        )
    with CommitListener(world.store, world.state, world.keeping) as listener:
        listener.texts.sweep()
        soon(lambda: facts(world.ask(world.keeping, [ann])[0]) != facts(before))
    world.check([ann])


def test_who_was_erased_is_forgotten_by_followers_too(world: World) -> None:
    ann, bob = USERS[3], "erased-later"
    world.write(Behaviors([BehaviorRow(bob, items(world)[5], ts=1)]), Friends([FriendRow(ann, bob)]))
    world.check([ann, bob])
    with_bob = facts(world.ask(world.keeping, [ann])[0])
    erase_user(world.store, world.state, bob, (), ())
    assert facts(world.ask(world.keeping, [ann])[0]) != with_bob
    assert world.ask(world.keeping, [bob])[0].fallback
    world.check([ann, bob])


@pytest.mark.parametrize("of_friend", [False, True])
def test_no_answer_is_stale_while_readers_and_a_writer_meet(world: World, of_friend: bool) -> None:
    """Whoever asks after a write was acknowledged finds it, while others fill the cache meanwhile."""
    ann, bob = USERS[4], USERS[5]
    world.write(Friends([FriendRow(ann, bob)]))
    written = bob if of_friend else ann
    start, ended = threading.Barrier(3), threading.Barrier(3)
    stop = threading.Event()

    def read() -> None:
        while True:
            start.wait()
            if stop.is_set():
                return
            for _ in range(3):
                world.ask(world.keeping, [ann])
            ended.wait()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    stale = 0
    for number in range(ROUNDS):
        start.wait()
        row = BehaviorRow(written, items(world)[number % 40], ts=1_000 + number)
        world.write(Behaviors([row]))
        found = world.ask(world.keeping, [ann])[0]
        new = world.ask(world.fresh, [ann])[0]
        ended.wait()
        stale += facts(found) != facts(new)
        stale += facts(world.ask(world.keeping, [ann])[0]) != facts(new)
    stop.set()
    start.wait()
    for reader in readers:
        reader.join()
    assert stale == 0


def test_another_snapshot_begins_with_nothing(world: World) -> None:
    world.check()
    assert world.keeping.user_vectors.counts().users > 0
    world.keeping.serve(world.snapshot)
    assert world.keeping.user_vectors.counts().users == 0
    world.check()


# The rules of the cache itself.

A, B = "snapshot a", "snapshot b"  # it compares identities alone


def vector(codes: int = 4) -> UserVector:
    zeros = np.zeros(4, np.float32)
    seen = np.zeros(codes, np.uint32)
    return UserVector(QueryVector(zeros, np.zeros((3, 4), np.float32), UNSCALED), seen, seen.astype(np.int64))


def serving(most_bytes: int = 1 << 20) -> UserVectors:
    cache = UserVectors(most_bytes)
    cache.serve(A)  # type: ignore[arg-type]
    return cache


def put(cache: UserVectors, user: str, *friends: str, sequence: int = 0, snapshot: object = A) -> bool:
    return cache.put(snapshot, sequence, user, friends, vector())  # type: ignore[arg-type]


def kept(cache: UserVectors, user: str, sequence: int = 10_000, snapshot: object = A) -> bool:
    return cache.get(snapshot, sequence, [user])[0] is not None  # type: ignore[arg-type]


def tell(cache: UserVectors, *entries: LogEntry, lost: bool = False, sequence: int = 0) -> None:
    reading = StateReading(None, None, LogHead(sequence or entries[-1].sequence))  # type: ignore[arg-type]
    cache.follow(None if lost else entries, reading)


def test_a_change_drops_the_user_and_whose_friend_it_is() -> None:
    cache = serving()
    assert put(cache, "ann", "bob")
    assert put(cache, "cid", "dan")
    tell(cache, LogEntry(1, frozenset({"bob"})))
    assert not kept(cache, "ann")
    assert kept(cache, "cid")
    tell(cache, LogEntry(2, frozenset({"cid"})))
    assert cache.counts().users == cache.counts().nbytes == 0


@pytest.mark.parametrize("changed", ["ann", "bob"])
def test_a_vector_of_rows_before_a_change_does_not_come_in(changed: str) -> None:
    cache = serving()
    tell(cache, LogEntry(7, frozenset({changed})))
    assert not put(cache, "ann", "bob", sequence=6)
    assert put(cache, "ann", "bob", sequence=7)
    assert put(cache, "cid", sequence=6)


def test_a_vector_of_later_rows_is_not_found_by_an_earlier_transaction() -> None:
    cache = serving()
    put(cache, "ann", sequence=5)
    assert not kept(cache, "ann", sequence=4)
    assert kept(cache, "ann", sequence=5)


@pytest.mark.parametrize("lost", [False, True])
def test_a_change_of_everybody_forgets_everybody_and_refuses_what_was_read_before(lost: bool) -> None:
    cache = serving()
    put(cache, "ann")
    tell(cache, LogEntry(3, None), lost=lost)
    assert not kept(cache, "ann")
    assert not put(cache, "ann", sequence=2)
    assert put(cache, "ann", sequence=3)


def test_changes_that_are_not_remembered_any_more_refuse_what_was_read_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.query.user_vectors._MOST_CHANGES", 2)
    cache = serving()
    tell(cache, *(LogEntry(number, frozenset({f"u{number}"})) for number in range(1, 5)))
    assert not put(cache, "u2", sequence=1)
    assert not put(cache, "somebody", sequence=1)
    assert put(cache, "somebody", sequence=2)
    assert not put(cache, "u3", sequence=2)


def test_another_snapshot_has_vectors_of_its_own() -> None:
    cache = serving()
    put(cache, "ann")
    cache.serve(B)  # type: ignore[arg-type]
    assert not kept(cache, "ann")
    assert not kept(cache, "ann", snapshot=B)
    assert not put(cache, "ann")
    assert put(cache, "ann", snapshot=B)
    assert not kept(cache, "ann")


def test_somebody_whom_many_know_is_forgotten_with_all_of_them() -> None:
    cache, followers = serving(), [f"u{number}" for number in range(30)]
    for user in followers:
        assert put(cache, user, "star", "other")
    put(cache, "u3", "star")  # again, with other friends
    tell(cache, LogEntry(1, frozenset({"other"})))
    assert [kept(cache, user) for user in followers] == [user == "u3" for user in followers]
    tell(cache, LogEntry(2, frozenset({"star"})))
    assert cache.counts().users == cache.counts().nbytes == 0


def test_the_collector_does_not_look_through_what_is_kept() -> None:
    cache = serving()
    for number in range(1_000):
        put(cache, f"u{number}", f"f{number}", f"f{number + 1}")
    for _ in range(4):  # each takes one level of tuples out of its sight
        gc.collect()
    tracked = sum(gc.is_tracked(entry) for entry in cache._entries.values())
    assert tracked == 0
    assert not any(gc.is_tracked(followers) for followers in cache._followers.values())


def test_memory_is_bounded_and_the_least_recently_used_leave_first() -> None:
    cache = serving(4_500)
    for number in range(3):
        put(cache, f"u{number}")
    assert kept(cache, "u0")
    for number in range(3, 6):
        put(cache, f"u{number}")
        assert cache.counts().nbytes <= 4_500
    assert kept(cache, "u5")
    assert kept(cache, "u0")
    assert not kept(cache, "u1")
    assert not serving(100).put(A, 0, "ann", (), vector())  # type: ignore[arg-type]


def test_it_tells_how_often_a_vector_was_found() -> None:
    cache = serving()
    put(cache, "ann")
    cache.get(A, 0, ["ann", "bob", "ann"])  # type: ignore[arg-type]
    counts = cache.counts()
    assert (counts.hits, counts.misses, counts.users) == (2, 1, 1)
