"""The search of `triptych tune` over a learned block: the space of settings and their objective."""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.learned import LearnConfig, remove_checkpoints
from encoder.learned.trainer import train_block
from encoder.model_files import METRICS_FILE
from encoder.tower import Block, Tower, fit_closed_form
from encoder.tower.mix import choose_mix
from encoder.tower.select import HeldOutScorer, choose_config
from scripts.tune.closed_form import SPLIT, clipped, closed_settings_of, dims_of
from scripts.tune.study import CONFIG_ATTR, Params

DIMS = (32, 512)
ALIGNMENT = (0.1, 100.0)
LOG_RANGES = {"learning_rate": (3e-4, 3e-3), "weight_decay": (1e-4, 0.3)}
RANGES = {
    "event_dropout": (0.1, 0.8),
    "hold_out": (0.1, 0.6),
    "view_dropout": (0.0, 0.5),
    "noise": (0.0, 0.5),
    "id_dropout": (0.0, 0.3),
    "history_loss": (0.0, 1.0),
    "view_loss": (0.0, 1.0),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearnSpace:
    """The settings that are searched: those of `base` that are not drawn stay.

    Attributes:
        base: what is not drawn, the seed and the number of members among it.
        dims: smallest and largest number of coordinates, as far as the data reaches.
    """

    base: LearnConfig
    dims: tuple[int, int]

    @classmethod
    def of(cls, data: Dataset, closed: TowerConfig, base: LearnConfig) -> "LearnSpace":
        """Return the space for some data, its events weighted as in the closed form."""
        return cls(base, dims_of(data, closed, DIMS))

    def draw(self, trial: optuna.Trial) -> LearnConfig:
        """Return the settings that a trial draws."""
        aligned = trial.suggest_categorical("aligned", [False, True])
        drawn: dict[str, Any] = {
            name: trial.suggest_float(name, *bounds, log=True) for name, bounds in LOG_RANGES.items()
        }
        drawn |= {name: trial.suggest_float(name, *bounds) for name, bounds in RANGES.items()}
        return replace(
            self.base,
            dim=trial.suggest_int("dim", *self.dims, log=True),
            alignment=trial.suggest_float("alignment", *ALIGNMENT, log=True) if aligned else 0.0,
            **drawn,
        )

    def nearest(self, options: LearnConfig) -> dict[str, Any]:
        """Return the parameters of the trial that comes closest to some settings."""
        ranges = LOG_RANGES | RANGES
        params: dict[str, Any] = {
            "aligned": options.alignment > 0,
            "dim": int(clipped(options.dim, self.dims)),
        } | {name: clipped(getattr(options, name), bounds) for name, bounds in ranges.items()}
        return params | (
            {"alignment": clipped(options.alignment, ALIGNMENT)} if options.alignment > 0 else {}
        )


class LearnObjective:
    """NDCG@20 on valid of a closed form beside one learned block, at the best weight and half-life.

    A trial that its study's pruner gives up ends early. The settings are stored with the trial, as
    `triptych train --config` reads them: with all the members and epochs of the space's base.
    """

    def __init__(
        self, data: Dataset, closed: TowerConfig, space: LearnSpace, training: Path, epochs: int | None = None
    ) -> None:
        """Fit the closed form, once for all trials.

        Args:
            data: blocks are trained on its visible rows.
            closed: settings of the closed form.
            space: of the block's settings.
            training: folder of this study alone, with one for each trial: checkpoints, removed when it has
                ended, and TensorBoard's files, which stay.
            epochs: of a trial, at most; None leaves what the space says.
        """
        self._data = data
        self.space = space
        self._training = training
        self._epochs = space.base.epochs if epochs is None else epochs
        self._chooser = HeldOutScorer(data, SPLIT)
        self._closed = fit_closed_form(data, closed)
        log.info("tune: the closed form alone reaches NDCG@20 %.4f", self._chooser.score_tower(self._closed))

    def __call__(self, trial: optuna.Trial) -> float:
        """Return the NDCG@20 of one trial.  Raises: optuna.TrialPruned."""
        options = self.space.draw(trial)
        config = self._closed.config
        trial.set_user_attr(CONFIG_ATTR, config.as_json() | {"learned": options.as_json()})

        def report(figures: dict[str, float], epoch: int) -> None:
            if "ndcg@20" in figures:
                trial.report(figures["ndcg@20"], epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

        one = replace(options, members=1, epochs=self._epochs)
        folder = self._training / hashlib.sha256(json.dumps(one.as_json()).encode()).hexdigest()[:16]
        try:
            learned = train_block(self._data, config, one, self._score, folder, report)
        except optuna.TrialPruned:
            log.info("tune: trial %d is hopeless", trial.number)
            remove_checkpoints(folder)
            raise
        remove_checkpoints(folder)
        trial.set_user_attr("best_epoch", learned.epoch)
        mix = choose_mix(self._closed, [learned.block], self._data, SPLIT)
        trial.set_user_attr("weight", mix.weight)
        return max(mix.ndcg_by_half_life.values())

    def _score(self, block: Block) -> float:
        return self._chooser.score_tower(Tower(self._closed.config, (block,)))


def learned_search(
    data: Dataset, closed: TowerConfig, latest: Path | None, training: Path, epochs: int | None, seed: int
) -> tuple[LearnObjective, list[Params]]:
    """Return the objective of a learned block and the trials to begin with.

    Those are the settings of the latest model, then the default ones, so the best is never worse than them,
    as far as a dim above the rank of the data changes nothing.
    """
    default = LearnConfig(seed=seed)
    space = LearnSpace.of(data, closed, default)
    known = None if latest is None else _learned_settings_of(latest)
    first = [space.nearest(options) for options in (known, default) if options is not None]
    return LearnObjective(data, closed, space, training, epochs), first


def closed_settings(data: Dataset, base: TowerConfig, latest: Path | None) -> TowerConfig:
    """Return the settings of the closed form to learn beside: those of the latest model, or chosen on valid.

    Those of a model with another fusion than `base`, or other weights of actions, are not used.
    """
    if latest is not None:
        known = closed_settings_of(latest)
        if (known.fusion, known.actions) == (base.fusion, base.actions):
            log.info("tune: the closed form has the settings of model %s", latest.name)
            return known
    return choose_config(data, SPLIT, base)[-1].config


def _learned_settings_of(model: Path) -> LearnConfig | None:
    """Return the settings of a model's learned blocks, or None where it has none."""
    learned = json.loads((model / METRICS_FILE).read_text("utf-8")).get("learned")
    return LearnConfig.from_json(learned["settings"]) if learned else None
