"""What the workers that follow commits promise, by events that really meet."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

import server.live.artifacts
from encoder.text.cache import TextCache
from encoder.text.encoder import Vectors
from indexer.publish import load_index
from server import supervisor as supervisor_module
from server.app import running
from server.config import ServerConfig
from server.live.commits import CommitListener
from server.live.items import LiveItems
from server.live.texts import LiveTexts
from server.live.users import LiveUsers
from server.query.retriever import Retriever
from server.query.snapshot import Snapshot, prepare
from server.supervisor import attempt_each
from store.home import Home
from store.state.state import UserState
from store.store import Store
from store.tables import VIEWS
from store.writes.request import ConsentChanges, ConsentRow, Request
from store.writes.writer import Writer
from tests.live_server import SOON, copy_home, soon
from triptych_client import Client, Item
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc


class Serving:
    """What follows commits in a server, with its index loaded twice: one serves, the other is next."""

    def __init__(self, home: Home, stack: ExitStack) -> None:
        self.store = stack.enter_context(Store.open(home.database))
        state = stack.enter_context(UserState.open(home.state))
        cache = stack.enter_context(closing(TextCache.open(home.text_cache)))

        def snapshot() -> Snapshot:
            loaded = load_index(home, home.current_index.read_text().strip())
            return prepare(home, loaded, self.store, state, cache, 1)

        self.now, self.next = snapshot(), snapshot()
        self.retriever = Retriever(self.store, state, self.now)
        self.listener = stack.enter_context(CommitListener(self.store, state, self.retriever))

    def delete_item(self, item_id: str) -> None:
        with self.store.writing() as cursor:
            cursor.execute("UPDATE data.items SET available = false WHERE item_id = $1", [item_id])
        self.listener.items.committed([([], [item_id])])

    def erase_user(self, user_id: str) -> None:
        with self.store.writing() as cursor:
            for table in ("behaviors", "texts", "social"):
                cursor.execute(f"DELETE FROM data.{table} WHERE user_id = $1", [user_id])
        self.listener.erased(user_id)


@pytest.fixture
def serving(small_home: Home, tmp_path: Path) -> Iterator[Serving]:
    with ExitStack() as stack:
        yield Serving(copy_home(small_home, tmp_path / "home"), stack)


def item_of(snapshot: Snapshot, row: int = 0) -> str:
    return snapshot.index.item_ids(np.array([row]))[0]


def user_of(snapshot: Snapshot) -> str:
    assert snapshot.users is not None
    return snapshot.users.item_ids(np.array([0]))[0]


def has_item(snapshot: Snapshot, item_id: str) -> bool:
    return bool(snapshot.index.rows([item_id])[0] >= 0)


def has_user(snapshot: Snapshot, user_id: str) -> bool:
    assert snapshot.users is not None
    return bool(snapshot.users.rows([user_id])[0] >= 0)


def held(patch: pytest.MonkeyPatch, kind: Any, name: str) -> tuple[threading.Event, threading.Event]:
    """Hold the next call once it has its result; return an event of that, and one that lets it go on."""
    came, go_on, real = threading.Event(), threading.Event(), getattr(kind, name)

    def call(*args: Any, **options: Any) -> Any:
        result = real(*args, **options)
        if not came.is_set():
            came.set()
            assert go_on.wait(SOON)
        return result

    patch.setattr(kind, name, call)
    return came, go_on


def test_what_is_removed_between_comparison_and_swap_is_not_in_the_next_snapshot(serving: Serving) -> None:
    item_id, user_id = item_of(serving.now), user_of(serving.now)
    with serving.listener.following(serving.next):
        assert has_item(serving.next, item_id)
        assert has_user(serving.next, user_id)
        serving.delete_item(item_id)
        serving.erase_user(user_id)
        for snapshot in (serving.now, serving.next):
            assert not has_item(snapshot, item_id)
            assert not has_user(snapshot, user_id)
        new = Item("new", None, "a bronze bowl", "relic", {}, available=True, updated_at=None)
        serving.listener.items.committed([([new], [])])
        assert has_item(serving.now, "new")
        assert has_item(serving.next, "new")
        serving.retriever.serve(serving.next)


@pytest.mark.parametrize("reads", ["item_hashes", "user_hashes"])
def test_what_is_removed_while_the_next_snapshot_is_compared_is_not_in_it(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, reads: str
) -> None:
    """The comparison has read the store when the row is removed."""
    item_id, user_id = item_of(serving.now), user_of(serving.now)
    came, go_on = held(monkeypatch, Store, reads)

    def publish() -> None:
        with serving.listener.following(serving.next):
            serving.retriever.serve(serving.next)

    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(publish)
        assert came.wait(SOON)
        serving.delete_item(item_id)
        serving.erase_user(user_id)
        go_on.set()
        published.result(SOON)
    assert not has_item(serving.next, item_id)
    assert not has_user(serving.next, user_id)


def test_a_vector_of_what_was_shared_until_just_now_does_not_come_back(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background has read what the user shared when the user takes that back."""
    assert serving.now.users is not None
    user_id, other = serving.now.users.item_ids(np.array([0, 1]))
    came, go_on = held(monkeypatch, UserState, "shared_users")
    serving.listener.users.changed([user_id])
    assert came.wait(SOON)
    withheld = ConsentChanges([ConsentRow(user_id, view, share=False) for view in VIEWS])
    _, change = Writer(serving.store, serving.now.state).write([Request(withheld)])
    serving.listener.committed(change)
    assert not has_user(serving.now, user_id)
    serving.listener.users.withdrawn([other])
    assert not has_user(serving.now, other)
    go_on.set()
    soon(lambda: has_user(serving.now, other))  # whoever was to be encoded before is done
    assert not has_user(serving.now, user_id)


