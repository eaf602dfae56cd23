import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events
from encoder.config import SettingsError, TowerConfig, UnknownViewError, parse_views
from encoder.views import (
    assemble_views,
    count_newer,
    event_matrix,
    history_view,
    social_view,
    text_pool,
    text_view,
    unit_rows,
    view_batch,
)

ROWS = hnp.arrays(np.float32, (5, 3), elements=st.floats(-100, 100, width=32))


def matrix(
    config: TowerConfig, rows: list[tuple[int, int, str, float]], times: list[int] | None = None
) -> np.ndarray:
    users, items, actions, weights = (np.array(column) for column in zip(*rows, strict=True))
    ts = np.full(len(users), NO_TIME) if times is None else np.array(times)
    return event_matrix(Events(users, items, Actions.of(actions), weights, ts), (2, 3), config).toarray()


def test_actions_are_codes_into_their_names() -> None:
    actions = Actions.of(["see", "share", "see", "make"])
    assert (actions.codes.tolist(), actions.names) == ([0, 1, 0, 2], ("see", "share", "make"))
    assert actions.among({"see", "never"}).tolist() == [True, False, True, False]
    assert actions.weights({"share": 2.0}).tolist() == [1.0, 2.0, 1.0, 1.0]
    fewer = actions.where(np.array([True, False, True, False]))
    assert fewer.used == {"see"}
    assert Actions.of([]).used == frozenset()
    assert Actions.of([]).among({"see"}).shape == (0,)


def test_no_events_make_an_empty_matrix() -> None:
    none = np.zeros(0, dtype=np.int64)
    for config in (TowerConfig(), TowerConfig(weighting="binary", half_life=3.0, actions={"share": 2.0})):
        found = event_matrix(Events(none, none, Actions.of([]), np.zeros(0), none), (2, 3), config)
        assert (found.shape, found.nnz) == ((2, 3), 0)


def test_events_of_a_pair_add_up_before_the_log() -> None:
    rows = [(0, 1, "listen", 3.0), (0, 1, "listen", 4.0), (1, 2, "share", 1.0)]
    expected = [[0, np.log(8.0), 0], [0, 0, np.log(2.0)]]
    np.testing.assert_allclose(matrix(TowerConfig(weighting="log"), rows), expected, rtol=1e-6)


def test_binary_weighting_counts_a_pair_once() -> None:
    rows = [(0, 1, "listen", 3.0), (0, 1, "listen", 4.0)]
    assert matrix(TowerConfig(weighting="binary"), rows).tolist() == [[0, 1, 0], [0, 0, 0]]


def test_action_weights_multiply_and_zero_leaves_an_event_out() -> None:
    rows = [(0, 0, "author", 5.0), (0, 1, "share", 1.0), (1, 1, "view", 1.0)]
    config = TowerConfig(weighting="log", actions={"author": 0.0, "share": 2.0})
    np.testing.assert_allclose(matrix(config, rows), [[0, np.log(3.0), 0], [0, np.log(2.0), 0]], rtol=1e-6)


def test_unknown_items_and_zero_weights_are_no_entries() -> None:
    assert not matrix(TowerConfig(), [(0, -1, "a", 1.0), (0, 2, "a", 0.0)]).any()


