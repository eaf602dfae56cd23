"""A study of `triptych tune`: trials are written to a file as they end, so that a killed search goes on."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class DrawnTrial:
    """The settings that a trial drew, and what complete ones reached before, epoch by epoch.

    A worker needs no more: it does not see the file of studies.
    """

    params: Params
    curves: tuple[dict[int, float], ...]


@dataclass(frozen=True)
class EndedTrial:
    """What a trial reached on a worker; `value` is None where it was pruned."""

    value: float | None
    curve: dict[int, float]
    attributes: dict[str, Any]


def end_trial(objective: Callable[[optuna.Trial], float], drawn: DrawnTrial) -> EndedTrial:
    """Try the settings that were drawn elsewhere, pruned by what complete trials had reached then."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", pruner=_pruner())
    study.add_trials(
        [optuna.trial.create_trial(value=0.0, intermediate_values=dict(one)) for one in drawn.curves]
    )
    study.enqueue_trial(drawn.params)
    study.optimize(objective, n_trials=1)
    trial = study.get_trials(deepcopy=False)[-1]
    value = trial.value if trial.state is TrialState.COMPLETE else None
    return EndedTrial(value, trial.intermediate_values, trial.user_attrs)


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
                pruner=_pruner(),
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

    def run_together(
        self,
        draw: Callable[[optuna.Trial], object],
        end: Callable[[Sequence[DrawnTrial]], Iterable[EndedTrial]],
        trials: int,
        timeout: float | None,
        seed: int,
        together: int,
    ) -> None:
        """End trials as `run` does, but some at once, which are drawn without knowing of each other.

        Which settings are tried depends on their number, not on who tries them or in what order they end.

        Args:
            draw: draws the settings of a trial.
            end: ends drawn trials, in their order.
            trials: those of earlier runs count.
            timeout: seconds after which no new trials start.
            seed: of the draws.
            together: how many trials are drawn and ended at once.
        """
        done = self.done
        if done >= trials:
            return
        log.info("tune: %d of %d trials are done already", done, trials)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed + done)
        began = time.monotonic()
        with LongStage("tune", trials, "trial", done=done) as stage:
            while done < trials and (timeout is None or time.monotonic() - began < timeout):
                asked = [self._study.ask() for _ in range(min(together, trials - done))]
                for trial in asked:
                    draw(trial)
                complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                curves = tuple(trial.intermediate_values for trial in complete)
                ended = end([DrawnTrial(trial.params, curves) for trial in asked])
                for trial, one in zip(asked, ended, strict=True):
                    self._tell(trial, one)
                    stage.advance(note=self._note())
                done += len(asked)
        log.info("tune: %d trials are done", self.done)

    def _tell(self, trial: optuna.Trial, ended: EndedTrial) -> None:
        """Write down what a trial reached."""
        for name, value in ended.attributes.items():
            trial.set_user_attr(name, value)
        for epoch, reached in ended.curve.items():
            trial.report(reached, epoch)
        if ended.value is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, ended.value)

    def _note(self) -> str:
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return f"NDCG@20 {self._study.best_value:.4f}" if complete else ""

    def retry_killed(self) -> None:
        """Try killed or interrupted trials once more, before all others: their checkpoints are kept."""
        trials = self._study.get_trials(deepcopy=False)
        tried = [_parameters_of(trial) for trial in trials]
        for trial, params in zip(trials, tried, strict=True):
            # Settings that occur twice were tried again already; what kills twice may kill for ever.
            killed = trial.state in (TrialState.RUNNING, TrialState.FAIL)
            if killed and params and tried.count(params) == 1:
                self._study.enqueue_trial(params)


def _pruner() -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner(_STARTUP_TRIALS, _WARMUP_EPOCHS, n_min_trials=_STARTUP_TRIALS)


def _parameters_of(trial: FrozenTrial) -> Params:
    """Return the parameters that a trial was told to try, or those that it drew."""
    return dict(trial.system_attrs.get("fixed_params", trial.params))
