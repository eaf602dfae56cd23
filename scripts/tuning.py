"""The search behind `triptych tune`: the space of settings, what each reaches, a study that resumes."""

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from encoder.choose import Chooser
from encoder.closed_form import fit_tower
from encoder.config import TowerConfig, Weighting
from encoder.dataset import Dataset
from encoder.spectral import Spectrum, spectrum
from encoder.views import Matrix

SPLIT = "valid"
DIMS = (16, 512)
DAMPING = (1e-3, 3.0)
RIDGE = (0.1, 100.0)
GATE = (0.01, 2.0)
EXPONENT_STEP = 0.05
_SPECTRA = 8  # kept; each is (users + items) × dim floats while it is made, items × dim afterwards

log = logging.getLogger(__name__)


class NoValidSplitError(ValueError):
    """There is nothing to choose settings on."""

    def __init__(self) -> None:
        super().__init__(
            f"the data has no rows with split {SPLIT!r}: mark some with `triptych split`, then run this again"
        )


class StudiesError(ValueError):
    """The file of studies cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} cannot be read as studies of `triptych tune`: {reason}; delete it to start anew"
        )
        self.path = path


@dataclass(frozen=True)
class Space:
    """The settings that are searched: those of `base` that are not drawn stay.

    Attributes:
        base: fusion and actions.
        dims: smallest and largest embedding dim, as far as the data reaches.
        text, social: whether the data has the view; without it the gate is 0.
    """

    base: TowerConfig
    dims: tuple[int, int]
    text: bool
    social: bool

    @classmethod
    def of(cls, data: Dataset, base: TowerConfig) -> "Space":
        """Return the space for some data: a dim is at most the number of users, and of items, with events."""
        events = data.events(base)
        rank = min(int((np.asarray(events.sum(axis=axis)) > 0).sum()) for axis in (0, 1))
        high = max(1, min(DIMS[1], rank))
        return cls(base, (min(DIMS[0], high), high), bool(data.text.any()), bool(data.ties.nnz))

    def draw(self, trial: optuna.Trial) -> TowerConfig:
        """Return the settings that a trial asks for."""
        damped = trial.suggest_categorical("damped", [False, True])
        weighting = cast("Weighting", trial.suggest_categorical("weighting", ["log", "binary"]))
        exponent = trial.suggest_float("user_exponent", 0.0, 1.0, step=EXPONENT_STEP)
        return replace(
            self.base,
            dim=trial.suggest_int("dim", *self.dims, log=True),
            weighting=weighting,
            user_exponent=round(exponent, 2),
            damping=trial.suggest_float("damping", *DAMPING, log=True) if damped else 0.0,
            ridge=trial.suggest_float("ridge", *RIDGE, log=True),
            gates=(
                1.0,
                trial.suggest_float("gate_text", *GATE, log=True) if self.text else 0.0,
                trial.suggest_float("gate_social", *GATE, log=True) if self.social else 0.0,
            ),
        )

    def nearest(self, config: TowerConfig) -> dict[str, Any]:
        """Return the parameters of the trial that comes closest to some settings."""
        history, text, social = config.gates
        unit = history or 1.0  # gates are shares: only their ratios count
        steps = round(min(max(config.user_exponent, 0.0), 1.0) / EXPONENT_STEP)
        return (
            {
                "damped": config.damping > 0,
                "weighting": config.weighting,
                "user_exponent": round(steps * EXPONENT_STEP, 2),
                "dim": int(_within(config.dim, self.dims)),
                "ridge": _within(config.ridge, RIDGE),
            }
            | ({"damping": _within(config.damping, DAMPING)} if config.damping > 0 else {})
            | ({"gate_text": _within(text / unit, GATE)} if self.text else {})
            | ({"gate_social": _within(social / unit, GATE)} if self.social else {})
        )


class Objective:
    """NDCG@20 on valid of the tower that a trial asks for; its settings stay with the trial."""

    def __init__(self, data: Dataset, space: Space) -> None:
        self._data = data
        self._space = space
        self._chooser = Chooser(data, SPLIT)
        self._spectrum = lru_cache(maxsize=_SPECTRA)(self._compute)

    def __call__(self, trial: optuna.Trial) -> float:
        """Return what one trial reaches."""
        config = self._space.draw(trial)
        events, svd = self._spectrum(config.weighting, config.user_exponent)
        trial.set_user_attr("config", config.as_json())
        return self._chooser.tower(fit_tower(self._data, config, events, svd))

    def _compute(self, weighting: Weighting, user_exponent: float) -> tuple[Matrix, Spectrum]:
        events = self._data.events(replace(self._space.base, weighting=weighting))
        return events, spectrum(events, self._space.dims[1], user_exponent)


class Tuning:
    """One study below a home: the trials on one state of the data, kept in a file as they end."""

    def __init__(self, file: Path, name: str, data: Dataset, base: TowerConfig) -> None:
        """Open the study of that name, or begin it.

        Raises:
            NoValidSplitError: nothing is held out to choose on.
            StudiesError: the file is damaged.
        """
        if SPLIT not in data.held_out:
            raise NoValidSplitError
        self._space = Space.of(data, base)
        self._objective = Objective(data, self._space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._study = optuna.create_study(
                storage=f"sqlite:///{file.resolve()}",
                study_name=name,
                direction="maximize",
                load_if_exists=True,
            )
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            raise StudiesError(file, str(error).splitlines()[0]) from error

    @property
    def done(self) -> int:
        """How many trials are complete."""
        return len(self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)))

    @property
    def best(self) -> tuple[TowerConfig, float]:
        """The best settings so far and their NDCG@20.  Raises: ValueError before the first trial."""
        trial = self._study.best_trial
        return TowerConfig.from_json(trial.user_attrs["config"]), float(trial.values[0])

    def enqueue(self, config: TowerConfig) -> None:
        """Try some settings next, unless they were tried already."""
        self._study.enqueue_trial(self._space.nearest(config), skip_if_exists=True)

    def run(self, trials: int, timeout: float | None, seed: int) -> None:
        """Complete trials until there are `trials` in all, or until the seconds are over."""
        done = self.done
        if done >= trials:
            return
        log.info("tune: %d of %d trials are done already", done, trials)
        # A sampler that began at the same seed again would draw its first trials again.
        self._study.sampler = optuna.samplers.TPESampler(seed=seed + done)
        with tqdm(total=trials, initial=done, desc="tune", unit="trial", disable=None) as bar:

            def count(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
                bar.update()
                bar.set_postfix_str(f"NDCG@20 {study.best_value:.4f}")
                log.debug("trial %d: NDCG@20 %.4f, %s", trial.number, trial.value, trial.params)

            self._study.optimize(self._objective, n_trials=trials - done, timeout=timeout, callbacks=[count])
        log.info("tune: %d trials are done", self.done)


def _within(value: float, bounds: tuple[float, float]) -> float:
    return float(min(max(value, bounds[0]), bounds[1]))