def test_a_publish_that_fails_is_followed_no_more(serving: Serving) -> None:
    with pytest.raises(OSError, match="no space"), serving.listener.following(serving.next):
        raise OSError("no space")
    item_id = item_of(serving.now)
    serving.delete_item(item_id)
    assert not has_item(serving.now, item_id)
    assert has_item(serving.next, item_id)


def test_nobody_finds_what_was_removed_during_a_publish(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the API, and with nothing that could mend it once the next index serves."""
    home = copy_home(small_home, tmp_path / "home")
    with (
        running(ServerConfig(home, port=0)) as address,
        Client(address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        item_id = client.query(user_id="nobody", k=1).item_ids[0]
        user_id = client.query(text="stars", k=1, target=pb.TARGET_USERS).user_ids[0]
        monkeypatch.setattr(LiveItems, "_since_serving", lambda *_: None)
        monkeypatch.setattr(LiveUsers, "_since_serving", lambda *_: None)
        came, go_on = held(monkeypatch, server.live.artifacts, "set_pointer")  # between comparison and swap
        index_id = home.current_index.read_text().strip()
        published = pool.submit(Publishing(address).publish, index_id)
        assert came.wait(SOON)
        client.delete_items([item_id])
        client.erase_user(user_id)
        go_on.set()
        published.result(SOON)
        assert item_id not in client.query(user_id="nobody", k=1000).item_ids
        assert user_id not in client.query(text="stars", k=1000, target=pb.TARGET_USERS).user_ids


class Publishing:
    """Publishes an index of a running server, as the command does."""

    def __init__(self, address: str) -> None:
        self._address = address

    def publish(self, index_id: str) -> None:
        with grpc.insecure_channel(self._address) as channel:
            rpc.AdminStub(channel).PublishIndex(pb.PublishIndexRequest(index_id=index_id), timeout=SOON)


class FakeEncoder:
    """Encodes every text but poison."""

    text_model_id = "m"
    dim = 4
    one_piece_bytes = 1_000

    def __init__(self) -> None:
        self.poisonous = True
        self.refused = 0

    def encode(self, texts: Sequence[str]) -> Vectors:
        if self.poisonous and any("poison" in text for text in texts):
            self.refused += 1
            raise ValueError("cannot be encoded")
        return np.ones((len(texts), self.dim), np.float32)


class FakeStore:
    """Holds texts, which a sweep reads one by one."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def distinct_texts(self) -> Iterator[list[str]]:
        return ([text] for text in self.texts)

    def texts_among(self, texts: Sequence[str]) -> set[str]:
        return set(texts)

    def imported_vectors(self, _: str) -> Iterator[Any]:
        return iter(())


@pytest.fixture
def state(tmp_path: Path) -> Iterator[UserState]:
    with UserState.open(tmp_path / "state") as state:
        yield state


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TextCache]:
    with closing(TextCache.open(tmp_path / "cache")) as cache:
        yield cache


def test_a_text_that_fails_does_not_keep_a_sweep_from_the_others(
    cache: TextCache, state: UserState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the worker catches up after each failure without a pause, before the sweep is through."""
    monkeypatch.setattr(supervisor_module, "_FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(supervisor_module, "_LONGEST_PAUSE_S", 0.0)
    encoder, others = FakeEncoder(), [f"text {n}" for n in range(20)]
    store: Any = FakeStore(["poison", *others])
    retriever: Any = SimpleNamespace(snapshot=SimpleNamespace(encoder=encoder, cache=cache, state=state))

    def cached(texts: list[str]) -> bool:
        return bool(cache.get("m", texts, 4)[1].all())

    with LiveTexts(store, retriever) as texts:
        texts.sweep()
        soon(lambda: cached(others))
        assert texts.state().failing
        refused = encoder.refused
        soon(lambda: encoder.refused > refused)  # it is tried again and again
        encoder.poisonous = False
        soon(lambda: cached(["poison"]))
        soon(lambda: not texts.state().failing)


def test_new_texts_go_before_a_sweep(cache: TextCache, state: UserState) -> None:
    encoded: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    class Recording(FakeEncoder):
        def encode(self, texts: Sequence[str]) -> Vectors:
            begun.set()
            assert go_on.wait(SOON)
            encoded.extend(texts)
            return super().encode(texts)

    store: Any = FakeStore([f"stored {n}" for n in range(3)])
    retriever: Any = SimpleNamespace(snapshot=SimpleNamespace(encoder=Recording(), cache=cache, state=state))
    with LiveTexts(store, retriever) as texts:
        texts.sweep()
        assert begun.wait(SOON)
        texts.committed(["new 0", "new 1"])
        go_on.set()
        soon(lambda: len(encoded) == 5)
    assert encoded == ["stored 0", "new 0", "new 1", "stored 1", "stored 2"]


def test_each_thing_is_attempted_and_the_last_error_raised() -> None:
    attempted: list[int] = []

    def attempt(number: int) -> None:
        attempted.append(number)
        if number % 2:
            raise ValueError(number)

    with pytest.raises(ValueError, match="3"):
        attempt_each(attempt, range(5))
    assert attempted == [0, 1, 2, 3, 4]
    attempt_each(attempt, [0, 2])
