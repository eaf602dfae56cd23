"""Nobody who was erased comes back from what was under way: texts being encoded, exports being made."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from encoder.text import cache as text_cache
from encoder.text.cache import ErasureSafeWriter, TextCache, encode_with_cache
from encoder.text.encoder import Vectors
from server.live.commits import CommitListener
from server.live.ingest import Ingest
from server.live.writer import GroupCommit
from server.query.retriever import Retriever
from store.home import Home
from store.lmdb_file import open_checked
from store.state.state import UserState
from store.store import Store
from store.writes.request import Request, TextRow, Texts
from store.writes.writer import Writer

ROUNDS = 1_000
DIARY = "a diary"
MODEL = "m"
_SECONDS = 30.0


class FakeEncoder:
    """Encodes at once, after it was let."""

    text_model_id = MODEL
    dim = 4
    one_piece_bytes = 1_000

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.begun.set()
        assert self.gate.wait(_SECONDS)
        return np.ones((len(texts), self.dim), np.float32)

    def encode_chunks(self, chunks: Any) -> Iterator[Vectors]:
        return (self.encode(chunk) for chunk in chunks)


class Place:
    """The writing half of a server on an empty home."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.home, self.encoder = Home(path), FakeEncoder()
        (self.home.text_models / MODEL).mkdir(parents=True)
        self.store = stack.enter_context(Store.open(self.home.database))
        self.state = stack.enter_context(UserState.open(self.home.state))
        self.cache = stack.enter_context(closing(TextCache.open(self.home.text_cache)))
        serving: Any = SimpleNamespace(
            encoder=self.encoder, cache=self.cache, users=None, state=self.state, index=None
        )
        retriever = Retriever(self.store, self.state, serving)
        self.after = stack.enter_context(CommitListener(self.store, self.state, retriever))
        stack.callback(self.encoder.gate.set)
        self.commit = stack.enter_context(GroupCommit(Writer(self.store, self.state), self.after.committed))
        self.ingest = Ingest(self.home, self.store, self.state, self.cache, self.commit, self.after)

    def write(self, user_id: str, text: str) -> None:
        self.commit.submit(Request(Texts([TextRow(user_id, text)]))).result(_SECONDS)

    def cached(self, *texts: str) -> list[bool]:
        return [bool(one) for one in self.cache.get(MODEL, texts, 4)[1]]

    def encoded(self) -> None:
        """Return once everything that was written before is encoded, or was left."""
        self.write("marker", "a marker")
        self.until(lambda: self.cached("a marker") == [True])
        self.ingest.erase("marker", "peer")

    @staticmethod
    def until(true: Callable[[], bool]) -> None:
        for _ in range(int(_SECONDS / 0.01)):
            if true():
                return
            threading.Event().wait(0.01)
        raise AssertionError("it does not come")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path / "home", stack)


def test_a_text_that_is_being_encoded_while_its_author_is_erased_is_not_cached(place: Place) -> None:
    place.encoder.gate.clear()
    place.write("ann", DIARY)
    assert place.encoder.begun.wait(_SECONDS)
    assert place.ingest.erase("ann", "peer").removed["texts"] == 1
    place.encoder.gate.set()
    place.encoded()
    assert place.cached(DIARY) == [False]


def test_a_text_that_waits_to_be_encoded_is_not_cached_either(place: Place) -> None:
    place.encoder.gate.clear()
    place.write("bob", "something else")
    assert place.encoder.begun.wait(_SECONDS)
    place.write("ann", DIARY)
    place.ingest.erase("ann", "peer")
    place.encoder.gate.set()
    place.encoded()
    assert place.cached(DIARY, "something else") == [False, True]


def test_what_another_wrote_meanwhile_is_cached(place: Place) -> None:
    place.encoder.gate.clear()
    place.write("ann", DIARY)
    place.write("cay", "kept")
    assert place.encoder.begun.wait(_SECONDS)
    place.ingest.erase("ann", "peer")
    place.write("bob", DIARY)  # the same words, of somebody who stays
    place.encoder.gate.set()
    place.until(lambda: place.cached(DIARY, "kept") == [True, True])


