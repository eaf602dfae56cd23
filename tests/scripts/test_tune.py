"""`triptych tune`: its spaces, its trials, studies that resume, settings that train takes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.learned.config import CHECKPOINT_FILE, LearnConfig
from scripts.training import train_options
from scripts.tune.closed_form import DAMPING, GATE, HALF_LIFE, RIDGE, Space
from scripts.tune.command import study_name
from scripts.tune.learned import ALIGNMENT, LOG_RANGES, RANGES, LearnObjective, LearnSpace
from scripts.tune.study import Tuning
from store.artifact import artifacts, read_manifest, read_pointer
from store.export import Export
from store.home import Home
from tests.command_line import Run
from tests.small_stores import ROWS, make_store

SPACE = LearnSpace(LearnConfig(seed=7), (32, 512))
TRIAL_SPACE = LearnSpace(LearnConfig(dim=16, epochs=8), (8, 32))
CLOSED = TowerConfig(dim=16)


class Interrupt(optuna.pruners.BasePruner):
    """A person who presses Ctrl-C at the first check."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def data(small_data: Dataset) -> Dataset:
    return small_data


def studies(home: Home) -> list[optuna.Study]:
    storage = f"sqlite:///{home.reports / 'tune.db'}"
    return [
        optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)
    ]


def drawn(space: LearnSpace, options: LearnConfig) -> LearnConfig:
    return space.draw(optuna.trial.FixedTrial(space.nearest(options)))


# the command


def test_tune_learns_blocks_resumes_and_writes_settings_that_train_takes(home: Home, run: Run) -> None:
    model = read_pointer(home.latest_model, home.models)
    latest = read_manifest(model)
    learned = json.loads((model / "metrics.json").read_text())["learned"]["settings"]
    words = ("tune", "--home", home.path, "--epochs", 4, "--trials")
    code, out, err = run(*words, 1)
    assert (code, "0 trials are done on this data, 1 to go" in out) == (0, True), err
    code, out, err = run(*words, 2)
    assert (code, "1 trials are done on this data, 1 to go" in out) == (0, True), err
    (study,) = studies(home)
    space = LearnSpace(LearnConfig(), (32, study.trials[0].distributions["dim"].high))
    known = [LearnConfig.from_json(learned), LearnConfig()]  # the model's are tried first, then the default
    assert [trial.params for trial in study.trials] == [space.nearest(options) for options in known]
    written = json.loads((home.path / "tuned.json").read_text())
    assert f"best of 2 trials: NDCG@20 {study.best_value:.4f} on valid\n{json.dumps(written)}" in out
    options = train_options("learned", {}, home.path / "tuned.json", None, None, 0)
    assert options.base == TowerConfig.from_json(latest["settings"])
    assert options.learn == space.draw(optuna.trial.FixedTrial(study.best_trial.params))
    assert (options.learn.members, options.learn.epochs) == (LearnConfig().members, LearnConfig().epochs)
    assert not list(home.training.rglob(CHECKPOINT_FILE))
    runs = home.training / study.study_name
    assert len(list(runs.rglob("events.out.tfevents.*"))) == 2  # TensorBoard's stay

    written["learned"] |= {"epochs": 4, "members": 1}  # as the trials were: so it reaches what they did
    (home.path / "tuned.json").write_text(json.dumps(written))
    code, _, err = run("train", "--home", home.path, "--config", home.path / "tuned.json")
    assert code == 0, err
    metrics = json.loads((read_pointer(home.latest_model, home.models) / "metrics.json").read_text())
    assert metrics["learned"]["settings"] == written["learned"]
    assert metrics["ndcg@20"] == pytest.approx(study.best_value, abs=1e-9)

    code, _, err = run(*words, 3)
    assert code == 0, err
    (study,) = studies(home)  # the same: the model has the same closed form, its half-life aside
    params = [trial.params for trial in study.trials]
    assert len(params) == 3
    assert params.count(space.nearest(options.learn)) == 1  # what the model was trained with is not new


def test_tune_without_a_model_chooses_the_closed_form_itself(home: Home, run: Run) -> None:
    shutil.rmtree(home.models)
    code, _, err = run("tune", "--home", home.path, "--epochs", 1, "--trials", 1)
    assert code == 0, err
    settings = json.loads((home.path / "tuned.json").read_text())
    learned = LearnConfig.from_json(settings.pop("learned"))
    assert learned.epochs == LearnConfig().epochs
    chosen = TowerConfig.from_json(settings)
    assert (chosen.fusion, min(chosen.gates) > 0) == ("ridge", True)
    assert chosen.dim > 32  # which is all that the model that was there could choose


@pytest.mark.parametrize("fusion", ["ridge", "maxvar"])
def test_tune_of_a_closed_form_writes_its_settings_alone(home: Home, run: Run, fusion: str) -> None:
    code, _, err = run("tune", "--home", home.path, "--fusion", fusion, "--trials", 2)
    assert code == 0, err
    tuned = json.loads((home.path / "tuned.json").read_text())
    assert TowerConfig.from_json(tuned).fusion == fusion
    (study,) = studies(home)
    assert study.study_name.startswith(f"{fusion}-")
    assert study.best_trial.user_attrs["config"] == tuned
    latest = read_manifest(read_pointer(home.latest_model, home.models))["settings"]
    first = TowerConfig.from_json(study.trials[0].user_attrs["config"])
    assert first == replace(TowerConfig.from_json(latest), fusion=first.fusion)  # tried first


