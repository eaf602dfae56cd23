"""What was shown as examples of clicks: their split, and vectors that do not know the example."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events, IntArray, TextColumns
from encoder.dataset import Dataset
from encoder.heads.examples import Examples, folds_of
from encoder.heads.impressions import SPLITS, ShownLists, click_examples, split_of_lists
from encoder.heads.model import FrozenVectors, HeadRows, head_report, train_head
from encoder.heads.options import HeadOptions
from encoder.heads.subjects import Subjects, asked_by_fold

QUICK = HeadOptions(epochs=8, patience=4, batch=512, rate=0.02, decays=(0.3,), folds=4)


def events(rows: list[tuple[int, int]]) -> Events:
    users, items = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    n = len(rows)
    return Events(users, items, Actions.of(["view"] * n), np.ones(n), np.full(n, NO_TIME))


def dataset(history: Events, held_out: dict[str, Events], n_users: int, n_items: int) -> Dataset:
    """Every user wrote one text on item 0, and is a friend of the next user."""
    users = np.arange(n_users)
    ties = sparse.csr_array((np.ones(n_users), (users, (users + 1) % n_users)), shape=(n_users, n_users))
    texts = TextColumns(
        users, np.zeros_like(users), np.full(n_users, NO_TIME), np.eye(n_users, dtype=np.float32)
    )
    ids = [pa.array([f"{kind}{i:04}" for i in range(n)]) for kind, n in (("u", n_users), ("i", n_items))]
    return Dataset(ids[0], ids[1], history, held_out, ties, texts, np.zeros((n_items, n_users), np.float32))


def impressions(rows: list[tuple[int, int, str, bool]], data: Dataset) -> ShownLists:
    """Rows (user, item, query_id, clicked)."""
    start = datetime(2026, 1, 1)
    table = pa.table(
        {
            "user_id": [f"u{user:04}" for user, *_ in rows],
            "item_id": [f"i{item:04}" for _, item, *_ in rows],
            "ts": pa.array([start + timedelta(minutes=u) for u, *_ in rows], pa.timestamp("us")),
            "position": pa.array([None if n % 2 else n for n in range(len(rows))], pa.int32()),
            "query_id": pa.array([query or None for _, _, query, _ in rows], pa.string()),
            "clicked": [clicked for *_, clicked in rows],
        }
    )
    return ShownLists.of(table, data.users, data.items)


def splits(shown: ShownLists, data: Dataset) -> list[str]:
    return [SPLITS[one] for one in split_of_lists(shown, data)]


def test_a_list_is_what_one_query_brought_or_one_user_saw_at_one_time() -> None:
    data = dataset(events([(0, 0)]), {}, 3, 5)
    rows = [(0, 0, "a", False), (0, 1, "a", True), (0, 2, "b", False), (1, 0, "a", False),
            (2, 0, "", False), (2, 1, "", False), (9, 0, "a", True), (0, 9, "a", True)]  # fmt: skip
    shown = impressions(rows, data)  # user 9 and item 9 are unknown
    assert shown.lists.tolist() == [0, 0, 1, 2, 3, 3]
    assert shown.clicked.tolist() == [False, True, False, False, False, False]
    assert shown.positions.tolist() == [0, -1, 2, -1, 4, -1]
    assert ((shown.draws >= 0) & (shown.draws < 1)).all()


def test_what_is_held_out_stays_so_and_every_other_list_is_drawn_by_its_identity() -> None:
    held_out = {"valid": events([(0, 1)]), "test": events([(0, 2), (1, 1)])}
    data = dataset(events([(0, 0), (1, 0)]), held_out, 4, 6)
    rows = [
        (0, 0, "train", True), (0, 5, "train", False),
        (0, 1, "valid", True), (0, 5, "valid", False),
        (0, 2, "test", True), (0, 0, "test", True),  # the stronger label counts
        (1, 1, "again", True),
    ]  # fmt: skip
    assert splits(impressions(rows, data), data) == ["train", "valid", "test", "test"]
    others = [(user, 4, f"q{n}", False) for user in range(4) for n in range(500)]
    shown = impressions(rows + others, data)
    drawn = splits(shown, data)
    shares = [drawn[4:].count(name) / len(others) for name in SPLITS]
    # Clicks that are examples: 1 of 2 in train, 1 of 2 in valid, 2 of 2 in test (0 of train is known).
    np.testing.assert_allclose(shares, [0.25, 0.25, 0.5], atol=0.03)
    again = impressions(others[::-1] + rows, data)
    by_list = {(u, q): drawn[shown.lists[i]] for i, (u, _, q, _) in enumerate(rows + others)}
    other_order = splits(again, data)
    for i, (user, _, query, _) in enumerate(others[::-1] + rows):
        assert other_order[again.lists[i]] == by_list[user, query]


def test_where_nothing_is_held_out_everything_teaches() -> None:
    data = dataset(events([(0, 0)]), {}, 2, 4)
    assert splits(impressions([(0, 0, "a", True), (1, 1, "b", False)], data), data) == ["train", "train"]
    nothing = dataset(events([(0, 3)]), {}, 2, 4)
    assert splits(impressions([(0, 0, "a", True)], nothing), nothing) == ["train"]


@given(st.integers(0, 2**32 - 1))
def test_splits_have_the_same_base_rate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_users, n_items, lists = 40, 400, 60
    rows, kept = [], {"train": [(u, 0) for u in range(n_users)], "valid": [], "test": []}
    for user in range(n_users):
        for query in range(lists):
            clicked = rng.random() < 0.3
            for _ in range(3):
                item = 1 + int(rng.integers(n_items - 1))
                rows.append((user, item, f"q{query}", bool(clicked and rng.random() < 0.6)))
                if rows[-1][3]:  # of one list some may be held out and others not
                    kept[str(rng.choice(SPLITS, p=[0.6, 0.2, 0.2]))].append((user, item))
    held_out = {name: events(kept[name]) for name in ("valid", "test")}
    data = dataset(events(kept["train"]), held_out, n_users, n_items)
    shown = impressions(rows, data)
    rates = [float(click_examples(shown, data, name).labels.mean()) for name in SPLITS]
    assert max(rates) - min(rates) < 0.04, rates  # 0.18, of at least 1,000 examples each
    held = {pair for name in held_out for pair in kept[name]}
    split = split_of_lists(shown, data)[shown.lists]
    places = zip(rows, split.tolist(), strict=True)
    taught = {(user, item) for (user, item, _, clicked), place in places if clicked and place == 0}
    assert held.isdisjoint(taught)


def test_held_out_pairs_that_the_vector_knows_are_left_out_clicked_or_not() -> None:
    data = dataset(events([(0, 0), (0, 3)]), {"test": events([(0, 1)])}, 1, 5)
    rows = [(0, 1, "a", True), (0, 0, "a", True), (0, 3, "a", False), (0, 4, "a", False)]
    found = click_examples(impressions(rows, data), data, "test")
    assert (found.items.tolist(), found.labels.tolist()) == ([1, 4], [1, 0])


def test_a_subject_is_made_without_the_pairs_of_its_fold() -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, [12, 20], size=(150, 2)), axis=0)
    data = dataset(events([tuple(pair) for pair in pairs.tolist()]), {}, 12, 20)
    made: list[tuple[Dataset, IntArray]] = []

    def vectors_of(some: Dataset, users: IntArray) -> Any:
        made.append((some, users))
        return np.asarray(some.seen[users].toarray(), dtype=np.float32)  # the vector is the history

    examples = Examples.of_pairs(pairs[:, 0], pairs[:, 1], np.ones(len(pairs)), 20)
    folds = folds_of(examples, 4, seed=0)
    found = asked_by_fold(examples, folds, data, vectors_of, ())
    assert len(made) == 4
    assert len(found) == len(examples)
    whole = data.seen.toarray()
    for i in range(len(found)):
        user, item = int(found.examples.users[i]), int(found.examples.items[i])
        subject = int(found.subject[i])
        vector = found.subjects.vectors[subject]
        fold = folds[(pairs[:, 0] == user) & (pairs[:, 1] == item)][0]
        gone = pairs[(pairs[:, 0] == user) & (folds == fold)][:, 1]
        assert found.folds[subject] == fold
        assert vector[item] == 0
        np.testing.assert_array_equal(np.flatnonzero(whole[user] - vector), np.sort(gone))
        own = found.subjects.rows[found.subjects.owners == subject]
        np.testing.assert_array_equal(own, np.flatnonzero(vector))
    for some, _ in made:  # a text that names a pair goes with it; friends lose theirs, too
        hidden = {(u, 0) for u in range(12)} - {(u, 0) for u in some.texts.users.tolist()}
        assert hidden == {(u, 0) for u, i in pairs.tolist() if i == 0 and not some.seen[[u], [0]].any()}


def test_some_subjects_are_taken_with_their_histories() -> None:
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    subjects = Subjects(
        vectors, np.array([0, 0, 2, 3]), np.array([5, 6, 7, 8]), np.array([1, 2, 3, 4], np.float32)
    )
    some = subjects.take(np.array([3, 1, 0]))
    assert some.vectors.tolist() == [[6, 7], [2, 3], [0, 1]]
    assert (some.owners.tolist(), some.rows.tolist(), some.ratings.tolist()) == (
        [0, 2, 2],
        [8, 5, 6],
        [4, 1, 2],
    )


def test_the_newest_event_of_an_item_is_its_rating() -> None:
    rows = Events(
        np.array([0, 0, 0, 1]), np.array([3, 3, -1, 3]), Actions.of(["a"] * 4),
        np.array([1.0, 5.0, 2.0, 1e30]), np.array([9, 4, 1, NO_TIME]),
    )  # fmt: skip
    found = Subjects.of_events(np.zeros((2, 1), np.float32), rows, 5)
    assert (found.owners.tolist(), found.rows.tolist()) == ([0, 1], [3, 3])
    assert found.ratings.tolist() == [1.0, np.float32(1e12)]


def test_a_head_does_not_learn_that_what_was_clicked_is_in_the_history() -> None:
    """Clicks are by chance and become behaviours: vectors that know them would seem to predict them."""
    rng = np.random.default_rng(3)
    n_users, n_items = 60, 80
    rows, kept = [], {name: [] for name in SPLITS}
    for user in range(n_users):
        for place, item in enumerate(rng.permutation(n_items)[:60].tolist()):
            clicked = bool(rng.random() < 0.3)
            rows.append((user, item, f"q{place // 5}", clicked))
            if clicked:
                kept["train" if place < 40 else "valid" if place < 50 else "test"].append((user, item))
    data = dataset(
        events(kept["train"]), {name: events(kept[name]) for name in ("valid", "test")}, n_users, n_items
    )
    shown = impressions(rows, data)
    items = np.eye(n_items, dtype=np.float32)

    def vectors_of(some: Dataset, users: IntArray) -> Any:
        return np.asarray(some.seen[users].toarray(), dtype=np.float32)

    vectors = FrozenVectors(vectors_of, items)
    head, _ = train_head("click", HeadRows(data, [None] * n_items, [None] * n_items, shown), vectors, QUICK)
    report = head_report(head, HeadRows(data, [None] * n_items, [None] * n_items, shown), "test", vectors)
    assert head.quantity == "probability"
    assert abs(report["metrics"]["auc"] - 0.5) < 0.06
    assert report["metrics"]["log_loss"] == pytest.approx(
        report["baselines"]["base rate"]["log_loss"], abs=0.01
    )
    train = click_examples(shown, data, "train")
    knows = asked_by_fold(train, np.full(len(train), 0), data, lambda _, users: vectors_of(data, users), ())
    known = np.einsum("bd,bd->b", knows.subjects.vectors[knows.subject], items[knows.examples.items])
    np.testing.assert_array_equal(known, knows.examples.labels)  # what such a vector would give away


def test_without_a_click_pairs_are_drawn_and_the_numbers_are_scores() -> None:
    rng = np.random.default_rng(1)
    history = events([(u, int(i)) for u in range(30) for i in rng.choice(40, 6, replace=False)])
    data = dataset(history, {}, 30, 40)
    shown = impressions([(u, 0, "q", False) for u in range(30)], data)
    vectors = FrozenVectors(
        lambda some, users: np.asarray(some.seen[users].toarray(), np.float32), np.eye(40, dtype=np.float32)
    )
    head, figures = train_head("click", HeadRows(data, [None] * 40, [None] * 40, shown), vectors, QUICK)
    assert head.quantity == "score"
    assert figures["split"] == "train, held out"
