"""Held-out marks: the four laws in every mode, and small tables by hand."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evaluation.split import NO_TIME, TEST, TRAIN, VALID, Mode, NoTimeError, SplitError, mark

MODES: tuple[Mode, ...] = ("random", "time", "last")
Table = list[tuple[int, int, int]]
ROW = st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 4))


def columns(rows: Table) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def labels(by: Mode, rows: Table, valid: float = 0.25, test: float = 0.25, seed: int = 3) -> list[int]:
    return [int(label) for label in mark(by, *columns(rows), valid=valid, test=test, seed=seed)]


def of_groups(rows: Table, found: list[int]) -> dict[tuple[int, int], set[int]]:
    groups = defaultdict(set)
    for (_, item, ts), label in zip(rows, found, strict=True):
        groups[item, ts].add(label)
    return groups


@pytest.mark.parametrize("by", MODES)
@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROW, max_size=40), seed=st.integers(0, 99), share=st.sampled_from([0.1, 0.3, 0.49]))
def test_laws(by: Mode, rows: Table, seed: int, share: float) -> None:
    found = labels(by, rows, share, share, seed)
    assert all(len(group) == 1 for group in of_groups(rows, found).values())  # law 1
    users = {user: [i for i, row in enumerate(rows) if row[0] == user] for user, _, _ in rows}
    assert all(any(found[i] == TRAIN for i in mine) for mine in users.values())  # law 3
    small = {user for user, mine in users.items() if len(mine) < 3}
    shared = {row[1:] for row in rows if row[0] not in small}
    for row, label in zip(rows, found, strict=True):
        assert label == TRAIN or row[0] not in small or row[1:] in shared  # law 2
    turned = np.random.default_rng(seed).permutation(len(rows)).tolist()
    assert labels(by, [rows[i] for i in turned], share, share, seed) == [found[i] for i in turned]  # law 4


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=40), seed=st.integers(0, 99))
def test_rows_without_time_are_groups_of_their_own(rows: list[tuple[int, int]], seed: int) -> None:
    apart = labels("random", [(user, item, int(NO_TIME)) for user, item in rows], 0.3, 0.3, seed)
    for user in {row[0] for row in rows}:
        mine = [label for row, label in zip(rows, apart, strict=True) if row[0] == user]
        assert TRAIN in mine
        assert len(mine) >= 3 or set(mine) == {TRAIN}


def test_random_shares_are_met_and_the_draw_is_by_group() -> None:
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(20_000), 2)  # two users each, as two authors of one document
    user = generator.integers(400, size=40_000)
    found = mark("random", user, group, group * 3, valid=0.1, test=0.2, seed=1)
    assert np.bincount(found) / 40_000 == pytest.approx([0.7, 0.1, 0.2], abs=0.01)
    np.testing.assert_array_equal(found[::2], found[1::2])
    np.testing.assert_array_equal(found, mark("random", user, group, group * 3, valid=0.1, test=0.2, seed=1))
    assert (found != mark("random", user, group, group * 3, valid=0.1, test=0.2, seed=2)).any()


def test_time_takes_the_last_rows_of_each_user() -> None:
    rows = [(7, item, 100 - item) for item in range(10)] + [(9, 50 + item, item) for item in range(4)]
    found = labels("time", rows, valid=0.2, test=0.3)
    assert found[:10] == [TEST, TEST, TEST, VALID, VALID] + [TRAIN] * 5
    assert found[10:] == [TRAIN, TRAIN, VALID, TEST]  # .2 · 4 and .3 · 4, rounded to the nearest number


def test_last_takes_the_last_event_and_the_one_before() -> None:
    rows = [(0, 1, 10), (0, 2, 20), (0, 3, 30), (0, 4, 40), (0, 4, 40), (1, 8, 1), (1, 9, 2)]
    assert labels("last", rows) == [TRAIN, TRAIN, VALID, TEST, TEST, TRAIN, TRAIN]


def test_a_group_takes_its_strongest_label() -> None:
    rows = [(0, 1, 1), (0, 2, 2), (0, 3, 3)]  # user 0: train, valid, test
    other = [(1, 3, 3), (1, 2, 2), (1, 7, 9), (1, 8, 10), (1, 9, 11)]  # early rows that user 0 pulls
    assert labels("last", rows + other) == [TRAIN, VALID, TEST, TEST, VALID, TRAIN, VALID, TEST]


def test_a_user_left_without_train_gets_the_first_group_back_whole() -> None:
    rows = [(0, 1, 1), (0, 2, 2), (0, 3, 3)]
    pulled = [(1, 2, 2), (1, 3, 3)]  # two rows, both held out through user 0
    assert labels("last", rows + pulled) == [TRAIN, TRAIN, TEST, TRAIN, TEST]


def test_datetimes_are_read_as_they_are_and_nat_is_no_time() -> None:
    ts = np.array(["2024-01-03", "2024-01-01", "2024-01-02"], dtype="datetime64[us]")
    user, item = np.zeros(3, dtype=np.int64), np.arange(3)
    assert mark("last", user, item, ts, seed=0).tolist() == [TEST, TRAIN, VALID]
    ts[1] = np.datetime64("NaT")
    for by in ("time", "last"):
        with pytest.raises(NoTimeError, match="1 of 3 rows have none") as caught:
            mark(by, user, item, ts, seed=0)
        assert caught.value.missing == 1
    assert len(mark("random", user, item, ts, seed=0)) == 3


@pytest.mark.parametrize("by", MODES)
def test_an_empty_table_has_no_marks(by: Mode) -> None:
    assert labels(by, []) == []


def test_senseless_settings_are_refused() -> None:
    user, item, ts = columns([(0, 1, 2)])
    with pytest.raises(SplitError, match="'week'"):
        mark("week", user, item, ts, seed=0)  # type: ignore[arg-type]
    with pytest.raises(SplitError, match="leave a share for train"):
        mark("random", user, item, ts, valid=0.5, test=0.5, seed=0)
    with pytest.raises(SplitError, match="must not be negative"):
        mark("random", user, item, ts, valid=-0.1, seed=0)
    with pytest.raises(SplitError, match="not one table"):
        mark("random", user, item[:0], ts, seed=0)
