"""Trials of `triptych tune` on workers: the data and what is searched lie in files that they see."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.dataset_files import read_dataset, save_dataset
from encoder.jobs import Jobs, check_shared, shared_folder
from scripts.tune.closed_form import Objective, closed_search
from scripts.tune.learned import LearnObjective, learned_search
from scripts.tune.study import DrawnTrial, EndedTrial, Params, Tuning, end_trial
from store.home import Home

_SEARCH_FILE = "search.json"


@dataclass(frozen=True)
class Search:
    """What `triptych tune` searches.

    Attributes:
        closed: settings of the closed form, as JSON; of a learned block, those of the one beside it.
        learned: whether a learned block is searched.
        training: folder of this study, for checkpoints.
        epochs: of a learned block, at most; None for as many as its settings say.
        seed: of its draws.
    """

    closed: dict[str, Any]
    learned: bool
    training: str
    epochs: int | None
    seed: int

    def begin(self, data: Dataset, latest: Path | None) -> tuple[Objective | LearnObjective, list[Params]]:
        """Return the objective and the trials to begin with.

        Args:
            data: whose valid rows choose.
            latest: the model whose settings are tried first.
        """
        base = TowerConfig.from_json(self.closed)
        if self.learned:
            return learned_search(data, base, latest, Path(self.training), self.epochs, self.seed)
        return closed_search(data, base, latest)


def run_trials(
    tuning: Tuning,
    objective: Objective | LearnObjective,
    home: Home,
    jobs: Jobs,
    data: Dataset,
    search: Search,
    *,
    trials: int,
    timeout: float | None,
    seed: int,
    together: int,
) -> None:
    """End trials of a study, on workers where there are any.

    Args:
        tuning: the study.
        objective: of the search.
        home: where workers find the data and the search.
        jobs: the workers.
        data: whose valid rows choose.
        search: what is searched.
        trials: how many are to be ended in all.
        timeout: seconds after which no new trial starts.
        seed: of the draws.
        together: how many trials are drawn and ended at once.
    """
    if jobs.in_this_process and together == 1:
        tuning.run(objective, trials, timeout, seed)
        return
    with ExitStack() as stack:
        end: Callable[[Sequence[DrawnTrial]], Iterator[EndedTrial]] = partial(
            map, partial(end_trial, objective)
        )
        if not jobs.in_this_process:
            folder = stack.enter_context(shared_folder(home))
            save_dataset(data, folder)
            (folder / _SEARCH_FILE).write_text(json.dumps(asdict(search)), "utf-8")
            end = partial(jobs.map, partial(end_trial_of, folder), label="tune")
        tuning.run_together(objective.space.draw, end, trials, timeout, seed, together)


def end_trial_of(folder: Path, drawn: DrawnTrial) -> EndedTrial:
    """End a trial of the search in a folder."""
    check_shared(folder)
    return end_trial(_objective_in(folder), drawn)


@lru_cache(1)
def _objective_in(folder: Path) -> Objective | LearnObjective:
    """Read the data and fit what is the same in all trials once for all those of a worker."""
    search = Search(**json.loads((folder / _SEARCH_FILE).read_text("utf-8")))
    return search.begin(read_dataset(folder), None)[0]