def test_with_a_half_life_an_event_counts_less_for_every_newer_one() -> None:
    rows = [(0, 0, "a", 1.0), (0, 1, "a", 1.0), (0, 2, "a", 1.0), (0, 0, "a", 1.0), (1, 1, "a", 1.0)]
    config = TowerConfig(weighting="binary", half_life=2.0)
    # Item 0 was there at time 1 and again at 9, the newest; items 1 and 2 at time 5 have one newer event.
    found = matrix(config, rows, [1, 5, 5, 9, 3])
    np.testing.assert_allclose(found, [[1.0, 0.5**0.5, 0.5**0.5], [0.0, 1.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(matrix(config, rows), matrix(TowerConfig(weighting="binary"), rows))


@given(st.integers(0, 12).flatmap(lambda n: hnp.arrays(np.int64, (2, n), elements=st.integers(0, 3))))
def test_newer_counts_the_same_users_events_after_an_event(rows: np.ndarray) -> None:
    users, ts = rows
    expected = [((users == u) & (ts > t)).sum() for u, t in zip(users, ts, strict=True)]
    np.testing.assert_array_equal(count_newer(users, ts), expected)


@given(ROWS)
def test_rows_become_unit_or_stay_zero_and_the_argument_is_left_alone(rows: np.ndarray) -> None:
    before = rows.copy()
    norms = np.linalg.norm(unit_rows(rows), axis=1)
    nonzero = rows.any(axis=1)
    np.testing.assert_allclose(norms[nonzero], 1.0, atol=1e-5)
    assert not norms[~nonzero].any()
    np.testing.assert_array_equal(rows, before)


def test_social_view_is_the_log_weighted_mean_of_friends() -> None:
    ties = sparse.csr_array(np.array([[1.0, 3.0], [0.0, 0.0]]))
    friends = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    mean = np.array([np.log(2.0), np.log(4.0)])
    np.testing.assert_allclose(social_view(ties, friends)[0], mean / np.linalg.norm(mean), rtol=1e-6)
    assert not social_view(ties, friends)[1].any()


def test_history_view_does_not_depend_on_the_order_of_events() -> None:
    table = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    forth = matrix(TowerConfig(), [(0, 0, "a", 1.0), (0, 2, "a", 2.0)])
    back = matrix(TowerConfig(), [(0, 2, "a", 2.0), (0, 0, "a", 1.0)])
    one, other = (history_view(sparse.csr_array(m), table) for m in (forth, back))
    np.testing.assert_array_equal(one, other)


def test_text_view_is_the_unit_mean_of_a_users_texts() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    owners, texts = np.array([0, 1, 0, 0]), np.array([0, 1, 2, 2])  # the last text was written twice
    found = text_view(text_pool(owners, texts, (3, 3)), vectors)
    total = vectors[0] + 2 * vectors[2]
    np.testing.assert_allclose(found[0], total / np.linalg.norm(total), rtol=1e-5)
    np.testing.assert_allclose(found[1], vectors[1] / np.linalg.norm(vectors[1]), rtol=1e-5)
    assert not found[2].any()


@pytest.mark.parametrize("widths", [(), (1, 3)])
def test_views_of_a_user_are_the_same_alone_and_in_a_batch(widths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    table, text = rng.standard_normal((5, 4)).astype(np.float32), unit_rows(rng.standard_normal((3, 2)))
    events = sparse.csr_array(np.array([[1, 0, 2, 0, 0], [0, 0, 0, 0, 0], [0, 3, 0, 1, 1]], np.float32))
    ties = sparse.csr_array(np.array([[0, 1, 2], [3, 0, 0], [0, 0, 0]], np.float64))
    counts = np.array([2, 1, 4])
    batch = assemble_views(events, np.arange(3), ties, text, counts, table, widths)
    np.testing.assert_allclose(batch.amounts, np.log1p([[2, 2, 2], [0, 1, 1], [3, 4, 0]]), rtol=1e-6)
    for row in range(3):
        friends = ties[[row]].indices
        near = np.array([row, *friends])
        own_ties = sparse.csr_array(np.append(0, ties[[row]].data)[None]) if len(friends) else None
        alone = assemble_views(
            sparse.csr_array(events[near]),
            np.zeros(1, int),
            own_ties,
            text[[row]],
            counts[[row]],
            table,
            widths,
        )
        for name in ("history", "text", "social", "amounts"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(batch, name)[row])


def test_without_any_event_history_and_friends_are_absent() -> None:
    ties, text = sparse.csr_array(np.array([[0.0, 1.0]])), np.ones((1, 2), np.float32)
    table = np.ones((5, 4), np.float32)
    batch = assemble_views(None, np.zeros(1, int), ties, text, np.array([1]), table)
    empty = assemble_views(sparse.csr_array((2, 5)), np.zeros(1, int), ties, text, np.array([1]), table)
    for name in ("history", "text", "social", "amounts"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(empty, name))
    assert batch.present.tolist() == [[0, 1, 0]]


def test_a_view_is_present_where_its_row_is_not_zero() -> None:
    one, none = np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)
    counts = np.array([[3, 0, 0], [0, 0, 2]])  # a text whose number nobody gave counts 1
    batch = view_batch(np.vstack([one, none]), np.vstack([none, one]), np.vstack([none, none]), counts)
    np.testing.assert_allclose(batch.amounts, np.log1p([[3, 0, 0], [0, 1, 0]]), rtol=1e-6)
    assert batch.present.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert batch.only(("T",)).present.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert len(batch.rows(slice(1))) == 1


@pytest.mark.parametrize(("view", "name"), [("H", "history"), ("T", "text"), ("S", "social")])
def test_a_view_of_another_batch_comes_with_its_amounts(view: str, name: str) -> None:
    ones, twos = np.full((2, 3), 1, np.float32), np.full((2, 3), 2, np.float32)
    whole, other = (view_batch(rows, rows, rows, 4 * rows) for rows in (ones, twos))
    mixed = whole.with_view(view, other)
    for each in ("history", "text", "social"):
        expected = other if each == name else whole
        np.testing.assert_array_equal(getattr(mixed, each), getattr(expected, each))
    place = "HTS".index(view)
    expected_amounts = whole.amounts.copy()
    expected_amounts[:, place] = other.amounts[:, place]
    np.testing.assert_array_equal(mixed.amounts, expected_amounts)
    assert mixed.amounts.dtype == np.float32
    np.testing.assert_array_equal(whole.amounts, np.log1p(4 * ones))


@pytest.mark.parametrize(("text", "views"), [("H,T,S", ("H", "T", "S")), ("sh", ("H", "S")), ("T", ("T",))])
def test_views_are_parsed_in_the_order_of_the_design(text: str, views: tuple[str, ...]) -> None:
    assert parse_views(text) == views


@pytest.mark.parametrize("text", ["", "H,X", ","])
def test_an_unknown_view_is_refused(text: str) -> None:
    with pytest.raises(UnknownViewError, match="is not one of H, T, S"):
        parse_views(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 0},
        {"ridge": -1.0},
        {"damping": -1.0},
        {"gates": (0.0, 0.0, 0.0)},
        {"gates": (1.0,)},
        {"fusion": "x"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        TowerConfig.from_json(TowerConfig().as_json() | wrong)


@pytest.mark.parametrize("named", [{"unknown": 1, "gates": [1, 1, 1]}, {"dim": 3}, {"gates": None}])
def test_unknown_or_missing_settings_are_refused(named: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="settings of a user tower"):
        TowerConfig.from_json(named)


def test_settings_survive_json() -> None:
    config = TowerConfig(dim=7, fusion="maxvar", gates=(1.0, 0.25, 0.5), actions={"share": 2.0})
    assert TowerConfig.from_json(config.as_json()) == config
