"""What an epoch of training hides, and from whom."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from encoder.arrays import Actions
from encoder.config import SettingsError
from encoder.learned.batches import MIN_TIMES, Step, Steps
from encoder.learned.config import LearnConfig
from encoder.views import history_view, social_view, unit_rows, view_batch
from tests.tiny_dataset import CONFIG, ITEMS, USERS, dataset

PLAIN = LearnConfig(hold_out=0.4, event_dropout=0.0, cut=0.0, foreign=0.0, batch=7)


def rows(steps: list[Step], name: str) -> int:
    return sum(getattr(step, name).shape[0] for step in steps)


def test_every_user_with_a_history_is_in_one_step_of_an_epoch() -> None:
    steps = Steps(dataset(dated=True), CONFIG, PLAIN)
    epoch = list(steps.epoch(0))
    assert len(epoch) == steps.per_epoch == 4
    assert rows(epoch, "history") == rows(epoch, "targets") == USERS


@pytest.mark.parametrize("dated", [True, False])
def test_a_target_is_in_no_view_of_its_user(dated: bool) -> None:
    data = dataset(dated=dated)
    rows_of_pair: dict[tuple[int, int], list[int]] = {}
    for row, pair in enumerate(zip(data.history.users.tolist(), data.history.items.tolist(), strict=True)):
        rows_of_pair.setdefault(pair, []).append(row)
    whole = Steps(data, CONFIG, PLAIN)
    seen_targets = 0
    for step in whole.epoch(3):
        assert not step.history.multiply(step.targets).nnz
        for place in range(step.history.shape[0]):
            everything = set(step.everything[[place]].indices.tolist())
            own = next(u for u in range(USERS) if everything == set(data.seen[[u]].indices.tolist()))
            for item in step.targets[[place]].indices.tolist():
                seen_targets += 1
                for row in rows_of_pair[own, item]:
                    assert step.text[place, row] == 0.0  # the text of that event is hidden, too
                if dated:  # the friend's twin of the same time has left the friend's history
                    friend = step.ties[[place]].indices
                    assert not step.friends[friend][:, [item]].nnz
    assert seen_targets > 20


def test_histories_are_unit_rows_before_dropout_and_ties_sum_to_one() -> None:
    for step in Steps(dataset(dated=False), CONFIG, PLAIN).epoch(1):
        lengths = np.sqrt(np.asarray(step.history.multiply(step.history).sum(axis=1)))
        assert np.all(np.isclose(lengths, 1.0, atol=1e-6) | (lengths == 0))
        np.testing.assert_allclose(np.asarray(step.ties.sum(axis=1)), 1.0, atol=1e-6)


def test_amounts_count_what_is_left() -> None:
    data = dataset(dated=False)
    for step in Steps(data, CONFIG, PLAIN).epoch(2):
        left = np.diff(step.history.indptr)
        np.testing.assert_allclose(np.expm1(step.amounts[:, 0]), left, atol=1e-4)
        np.testing.assert_allclose(np.expm1(step.amounts[:, 1]), (step.text > 0).sum(axis=1), atol=1e-4)
        shown = np.asarray(step.ties @ np.diff(step.friends.indptr)) > 0
        np.testing.assert_allclose(np.expm1(step.amounts[:, 2]), shown, atol=1e-4)


@pytest.mark.parametrize("dated", [True, False])
def test_amounts_are_those_that_serving_finds_for_what_is_left(dated: bool) -> None:
    whole = dataset(dated=dated)
    lonely = np.arange(USERS) % 6 == 0  # whose friends have no history at all
    data = replace(whole, history=whole.history.where(~lonely[whole.history.users ^ 1]))
    steps = Steps(data, CONFIG, replace(PLAIN, hold_out=0.8))
    table = unit_rows(np.random.default_rng(0).standard_normal((ITEMS, 16)))
    absent = 0
    for number in range(3):
        for step in steps.epoch(number):
            histories = history_view(step.history, table)
            social = social_view(sparse.csr_array(step.ties), history_view(step.friends, table))
            written, friends = (step.text > 0).sum(axis=1), np.diff(step.ties.indptr)
            counts = np.stack([np.diff(step.history.indptr), written, friends], axis=1)
            served = view_batch(histories, step.text, social, counts)
            np.testing.assert_array_equal(step.amounts, served.amounts)
            absent += int((served.present[:, 2] == 0).sum())
    assert absent > 10


def test_the_same_epoch_draws_the_same_and_another_does_not() -> None:
    steps = Steps(dataset(dated=True), CONFIG, replace(PLAIN, event_dropout=0.5))
    first, again, other = (np.vstack([s.history.toarray() for s in steps.epoch(n)]) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_with_few_times_the_rows_of_one_item_and_time_go_together() -> None:
    data = dataset(dated=True, times=MIN_TIMES // 10)
    hidden = [int(step.targets.nnz) for step in Steps(data, CONFIG, PLAIN).epoch(0)]
    assert 0.2 < sum(hidden) / len(data.history.users) < 0.6  # not all or nothing, as with 5 times


def test_only_actions_that_are_asked_for_are_targets() -> None:
    data = dataset(dated=False)
    actions = Actions.of("make" if row % 4 else "see" for row in range(len(data.history.users)))
    mixed = replace(data, history=replace(data.history, actions=actions))
    valid = mixed.history.where(actions.among(["see"]))
    asked = replace(mixed, held_out={"valid": valid})
    wanted = {(u, i) for u, i in zip(valid.users.tolist(), valid.items.tolist(), strict=True)}
    everything = sum(int(step.everything.nnz) for step in Steps(asked, CONFIG, PLAIN).epoch(0))
    assert everything == len(wanted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 0},
        {"hold_out": 0.0},
        {"hold_out": 1.0},
        {"noise": -0.1},
        {"learning_rate": 0.0},
        {"negatives": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        LearnConfig(**wrong)  # type: ignore[arg-type]


def test_the_batch_grows_with_the_users_and_the_rate_with_the_batch() -> None:
    assert LearnConfig().for_users(4_000) == LearnConfig(batch=256)
    large = LearnConfig().for_users(29_858)
    assert (large.batch, large.learning_rate) == (512, 2e-3)
    assert LearnConfig(batch=128).for_users(10**6) == LearnConfig(batch=128, learning_rate=5e-4)


def test_settings_come_back_from_json_and_unknown_ones_are_refused() -> None:
    assert LearnConfig.from_json(PLAIN.as_json()) == PLAIN
    with pytest.raises(SettingsError, match="warmup"):
        LearnConfig.from_json({"warmup": 3})


def test_a_step_counts_what_it_shows_and_says_whose_views_are_not_theirs() -> None:
    options = replace(PLAIN, cut=0.9, foreign=0.4, event_dropout=0.5)
    data = dataset(dated=False)
    strange = 0
    for step in Steps(data, CONFIG, options).epoch(4):
        left = np.diff(step.history.indptr)
        np.testing.assert_allclose(np.expm1(step.amounts[:, 0]), left, atol=1e-4)
        assert set(step.genuine.ravel().tolist()) == {0.0, 1.0}
        own = step.history.multiply(step.everything)
        theirs = step.genuine[:, 0] == 1
        assert not abs(own - step.history)[theirs].nnz  # whose history is genuine has only items of their own
        strange += abs(own - step.history)[~theirs].nnz
    assert strange > 10