def test_epochs_are_for_a_learned_block(home: Home, run: Run) -> None:
    code, _, err = run("tune", "--home", home.path, "--fusion", "ridge", "--epochs", 3)
    assert (code, "--epochs is for --fusion learned" in err) == (2, True)


# the space


@given(
    numbers=st.fixed_dictionaries({n: st.floats(*bounds) for n, bounds in (LOG_RANGES | RANGES).items()}),
    dim=st.integers(32, 512),
    alignment=st.just(0.0) | st.floats(*ALIGNMENT),
)
def test_settings_within_the_space_are_drawn_as_they_are(
    numbers: dict[str, Any], dim: int, alignment: float
) -> None:
    options = LearnConfig(dim=dim, alignment=alignment, seed=7, **numbers)
    assert drawn(SPACE, options) == options


def test_settings_beyond_the_space_are_brought_to_its_edge() -> None:
    options = LearnConfig(dim=600, learning_rate=1.0, weight_decay=0.0, noise=0.9, alignment=500.0, batch=9)
    edge = replace(SPACE.base, dim=512, learning_rate=3e-3, weight_decay=1e-4, noise=0.5, alignment=100.0)
    assert drawn(SPACE, options) == edge  # the batch is not searched


@given(half_life=st.just(0.0) | st.floats(*HALF_LIFE))
def test_a_half_life_is_searched_where_events_have_an_order(half_life: float) -> None:
    config = TowerConfig(dim=32, half_life=half_life)
    for times, expected in ((True, half_life), (False, 0.0)):
        space = Space(TowerConfig(), (16, 64), text=True, social=True, times=times)
        found = space.draw(optuna.trial.FixedTrial(space.nearest(config)))
        assert found == replace(config, half_life=expected)


# a trial


def test_a_pruned_trial_leaves_no_checkpoint(data: Dataset, tmp_path: Path) -> None:
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(lower=2.0))  # NDCG is below it
    study.optimize(LearnObjective(data, CLOSED, TRIAL_SPACE, tmp_path), n_trials=1)
    (trial,) = study.trials
    assert (trial.state, list(trial.intermediate_values)) == (TrialState.PRUNED, [4])
    assert not list(tmp_path.rglob(CHECKPOINT_FILE))


