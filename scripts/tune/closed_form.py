"""The search of `triptych tune` over the closed form: the space of settings and their objective."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna

from encoder.config import TowerConfig, Weighting
from encoder.dataset import Dataset
from encoder.tower import Decompositions, fit_closed_form
from encoder.tower.select import HeldOutScorer, half_lives
from scripts.tune.study import CONFIG_ATTR, Params
from store.artifact import read_manifest

SPLIT = "valid"
DIMS = (16, 512)
DAMPING = (1e-3, 3.0)
RIDGE = (0.1, 100.0)
GATE = (0.01, 2.0)
HALF_LIFE = (1.0, 100.0)
EXPONENT_STEP = 0.05


class NoValidSplitError(ValueError):
    """The data has no valid rows to choose settings on."""

    def __init__(self) -> None:
        super().__init__(
            f"the data has no rows with split {SPLIT!r}: mark some with `triptych split`, then run this again"
        )


@dataclass(frozen=True)
class Space:
    """The settings that are searched: those of `base` that are not drawn stay.

    Attributes:
        base: fusion and actions.
        dims: smallest and largest embedding dim, as far as the data reaches.
        text, social: whether the data has the view; without it the gate is 0.
        times: whether a user's events have an order, so that older ones may count less.
    """

    base: TowerConfig
    dims: tuple[int, int]
    text: bool
    social: bool
    times: bool = False

    @classmethod
    def of(cls, data: Dataset, base: TowerConfig) -> "Space":
        """Return the space for some data."""
        views = bool(data.text.any()), bool(data.ties.nnz)
        return cls(base, dims_of(data, base, DIMS), *views, times=bool(half_lives(data)))

    def draw(self, trial: optuna.Trial) -> TowerConfig:
        """Return the settings that a trial draws."""
        damped = trial.suggest_categorical("damped", [False, True])
        weighting = cast("Weighting", trial.suggest_categorical("weighting", ["log", "binary"]))
        exponent = trial.suggest_float("user_exponent", 0.0, 1.0, step=EXPONENT_STEP)
        aged = self.times and trial.suggest_categorical("aged", [False, True])
        centred = self.text and bool(trial.suggest_categorical("centred", [False, True]))
        return replace(
            self.base,
            dim=trial.suggest_int("dim", *self.dims, log=True),
            weighting=weighting,
            user_exponent=round(exponent, 2),
            item_exponent=round(trial.suggest_float("item_exponent", 0.0, 1.0, step=EXPONENT_STEP), 2),
            damping=trial.suggest_float("damping", *DAMPING, log=True) if damped else 0.0,
            ridge=trial.suggest_float("ridge", *RIDGE, log=True),
            centred=centred,
            gates=(
                1.0,
                trial.suggest_float("gate_text", *GATE, log=True) if self.text else 0.0,
                trial.suggest_float("gate_social", *GATE, log=True) if self.social else 0.0,
            ),
            half_life=trial.suggest_float("half_life", *HALF_LIFE, log=True) if aged else 0.0,
        )

    def nearest(self, config: TowerConfig) -> dict[str, Any]:
        """Return the parameters of the trial that comes closest to some settings."""
        history, text, social = config.gates
        unit = history or 1.0  # gates are shares: only their ratios count
        aged = self.times and config.half_life > 0
        return (
            {
                "damped": config.damping > 0,
                "weighting": config.weighting,
                "user_exponent": _on_grid(config.user_exponent),
                "item_exponent": _on_grid(config.item_exponent),
                "dim": int(clipped(config.dim, self.dims)),
                "ridge": clipped(config.ridge, RIDGE),
            }
            | ({"damping": clipped(config.damping, DAMPING)} if config.damping > 0 else {})
            | ({"aged": aged} if self.times else {})
            | ({"centred": config.centred} if self.text else {})
            | ({"half_life": clipped(config.half_life, HALF_LIFE)} if aged else {})
            | ({"gate_text": clipped(text / unit, GATE)} if self.text else {})
            | ({"gate_social": clipped(social / unit, GATE)} if self.social else {})
        )


class Objective:
    """NDCG@20 on valid of the closed form that a trial draws; its settings are stored with the trial."""

    def __init__(self, data: Dataset, space: Space) -> None:
        self._data = data
        self.space = space
        self._chooser = HeldOutScorer(data, SPLIT)
        self._spectra = Decompositions(data, space.base, space.dims[1])

    def __call__(self, trial: optuna.Trial) -> float:
        """Return the NDCG@20 of one trial."""
        config = self.space.draw(trial)
        trial.set_user_attr(CONFIG_ATTR, config.as_json())
        return self._chooser.score_tower(fit_closed_form(self._data, config, *self._spectra.of(config)))


def closed_search(data: Dataset, base: TowerConfig, latest: Path | None) -> tuple[Objective, list[Params]]:
    """Return the objective of the closed form and the first trials: the settings of the latest model."""
    space = Space.of(data, base)
    return Objective(data, space), [] if latest is None else [space.nearest(closed_settings_of(latest))]


def closed_settings_of(model: Path) -> TowerConfig:
    """Return the settings of a model's closed form."""
    return TowerConfig.from_json(read_manifest(model)["settings"])


def dims_of(data: Dataset, base: TowerConfig, dims: tuple[int, int]) -> tuple[int, int]:
    """Return bounds of a dim, at most the number of users, and of items, with events: no rank is above it."""
    events = data.events(base)
    rank = min(int((np.asarray(events.sum(axis=axis)) > 0).sum()) for axis in (0, 1))
    high = max(1, min(dims[1], rank))
    return min(dims[0], high), high


def _on_grid(exponent: float) -> float:
    return round(round(clipped(exponent, (0.0, 1.0)) / EXPONENT_STEP) * EXPONENT_STEP, 2)


def clipped(value: float, bounds: tuple[float, float]) -> float:
    """Return the number between the bounds that is closest to a value."""
    return float(min(max(value, bounds[0]), bounds[1]))