def test_a_sweep_does_not_bring_back_what_it_read_before(place: Place) -> None:
    place.write("ann", DIARY)
    place.until(lambda: place.cached(DIARY) == [True])
    place.cache.discard(MODEL, [DIARY])
    place.encoder.begun.clear()
    place.encoder.gate.clear()
    place.after.texts.sweep()
    assert place.encoder.begun.wait(_SECONDS)
    place.ingest.erase("ann", "peer")
    place.encoder.gate.set()
    place.encoded()
    assert place.cached(DIARY) == [False]


def test_texts_that_came_while_an_index_was_published_keep_their_fence(place: Place) -> None:
    with place.after.texts.publishing():
        place.write("ann", DIARY)
        place.until(lambda: place.cached(DIARY) == [True])
        place.ingest.erase("ann", "peer")
    place.encoded()
    assert place.cached(DIARY) == [False]


def test_encoding_ahead_of_a_publish_does_not_bring_anybody_back(place: Place) -> None:
    place.encoder.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        place.write("ann", DIARY)
        encoder: Any = FakeEncoder()
        encoder.gate.clear()
        written = ErasureSafeWriter(place.cache, place.store.texts_among)
        (texts,) = place.store.distinct_texts()
        ahead = pool.submit(encode_with_cache, encoder, place.cache, texts, "user texts", written)
        assert encoder.begun.wait(_SECONDS)
        place.ingest.erase("ann", "peer")
        encoder.gate.set()
        assert ahead.result(_SECONDS).shape == (1, 4)
    place.encoder.gate.set()
    place.encoded()
    assert place.cached(DIARY) == [False]


def test_a_thousand_erasures_beside_encoding_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        text_cache, "open_checked", partial(open_checked, sync=False)
    )  # the disk decides nothing here
    cache = TextCache.open(tmp_path / "cache")
    written: dict[str, str] = {}  # author by text
    meet = threading.Barrier(2, timeout=_SECONDS)
    vector = np.ones((2, 4), np.float32)
    left: list[int] = []

    def among(texts: Sequence[str]) -> set[str]:
        return written.keys() & set(texts)

    def erase() -> None:
        for number in range(ROUNDS):
            meet.wait()
            del written[f"of ann {number}"]
            cache.discard(MODEL, [f"of ann {number}"])
            meet.wait()

    with closing(cache), ThreadPoolExecutor(1) as pool:
        eraser = pool.submit(erase)
        for number in range(ROUNDS):
            texts = [f"of ann {number}", f"of bob {number}"]
            written |= dict.fromkeys(texts, "")
            on_the_way = ErasureSafeWriter(cache, among)
            meet.wait()
            on_the_way.put(MODEL, texts, vector)
            meet.wait()
            if cache.get(MODEL, texts, 4)[1].tolist() != [False, True]:
                left.append(number)
        eraser.result(_SECONDS)
    assert left == []


class HeldEnvironment:
    """An LMDB environment whose commits are held as by a slow disk."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.held, self.gate = threading.Event(), threading.Event()

    def begin(self, *, write: bool = False, buffers: bool = False) -> Any:
        return _Held(self, self._env.begin(write=write, buffers=buffers), write)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


class _Held:
    def __init__(self, env: HeldEnvironment, transaction: Any, write: bool) -> None:
        self._env, self._transaction, self._write = env, transaction, write

    def __enter__(self) -> Any:
        return self._transaction.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._write:
            self._env.held.set()
            assert self._env.gate.wait(_SECONDS)
        self._transaction.__exit__(*error)


def test_readers_do_not_wait_for_the_disk_of_a_put(tmp_path: Path) -> None:
    TextCache.open(tmp_path).close()
    env, _ = open_checked(tmp_path, map_size=1 << 30)
    slow = HeldEnvironment(env)
    cache = TextCache(tmp_path, slow)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.put, MODEL, [DIARY], np.ones((1, 4), np.float32))
        assert slow.held.wait(_SECONDS)
        assert cache.get(MODEL, [DIARY], 4)[1].tolist() == [False]  # and comes back at once
        cache.put_later(MODEL, ["an item"], np.ones((1, 4), np.float32))  # this too
        slow.gate.set()
        assert waiting.result(_SECONDS)
    cache.close()
    with closing(TextCache.open(tmp_path)) as again:
        assert again.get(MODEL, [DIARY, "an item"], 4)[1].tolist() == [True, True]
