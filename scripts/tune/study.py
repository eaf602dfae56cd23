"""A study of `triptych tune`: trials are written to a file as they end, so that a killed search goes on."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from encoder.progress import LongStage

Params = dict[str, Any]  # of a trial, by name
CONFIG_ATTR = "config"  # of a trial: its settings, as `triptych train --config` reads them
_STARTUP_TRIALS = 5  # complete ones, before any is pruned: the first, the default settings, never is
_WARMUP_EPOCHS = 20
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)

log = logging.getLogger(__name__)


class StudiesError(ValueError):
    """The file of studies cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} cannot be read as studies of `triptych tune`: {reason}; delete it to start anew"
        )
        self.path = path


class Tuning:
    """One study below a home: the trials on one state of the data; one process at a time runs it."""

    def __init__(self, file: Path, name: str) -> None:
        """Open the study of that name, or begin it.

        Raises:
            StudiesError: the file is damaged.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._study = optuna.create_study(
                storage=f"sqlite:///{file.resolve()}",
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(
                    _STARTUP_TRIALS, _WARMUP_EPOCHS, n_min_trials=_STARTUP_TRIALS
                ),
            )
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            raise StudiesError(file, str(error).splitlines()[0]) from error

    @property
    def done(self) -> int:
        """How many trials have ended, complete or pruned; killed ones do not count."""
        return len(self._study.get_trials(deepcopy=False, states=_ENDED))

    @property
    def best(self) -> tuple[dict[str, Any], float]:
        """The best settings so far, as JSON, and their NDCG@20.  Raises: ValueError while there are none."""
        trial = self._study.best_trial
        return trial.user_attrs[CONFIG_ATTR], float(trial.values[0])

    def enqueue(self, params: Params) -> None:
        """Try some settings next, unless they were tried to the end, or are waiting already."""
        states = (*_ENDED, TrialState.WAITING)
        known = self._study.get_trials(deepcopy=False, states=states)
        if params not in [_parameters_of(trial) for trial in known]:
            self._study.enqueue_trial(params)

    def run(
        self, objective: Callable[[optuna.Trial], float], trials: int, timeout: float | None, seed: int
    ) -> None:
        """End trials until there are `trials` in all, or until the seconds are over.

        Args:
            objective: returns the NDCG@20 of a trial and stores the settings with it.
            trials: those of earlier runs count.
            timeout: seconds after which no new trial starts.
            seed: of the draws.
        """
        done = self.done
        if done >= trials:
            return
        log.info("tune: %d of %d trials are done already", done, trials)
        # A sampler that began at the same seed again would draw its first trials again.
        self._study.sampler = optuna.samplers.TPESampler(seed=seed + done)
        with LongStage("tune", trials, "trial", done=done) as stage:

            def count(study: optuna.Study, trial: FrozenTrial) -> None:
                stage.advance(note=f"NDCG@20 {study.best_value:.4f}")
                log.debug("trial %d: %s, NDCG@20 %s", trial.number, trial.state.name, trial.value)

            self._study.optimize(objective, n_trials=trials - done, timeout=timeout, callbacks=[count])
        log.info("tune: %d trials are done", self.done)

    def retry_killed(self) -> None:
        """Try killed or interrupted trials once more, before all others: their checkpoints are kept."""
        trials = self._study.get_trials(deepcopy=False)
        tried = [_parameters_of(trial) for trial in trials]
        for trial, params in zip(trials, tried, strict=True):
            # Settings that occur twice were tried again already; what kills twice may kill for ever.
            killed = trial.state in (TrialState.RUNNING, TrialState.FAIL)
            if killed and params and tried.count(params) == 1:
                self._study.enqueue_trial(params)


def _parameters_of(trial: FrozenTrial) -> Params:
    """Return the parameters that a trial was told to try, or those that it drew."""
    return dict(trial.system_attrs.get("fixed_params", trial.params))
