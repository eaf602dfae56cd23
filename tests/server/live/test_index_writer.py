"""What becomes of an index is told through the change log, also after the disk refused it."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from encoder.text import TextCache, TextEncoder
from indexer.files import ItemChange
from indexer.packed_change import pack_change, unpack_change
from indexer.publish import current_index, load_index
from server.live import RecordingIndexWriter, put_live
from server.query import Snapshot
from store.disk import DiskFullError
from store.home import Home
from store.state import UserState


@pytest.fixture
def state(tmp_path: Path) -> Iterator[UserState]:
    with UserState.open(tmp_path / "state") as state:
        yield state


@pytest.fixture
def cache(small_home: Home, tmp_path: Path) -> Iterator[TextCache]:
    shutil.copytree(small_home.text_cache, tmp_path / "cache")
    with closing(TextCache.open(tmp_path / "cache")) as cache:
        yield cache


def snapshot_of(home: Home, state: UserState, cache: TextCache) -> Snapshot:
    loaded = load_index(home, current_index(home).name, threads=1)
    encoder = TextEncoder.load(home.text_models / loaded.model.text_model_id, threads=1)
    return Snapshot(loaded.index, loaded.model, encoder, cache, state, loaded.users)


def change(item_id: str, dim: int, first: float = 1.0) -> ItemChange:
    vector = np.zeros(dim, dtype=np.float32)
    vector[0] = first
    return ItemChange(item_id, vector, 2.0, b"c" * 16, b"f" * 16, "film", '{"année": 1999}')


def test_a_change_survives_its_bytes() -> None:
    for kind, listed in (("film", True), (None, False)):
        before = ItemChange(
            "id", np.arange(3, dtype=np.float32), 2.5, b"c" * 16, b"f" * 16, kind, "{}", listed
        )
        after = unpack_change("id", pack_change(before))
        np.testing.assert_array_equal(after.vector, before.vector)
        for name in ("item_id", "popularity", "content", "facts", "kind", "attributes", "listed"):
            assert getattr(after, name) == getattr(before, name)


def test_another_snapshot_of_the_index_learns_all_that_was_put(
    small_home: Home, state: UserState, cache: TextCache
) -> None:
    first, second = (snapshot_of(small_home, state, cache) for _ in range(2))
    writer, dim = RecordingIndexWriter(state), first.index.dim
    gone = first.index.item_ids(np.array([0]))[0]
    writer.put_items(first, [change("new", dim), change("short", dim)], [gone])
    writer.put_items(first, [change("new", dim, first=2.0)], ["short"])
    state.read(lambda reading: put_live(second, reading))

    assert (
        first.index.rows([gone, "short"]).tolist() == second.index.rows([gone, "short"]).tolist() == [-1, -1]
    )
    (row,) = second.index.rows(["new"])
    assert second.index.vectors_of(np.array([row]))[0, 0] == 2.0
    assert len(first.index) == len(second.index)
    (entry, *_) = state.read(lambda reading: reading.entries(1)) or []
    assert set(entry.items) == {"new", "short"}


def test_what_the_disk_refuses_is_told_by_the_next_call_that_succeeds(
    small_home: Home, state: UserState, cache: TextCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = snapshot_of(small_home, state, cache)
    writer, dim = RecordingIndexWriter(state), snapshot.index.dim
    with monkeypatch.context() as patch:
        patch.setattr(state, "writing", _full)
        with pytest.raises(DiskFullError):
            writer.put_items(snapshot, [change("lost", dim)])
    writer.flush()

    told = state.read(lambda reading: reading.live(snapshot.index.index_id, "items"))
    assert list(told) == ["lost"]


def _full() -> None:
    raise DiskFullError(Path("state"), "no space")


def test_an_index_that_begins_anew_forgets_what_was_told_and_the_one_that_serves_does_not(
    small_home: Home, state: UserState, cache: TextCache
) -> None:
    snapshot = snapshot_of(small_home, state, cache)
    writer, index_id = RecordingIndexWriter(state), snapshot.index.index_id
    writer.put_items(snapshot, [change("new", snapshot.index.dim)])
    writer.serve(index_id)
    writer.begin(index_id)
    assert state.read(lambda reading: reading.live(index_id, "items"))
    again = snapshot_of(small_home, state, cache)
    writer.restore(again)
    assert again.index.rows(["new"])[0] >= 0

    writer.serve("another")
    assert state.read(lambda reading: reading.live(index_id, "items")) == {}
    assert state.read(lambda reading: reading.serves) == "another"
