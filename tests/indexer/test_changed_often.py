"""Items that change often: what was removed is let go of, and no search notices."""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer import delta as module
from indexer.files import ItemChange
from indexer.filters import Filter
from indexer.index import Index
from tests.random_index import DIM, attributes, make_index, queries_of

ITEMS = 60
NAMES = [f"item-{row:09d}" for row in range(20)] + [f"new-{number}" for number in range(20)]
RED = Filter(equals=(("colour", ("red",)),))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    monkeypatch.setattr(module, "_KEPT_REMOVED", 8)
    return make_index(tmp_path, ITEMS)


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Have threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def changed(name: str, number: int) -> ItemChange:
    """The change of an item whose vector, popularity and attributes tell its name and number."""
    vector = np.random.default_rng([number, *name.encode()]).standard_normal(DIM).astype(np.float32)
    facts = json.dumps(attributes(number))
    return ItemChange(name, vector, float(number), bytes(16), bytes(16), "film", facts)


def change_often(index: Index, rounds: int = 60) -> dict[str, int]:
    """Put and remove items at random; return the number of the last change of those that are there."""
    generator, last = np.random.default_rng(5), dict[str, int]()
    for number in range(rounds):
        put = [NAMES[one] for one in generator.choice(len(NAMES), 6, replace=False)]
        removed = [name for name in generator.choice(NAMES, 2).tolist() if name not in put]
        index.put([changed(name, number) for name in put], removed)
        last = {name: at for name, at in last.items() if name not in removed} | dict.fromkeys(put, number)
    return last


def test_what_is_found_is_what_was_put_last(index: Index) -> None:
    last = change_often(index)
    assert last
    assert index.delta.state.version > 62  # numbered anew more than once
    rows, state = index.rows(list(last)), index.delta.state
    assert index.item_ids(rows) == list(last)
    wanted = np.array([changed(*one).vector for one in last.items()])
    assert np.array_equal(index.vectors_of(rows), wanted)
    assert index.popularity_of(rows).tolist() == list(last.values())
    red = {name for name, number in last.items() if attributes(number)["colour"] == "red"}
    assert red == {name for name in index.item_ids(index.passing(RED)) if name in last}
    gone = [name for name in NAMES if name not in last]
    assert (index.rows([name for name in gone if name.startswith("new")]) == -1).all()
    queries = queries_of(4)
    for filter_ in (None, RED):
        found, scores = index.search(queries, 10, wanted=filter_)
        assert [index.item_ids(one) for one in found] == [
            index.item_ids(one) for one in index.brute_force(queries, 10, wanted=filter_)[0]
        ]
        assert np.array_equal(scores, index.scores_of(queries, found))
    assert {one.item_id for one in index.delta.changes()} == set(last)
    assert state.without_vector == 0


def test_rows_that_are_removed_take_no_room(index: Index) -> None:
    for number in range(300):
        index.put([changed(name, number) for name in NAMES[:10]])
        state = index.delta.state
        assert len(state.rows.changes) == len(state.removed_at) <= 2 * max(10, 8) + 10
        assert len(state.vectors.base if state.vectors.base is not None else state.vectors) <= 64
    assert len(index) == ITEMS


def test_an_earlier_state_answers_as_before(index: Index) -> None:
    index.put([changed(name, 1) for name in NAMES])
    state, queries = index.delta.state, queries_of(3)

    def seen() -> tuple[object, ...]:
        rows, scores = index.search(queries, 15, wanted=RED, state=state)
        every = index.rows(NAMES, state)
        return (
            [index.item_ids(one, state) for one in rows],
            scores.tolist(),
            index.scores_of(queries, rows, state).tolist(),
            every.tolist(),
            index.vectors_of(every, state).tolist(),
            index.popularity_of(every, state).tolist(),
            index.item_ids(index.popular(5, np.zeros(0, np.int64), None, state), state),
            index.passing(RED, state).tolist(),
        )

    before = seen()
    change_often(index)
    index.put([], NAMES)
    assert (index.delta.state.version > state.version + 62, len(index.delta.state.rows.changes) < 20) == (
        True,
        True,
    )
    assert seen() == before


def test_a_copy_that_fails_leaves_the_index_as_the_put_left_it(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    number, only = 3, module.AppendedRows.only
    for earlier in (1, 2):
        index.put([changed(name, earlier) for name in NAMES])
    monkeypatch.setattr(module.AppendedRows, "only", fail)
    with pytest.raises(MemoryError):
        index.put([changed(name, number) for name in NAMES])
    rows = index.rows(NAMES)
    assert index.popularity_of(rows).tolist() == [number] * len(NAMES)
    monkeypatch.setattr(module.AppendedRows, "only", only)
    index.put([changed(NAMES[0], number + 1)])
    rows = index.rows(NAMES)
    assert index.item_ids(rows) == NAMES
    assert index.popularity_of(rows).tolist() == [number + 1, *[number] * (len(NAMES) - 1)]
    assert len(index.delta.state.rows.changes) == len(NAMES)


@pytest.mark.usefixtures("quick_switches")
def test_who_searches_meanwhile_gets_names_and_vectors_of_one_state(index: Index) -> None:
    index.put([changed(name, 0) for name in NAMES])
    start, over, wrong = threading.Barrier(3), threading.Event(), list[str]()
    numbers = {changed(name, n).vector.tobytes(): (name, n) for name in NAMES for n in range(200)}

    def search() -> None:
        queries = queries_of(1)
        start.wait()
        while not over.is_set():
            state = index.delta.state
            rows = index.search(queries, 30, state=state)[0][0]
            rows = rows[rows >= ITEMS]
            named = zip(
                index.item_ids(rows, state),
                index.vectors_of(rows, state),
                index.popularity_of(rows, state),
                strict=True,
            )
            wrong.extend(n for n, vector, at in named if numbers[vector.tobytes()] != (n, int(at)))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    start.wait()
    for number in range(1, 200):
        index.put([changed(name, number) for name in NAMES])
    over.set()
    for thread in threads:
        thread.join()
    assert (wrong, index.delta.state.version > 250) == ([], True)
