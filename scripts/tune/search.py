"""What `triptych tune` searches and what it tries first, from the latest model where there is one."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.learned.config import LearnConfig
from encoder.runtime import METRICS_FILE
from encoder.tower.select import choose_config
from scripts.tune.closed_form import SPLIT, Objective, Space
from scripts.tune.learned import LearnObjective, LearnSpace
from store.artifact import read_manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """What a trial reaches, and the parameters of the trials that come first."""

    objective: Callable[[optuna.Trial], float]
    first: list[dict[str, Any]]


def closed_search(data: Dataset, base: TowerConfig, latest: Path | None) -> Search:
    """Return the search over the closed form: first the settings of the latest model."""
    space = Space.of(data, base)
    first = [] if latest is None else [space.nearest(_settings(latest))]
    return Search(Objective(data, space), first)


def learned_search(
    data: Dataset, closed: TowerConfig, latest: Path | None, training: Path, epochs: int | None, seed: int
) -> Search:
    """Return the search over a learned block: first the settings of the latest model, then the default ones.

    So the best is never worse than those, as far as a dim above the rank of the data changes nothing.
    """
    default = LearnConfig(seed=seed)
    space = LearnSpace.of(data, closed, default)
    known = None if latest is None else _learned_settings(latest)
    first = [space.nearest(options) for options in (known, default) if options is not None]
    return Search(LearnObjective(data, closed, space, training, epochs), first)


def closed_settings(data: Dataset, base: TowerConfig, latest: Path | None) -> TowerConfig:
    """Return the settings of the closed form to learn beside: those of the latest model, or chosen on valid.

    Those of a model with another fusion than `base`, or other weights of actions, are not taken.
    """
    if latest is not None:
        known = _settings(latest)
        if (known.fusion, known.actions) == (base.fusion, base.actions):
            log.info("tune: the closed form has the settings of model %s", latest.name)
            return known
    return choose_config(data, SPLIT, base)[-1].config


def _settings(model: Path) -> TowerConfig:
    return TowerConfig.from_json(read_manifest(model)["settings"])


def _learned_settings(model: Path) -> LearnConfig | None:
    """Return the settings of a model's learned blocks, or None where it has none."""
    learned = json.loads((model / METRICS_FILE).read_text("utf-8")).get("learned")
    return LearnConfig.from_json(learned["settings"]) if learned else None
