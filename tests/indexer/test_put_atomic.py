"""A put into an index is there whole or not at all for who searches meanwhile; one that fails is nothing."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from indexer.delta import Delta
from indexer.files import ItemChange, ItemIds, hashed
from indexer.filters.attribute_index import MutableAttributeIndex, term, terms_of
from indexer.filters.filter import Filter
from indexer.search.filter_cache import FilterCache
from server.query.snapshot import ValuesByCode
from store.attributes import BadAttributesError
from store.state.vocabulary import Vocabulary, VocabularyDraft

ROUNDS = 1_000
VECTOR = np.ones(4, dtype=np.float32)


class MainPart:
    """Stands for the main part of an index: ten items without facts."""

    def __init__(self) -> None:
        names = pa.array([f"m{n}" for n in range(10)], pa.large_string())
        self.ids = ItemIds(names, *hashed(names))
        self.attributes = MutableAttributeIndex()

    def __len__(self) -> int:
        return len(self.ids)


def change(item_id: str, kind: str = "film", attributes: str = "{}", **other: Any) -> ItemChange:
    return replace(ItemChange(item_id, VECTOR, 1.0, bytes(16), bytes(16), kind, attributes), **other)


@pytest.fixture
def delta() -> Delta:
    delta = Delta(MainPart().ids, 4)
    delta.apply([change(f"x{n}", attributes=f'{{"price": {n}}}') for n in range(20)])
    return delta


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Have threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def state(delta: Delta, names: list[str]) -> tuple[object, ...]:
    """Return all that a search can see of a delta."""
    now = delta.state
    rows = delta.rows(names)
    films, prices = (
        now.rows.attributes.having(term("kind", "film")),
        now.rows.attributes.between("price", -1e9, 1e9),
    )
    known = [found[found < len(now.removed_at)].tolist() for found in (films, prices)]
    there = now.live(np.arange(len(now.main_removed_at) + len(now.removed_at))).tolist()
    held = now.vectors.tolist(), now.vector_rows.tolist(), now.popularity.tolist()
    counts = now.version, now.main_removed, now.removed, now.without_vector
    return rows.tolist(), there, held, counts, known, [one.item_id for one in delta.changes()]


FAILING = {
    "attributes": (BadAttributesError, change("x1", attributes='{"x": 1%s}' % ("0" * 400))),
    "no JSON": (BadAttributesError, change("x1", attributes="{")),
    "vector": (ValueError, change("x1", vector=np.ones(5, dtype=np.float32))),
}
NAMES = ["m0", "m1", "m2", "x0", "x1", "x2", "new", "other"]


@pytest.mark.parametrize(("error", "bad"), FAILING.values(), ids=FAILING)
def test_a_put_that_fails_changes_nothing_then_or_later(
    delta: Delta, error: type[Exception], bad: ItemChange
) -> None:
    before = state(delta, NAMES)
    with pytest.raises(error):
        delta.apply([change("m1"), change("x0"), bad, change("new")], ["m2", "x2"])
    assert state(delta, NAMES) == before
    delta.apply([change("other")])  # has nothing to do with it
    rows = delta.rows(NAMES)
    assert delta.state.live(rows[:-2]).all()
    assert (rows[-2], delta.state.main_removed, delta.state.removed) == (-1, 0, 0)
    assert [one.item_id for one in delta.changes()] == [*(f"x{n}" for n in range(20)), "other"]
    delta.apply([change("m1")], ["x1"])
    assert len(delta.changes()) == 21
    assert delta.rows(["x1"])[0] == -1


def test_nothing_to_change_leaves_the_state(delta: Delta) -> None:
    before = delta.state
    delta.apply([change("unknown", vector=np.zeros(4, np.float32), listed=False)], ["other"])
    assert delta.state is before


def test_a_put_that_breaks_off_half_way_leaves_nothing_to_those_that_follow(
    delta: Delta, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, add = state(delta, NAMES), MutableAttributeIndex.add

    def adds_one_and_fails(facts: MutableAttributeIndex, row: int, *rest: Any) -> None:
        if row >= 21:
            raise MemoryError
        add(facts, row, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(MutableAttributeIndex, "add", adds_one_and_fails)
        with pytest.raises(MemoryError):
            delta.apply([change("new", "film", '{"price": 7}'), change("x0")], ["m2"])
    assert state(delta, NAMES)[:4] == before[:4]
    delta.apply([change("other", "book")])
    films = delta.state.rows.attributes.having(term("kind", "film")) + 10
    assert not set(delta.state.ids_of(films[delta.state.live(films)] - 10)) & {"new", "other"}
    assert delta.rows(["new", "m2"]).tolist() == [-1, 2]
    assert [one.item_id for one in delta.changes()] == [*(f"x{n}" for n in range(20)), "other"]
    assert len(delta.state.removed_at) - delta.state.removed == 21


def test_readers_never_make_a_put_fail(quick_switches: None) -> None:
    """A copy of 5,000 rows takes long enough for the writer to come between."""
    main = MainPart()
    delta = Delta(main.ids, 4)
    delta.apply([change(f"x{n}", attributes='{"price": 1}') for n in range(5_000)])
    meet = Barrier(3, timeout=60)
    failed: list[str] = []

    def read() -> None:
        for _ in range(ROUNDS):
            meet.wait()
            for _ in range(2):
                delta.state.rows.attributes.having(term("kind", "film"))
                delta.state.rows.attributes.between("price", 0, 2)

    readers = [Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    for n in range(ROUNDS):
        meet.wait()
        try:
            delta.apply([change(f"y{n}", attributes='{"price": 1}')])
        except BufferError as error:
            failed.append(str(error))
    for thread in readers:
        thread.join()
    assert failed == []
    assert len(delta.changes()) == 5_000 + ROUNDS
    assert len(delta.state.rows.attributes.having(term("kind", "film"))) == 5_000 + ROUNDS
    assert len(delta.state.rows.attributes.between("price", 0, 2)) == 5_000 + ROUNDS


def test_a_filtered_search_sees_two_items_change_together(quick_switches: None) -> None:
    main = MainPart()
    delta = Delta(main.ids, 4)
    delta.apply([change("a", "red"), change("b", "red")])
    filtering = FilterCache(main, main.attributes, delta.rows)  # type: ignore[arg-type]
    meet = Barrier(2, timeout=60)
    seen: set[tuple[int, int]] = set()

    def read() -> None:
        for _ in range(ROUNDS):
            meet.wait()
            now = delta.state
            counts = []
            for kind in ("red", "blue"):
                late = filtering.allowed(Filter(kinds=(kind,)), now).appended
                assert late is not None
                counts.append(int(now.live(late + len(main)).sum()))
            seen.add((counts[0], counts[1]))

    reader = Thread(target=read)
    reader.start()
    for n in range(ROUNDS):
        meet.wait()
        delta.apply([change(name, ("blue", "red")[n % 2]) for name in ("a", "b")])
    reader.join()
    assert seen == {(2, 0), (0, 2)}


class Table:
    """Stands for the transaction that codes are written in."""

    def put(self, *_: object, **__: object) -> None:
        pass


def test_a_code_that_was_taken_back_is_looked_up_again() -> None:
    codes = Vocabulary(["a"])
    lengths = ValuesByCode(codes, lambda names: np.array([len(name) for name in names], dtype=np.int64))
    broken = VocabularyDraft(codes, Table(), None)
    broken.code("broken")
    codes.add(broken)
    assert lengths(np.array([0, 1])).tolist() == [1, 6]  # a reader, before the transaction fails
    codes.roll_back(broken)
    kept = VocabularyDraft(codes, Table(), None)
    assert kept.code("ok") == 1
    codes.add(kept)
    assert lengths(np.array([0, 1])).tolist() == [1, 2]


def test_facts_are_read_as_they_were_added() -> None:
    facts = MutableAttributeIndex()
    assert not len(facts.having(term("kind", "film")))
    assert not len(facts.between("price", 0, 9))
    facts.add(3, terms_of("film", {"price": [1, 8, 8]}))
    assert facts.having(term("kind", "film")).tolist() == [3]
    assert facts.between("price", 8, 8).tolist() == [3]
