"""The sample of users that settings are chosen on."""

import numpy as np
import pytest

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.fit import TrainOptions, fit
from encoder.tower import select
from encoder.tower.select import HeldOutScorer, choose_config, sample_users


def test_few_events_are_all_looked_at(small_data: Dataset) -> None:
    assert sample_users(small_data, HeldOutScorer(small_data, "valid").users) is None


def test_the_sample_is_bounded_holds_the_scored_users_and_is_the_same_for_a_seed(
    small_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = np.diff(small_data.seen.indptr)
    scored = HeldOutScorer(small_data, "valid").users[:10]
    bound = int(events.sum()) // 2
    monkeypatch.setattr(select, "MAX_EVENTS", bound)
    sample = sample_users(small_data, scored)
    assert sample is not None
    assert bound - events.max() < events[sample].sum() <= bound
    assert np.isin(scored, sample).all()
    assert (np.diff(sample) > 0).all()
    np.testing.assert_array_equal(sample, sample_users(small_data, scored))
    other = sample_users(small_data, scored, seed=1)
    assert other is not None
    assert sample.tolist() != other.tolist()


def test_scored_users_with_more_events_than_the_bound_do_not_break_it(
    small_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = np.diff(small_data.seen.indptr)
    scored = HeldOutScorer(small_data, "valid").users
    monkeypatch.setattr(select, "MAX_EVENTS", int(events[scored].sum()) // 2)
    sample = sample_users(small_data, scored)
    assert sample is not None
    assert events[sample].sum() <= select.MAX_EVENTS
    assert np.isin(sample, scored).all()


def test_maxvar_is_aligned_over_a_sample_too(small_data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = choose_config(small_data, "valid", TowerConfig(fusion="maxvar"), dims=(8,))[-1]
    monkeypatch.setattr(select, "MAX_EVENTS", int(small_data.seen.nnz) * 9 // 10)
    chosen = choose_config(small_data, "valid", TowerConfig(fusion="maxvar"), dims=(8,))[-1]
    assert chosen.ndcg == pytest.approx(whole.ndcg, abs=0.1)


def test_what_a_sample_chose_is_scored_on_all_users_at_last(
    small_data: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(select, "MAX_EVENTS", int(small_data.seen.nnz) // 2)
    trials = choose_config(small_data, "valid", TowerConfig(), dims=(4, 8))
    again = choose_config(small_data, "valid", TowerConfig(), dims=(4, 8))
    assert [trial.config for trial in trials] == [trial.config for trial in again]
    options = TrainOptions(dims=(4, 8))
    fitted = fit(small_data, options, tmp_path_factory.mktemp("training"))
    assert fitted.tower.config == trials[-1].config
    reached = HeldOutScorer(small_data, "valid").score_tower(fitted.tower)
    assert fitted.facts["ndcg@20"] == trials[-1].ndcg
    # Where a half-life was chosen, or gates, the views were aligned over the sample only.
    assert reached == pytest.approx(trials[-1].ndcg, abs=0.05)