def test_an_interrupted_trial_goes_on_to_what_it_would_have_reached(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objective = LearnObjective(data, CLOSED, TRIAL_SPACE, tmp_path / "a")
    tuning = Tuning(tmp_path / "tune.db", "x")
    params = TRIAL_SPACE.nearest(TRIAL_SPACE.base)
    tuning.enqueue(params)

    def interrupted(trial: optuna.Trial) -> float:
        trial.study.pruner = Interrupt()
        return objective(trial)

    with pytest.raises(KeyboardInterrupt):
        tuning.run(interrupted, 1, None, seed=0)
    assert len(list(tmp_path.rglob(CHECKPOINT_FILE))) == 1
    tuning = Tuning(tmp_path / "tune.db", "x")
    tuning.retry_killed()
    with caplog.at_level("INFO"):
        tuning.run(objective, 1, None, seed=0)
    assert "training goes on after epoch 4" in caplog.text
    whole = LearnObjective(data, CLOSED, TRIAL_SPACE, tmp_path / "b")
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(params)
    study.optimize(whole, n_trials=1)
    assert tuning.best[1] == pytest.approx(study.best_value, abs=1e-9)
    settings = CLOSED.as_json() | {"learned": TRIAL_SPACE.base.as_json()}
    assert tuning.best[0] == json.loads(json.dumps(settings))


# the study


def test_a_hopeless_trial_is_pruned_and_counts(tmp_path: Path) -> None:
    tuning, epochs = Tuning(tmp_path / "tune.db", "x"), []

    def objective(trial: optuna.Trial) -> float:
        value = trial.suggest_float("value", 0.0, 1.0)
        trial.set_user_attr("config", {"value": value})
        for epoch in range(4, 44, 4):
            trial.report(value, epoch)
            if trial.should_prune():
                epochs.append(epoch)
                raise optuna.TrialPruned
        return value

    for value in (0.5, 0.6, 0.7, 0.8, 0.9, 0.1):
        tuning.enqueue({"value": value})
    tuning.run(objective, 6, None, seed=0)
    assert (tuning.done, tuning.best, epochs) == (6, ({"value": 0.9}, 0.9), [20])  # no sooner than epoch 20


def test_what_was_killed_is_tried_once_more_and_what_ended_is_not(tmp_path: Path) -> None:
    tuning, tried = Tuning(tmp_path / "tune.db", "x"), []

    def objective(trial: optuna.Trial) -> float:
        tried.append(trial.suggest_float("value", 0.0, 1.0))
        trial.set_user_attr("config", {"value": tried[-1]})
        if tried[-1] == 0.25:
            raise KeyboardInterrupt
        return tried[-1]

    tuning.enqueue({"value": 0.5})
    tuning.enqueue({"value": 0.25})
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tuning.run(objective, 3, None, seed=0)
        assert tuning.done == 1
        tuning.retry_killed()
        tuning.enqueue({"value": 0.5})
    tuning.run(objective, 3, None, seed=0)
    assert tried[:3] == [0.5, 0.25, 0.25]
    assert len(tried) == 5
    assert not {0.25, 0.5} & set(tried[3:])


def test_tune_resumes_and_writes_settings_that_train_takes(home: Home, run: Run) -> None:
    model = read_pointer(home.latest_model, home.models)
    settings = TowerConfig.from_json(read_manifest(model)["settings"])
    code, out, err = run("tune", "--home", home.path, "--trials", 1, "--fusion", "ridge")
    assert (code, "0 trials are done on this data, 1 to go" in out) == (0, True), err
    code, out, _ = run("tune", "--home", home.path, "--trials", 2, "--fusion", "ridge")
    assert (code, "1 trials are done on this data, 1 to go" in out) == (0, True)
    assert f"triptych train --home {home.path} --config {home.path / 'tuned.json'}" in out
    tuned = TowerConfig.from_json(json.loads((home.path / "tuned.json").read_text()))
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{home.reports / 'tune.db'}")
    assert summary.n_trials == 2
    assert summary.best_trial is not None
    assert TowerConfig.from_json(summary.best_trial.user_attrs["config"]) == tuned
    first = optuna.load_study(
        study_name=summary.study_name, storage=f"sqlite:///{home.reports / 'tune.db'}"
    ).trials[0]
    assert TowerConfig.from_json(first.user_attrs["config"]) == settings  # those of LATEST are tried first


def test_a_study_belongs_to_rows_text_model_fusion_and_actions(tmp_path: Path, run: Run) -> None:
    home, base = make_store(tmp_path, ROWS), TowerConfig()
    for words in (["export"], ["export"], ["split", "--by", "last"], ["export"]):
        assert run(*words, "--home", home.path)[0] == 0
    first, again, other = (Export.open(home.exports / one) for one in artifacts(home.exports))
    assert study_name(first, "m", base) == study_name(again, "m", base)
    names = {
        study_name(first, "m", base),
        study_name(other, "m", base),
        study_name(first, "n", base),
        study_name(first, "m", TowerConfig(fusion="maxvar")),
        study_name(first, "m", TowerConfig(actions={"share": 2.0})),
    }
    assert len(names) == 5


def test_tune_needs_rows_to_choose_on_and_a_readable_file(home: Home, run: Run) -> None:
    home.reports.mkdir()
    (home.reports / "tune.db").write_bytes(b"no database, but long enough to be looked at" * 100)
    code, _, err = run("tune", "--home", home.path)
    assert (code, "tune.db cannot be read" in err) == (1, True)
    words = ("--by", "random", "--valid", 0, "--test", 0.2, "--replace")
    assert run("split", "--home", home.path, *words)[0] == 0
    code, _, err = run("tune", "--home", home.path)
    assert (code, "no rows with split 'valid'" in err and "triptych split" in err) == (1, True)


@given(
    dim=st.integers(16, 64),
    weighting=st.sampled_from(["log", "binary"]),
    steps=st.integers(0, 20),
    damping=st.just(0.0) | st.floats(*DAMPING),
    ridge=st.floats(*RIDGE),
    gates=st.tuples(st.floats(*GATE), st.floats(*GATE)),
)
def test_settings_of_the_closed_form_within_the_space_are_drawn_as_they_are(
    dim: int, weighting: Any, steps: int, damping: float, ridge: float, gates: tuple[float, float]
) -> None:
    space = Space(TowerConfig(fusion="maxvar", actions={"share": 2.0}), (16, 64), text=True, social=True)
    exponents = {"user_exponent": round(steps * 0.05, 2), "item_exponent": round((20 - steps) * 0.05, 2)}
    config = TowerConfig(
        dim=dim, weighting=weighting, damping=damping, fusion="maxvar", ridge=ridge, gates=(1.0, *gates),
        actions={"share": 2.0}, **exponents,
    )  # fmt: skip
    drawn = space.draw(optuna.trial.FixedTrial(space.nearest(config)))  # type: ignore[arg-type]
    assert drawn == config


def test_settings_of_the_closed_form_beyond_the_space_are_brought_to_its_edge() -> None:
    space = Space(TowerConfig(), (16, 64), text=True, social=False)
    config = TowerConfig(dim=512, user_exponent=0.52, damping=9.0, ridge=0.0, gates=(2.0, 8.0, 1.0))
    drawn = space.draw(optuna.trial.FixedTrial(space.nearest(config)))  # type: ignore[arg-type]
    assert drawn == TowerConfig(dim=64, user_exponent=0.5, damping=3.0, ridge=0.1, gates=(1.0, 2.0, 0.0))
    assert np.isclose(sum(drawn.gates), 3.0)
