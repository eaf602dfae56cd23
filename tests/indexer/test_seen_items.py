"""An item that was seen, denied or not let through stays out while it is put again and again."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from encoder.text.cache import TextCache
from indexer.delta import Delta
from indexer.files import ItemChange
from indexer.filters.filter import Filter
from indexer.index import Index
from indexer.publish import current_index, load_index
from scripts.bench.index.synthetic import write_index
from server.query.query import Query, QueryOptions, StoredUser
from server.query.retriever import Retriever
from server.query.snapshot import Snapshot, prepare
from store.home import Home
from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
from store.store import Store
from tests.live_server import copy_home

USER = StoredUser("u00001")
ROUNDS = 1_000


@pytest.fixture
def retriever(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retriever]:
    home = copy_home(small_home, tmp_path_factory.mktemp("seen") / "home")
    with (
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        bring_up_to_date(store, state)
        serving = prepare(home, load_index(home, current_index(home).name), store, state, cache, 1)
        yield Retriever(store, state, serving)


def ids_of(retriever: Retriever, **fields: object) -> list[str]:
    return retriever.retrieve([Query(USER, 150, **fields)])[0].ids  # type: ignore[arg-type]


def put_again(index: Index, ids: Sequence[str], kind: str | None = None) -> None:
    rows = index.rows(ids)
    vectors = index.vectors_of(rows)
    index.put(
        [
            ItemChange(item_id, vector, 0.0, bytes(16), bytes(16), kind, "{}")
            for item_id, vector in zip(ids, vectors, strict=True)
        ]
    )


def seen_of(retriever: Retriever) -> list[str]:
    everything = ids_of(retriever, exclude_seen=False)
    return sorted(set(everything) - set(ids_of(retriever)))


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Index, list[str]]]:
    """Items that are put again after each lookup of rows, which is before the next step of a query."""
    again: list[tuple[Index, list[str]]] = []

    def patch(owner: type, name: str) -> None:
        look_up = getattr(owner, name)

        def looked_up(self: object, *arguments: object) -> object:
            found = look_up(self, *arguments)
            if again:
                index, ids = again.pop()
                put_again(index, ids, "put")
            return found

        monkeypatch.setattr(owner, name, looked_up)

    patch(Index, "current_rows")
    patch(Delta, "rows")
    return again


@pytest.mark.parametrize("exact", [False, True])
def test_what_is_put_between_two_lookups_of_a_query_is_not_in_its_answer(
    retriever: Retriever, between: list[tuple[Index, list[str]]], exact: bool
) -> None:
    seen, index = seen_of(retriever), retriever.snapshot.index
    assert seen
    for _ in range(3):
        between.append((index, seen))
        found = ids_of(retriever, options=QueryOptions(exact=exact))
        assert not set(found) & set(seen)
        assert not between  # it was put again under way
        found = ids_of(retriever)
        assert not set(found) & set(seen)

    denied = found[:5]
    between.append((index, denied))
    answer = ids_of(retriever, filter=Filter(deny=tuple(denied)))
    assert not set(answer) & set(denied)
    assert sorted([*answer, *denied]) == sorted(found)

    between.append((index, denied))
    assert sorted(ids_of(retriever, filter=Filter(allow=tuple(denied)))) == sorted(denied)

    between.append((index, denied))
    answer = ids_of(retriever, exclude_seen=False, filter=Filter(kinds=("put",), deny=tuple(denied)))
    assert sorted(answer) == seen  # those that had the kind when the query began


def test_a_popular_item_that_is_put_between_two_lookups_stays_denied(
    retriever: Retriever, between: list[tuple[Index, list[str]]]
) -> None:
    def popular(wanted: Filter | None = None) -> list[str]:
        return retriever.retrieve([Query(StoredUser("nobody"), 150, filter=wanted)])[0].ids

    first = popular()[:3]
    between.append((retriever.snapshot.index, first))
    assert not set(popular(Filter(deny=tuple(first)))) & set(first)


def test_a_seen_item_that_is_put_before_its_row_is_looked_up_stays_out(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, index, index_rows = seen_of(retriever), retriever.snapshot.index, Snapshot.index_rows

    def late(self: Snapshot, *arguments: object) -> object:
        put_again(index, seen)
        return index_rows(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Snapshot, "index_rows", late)
    for _ in range(3):
        assert not set(ids_of(retriever)) & set(seen)


def test_a_seen_item_that_is_put_before_the_popular_ones_are_chosen_stays_out(
    retriever: Retriever, between: list[tuple[Index, list[str]]]
) -> None:
    seen, no_view = seen_of(retriever), QueryOptions(view_weights=(0.0, 0.0, 0.0))
    for _ in range(3):
        between.append((retriever.snapshot.index, seen))
        (found,) = retriever.retrieve([Query(USER, 150, options=no_view)])
        assert found.fallback
        assert not between
        assert not set(found.ids) & set(seen)


def test_a_seen_item_stays_out_while_it_is_put_in_a_thousand_rounds(retriever: Retriever) -> None:
    seen, index = seen_of(retriever)[:2], retriever.snapshot.index
    start = threading.Barrier(2)

    def put() -> None:
        for _ in range(ROUNDS):
            start.wait()
            put_again(index, seen)

    slipped = 0
    thread = threading.Thread(target=put)
    thread.start()
    for _ in range(ROUNDS):
        start.wait()
        slipped += bool(set(ids_of(retriever)) & set(seen))
    thread.join()
    assert slipped == 0
    assert len(index.delta.changes()) == len(seen)  # every round was one


def test_rows_of_a_state_stay_what_they_were(retriever: Retriever) -> None:
    index = retriever.snapshot.index
    ids = [index.main.ids[0], "new", "unknown"]
    states = [index.delta.state]
    rows = [index.rows(ids).tolist()]
    vector = np.ones(index.dim, np.float32)
    for put, removed in (
        (["new"], []), (ids[:2], []), (["new"], [ids[0]]), ([], ["new"]), (ids[:1], []), (["new"], ["new"]),
    ):  # fmt: skip
        changes = [ItemChange(item_id, vector, 0.0, bytes(16), bytes(16), None, "{}") for item_id in put]
        index.put(changes, removed)
        states.append(index.delta.state)
        rows.append(index.rows(ids).tolist())
    main = len(index.main)
    assert rows == [
        [0, -1, -1], [0, main, -1], [main + 1, main + 2, -1], [-1, main + 3, -1], [-1, -1, -1],
        [main + 4, -1, -1], [main + 4, main + 5, -1],
    ]  # fmt: skip
    assert [index.rows(ids, state).tolist() for state in states] == rows


def test_rows_of_the_main_part_become_the_rows_of_a_state_without_hashing_ids(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    index = write_index(tmp_path, vectors, "Flat", vectors)
    main_ids = index.ids.to_pylist()
    ids = [*main_ids, "new", "unknown"]
    main_rows = index.main_rows(ids)
    main_rows.flags.writeable = False
    assert main_rows.tolist() == [*range(40), -1, -1]
    states = [index.delta.state]
    for puts, removed in (
        ([], [ids[3]]),
        ([ids[5], "new"], []),
        (["new", ids[3]], [ids[9]]),
        ([], ["new", ids[5]]),
    ):
        new = [ItemChange(i, vectors[0], 0.0, bytes(16), bytes(16), None, "{}") for i in puts]
        index.put(new, removed)
        states.append(index.delta.state)
    named: list[str] = []

    def name_of(position: int) -> str:
        named.append(ids[position])
        return ids[position]

    found = [index.current_rows(main_rows, name_of, state).tolist() for state in states]
    assert found == [index.rows(ids, state).tolist() for state in states]
    assert found[0] == main_rows.tolist()
    assert found[1] == [*range(3), -1, *range(4, 40), -1, -1]
    assert (found[2][5], found[2][40], found[3][3], found[4][40]) == (40, 41, 43, -1)
    assert index.main_rows([ids[9]]).tolist() == [9]  # removed, and still a row of the main part
    assert set(named) == {ids[3], ids[5], ids[9], "new", "unknown"}
