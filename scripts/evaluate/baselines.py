"""The baselines of `evaluate --baselines`: fitted on the same train rows, ranked by the same protocol."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from encoder.dataset import Dataset
from encoder.dataset_files import read_dataset, read_matrix, save_dataset, save_matrix
from encoder.jobs import IN_PROCESS, Jobs, check_shared, shared_folder
from encoder.progress import LongStage
from encoder.views import FloatArray, Matrix
from evaluation.baselines import (
    Bpr,
    Ease,
    Ials,
    ItemKnn,
    LibraryMissingError,
    Popularity,
    Scorer,
    Side,
    SideEase,
    TooManyItemsError,
    TooMuchWorkError,
    choose_als,
    choose_bpr,
    choose_ease,
    choose_knn,
    choose_side_ease,
)
from evaluation.ranking import top_k
from evaluation.split import VALID, mark
from scripts.evaluate.protocol import KS, Evaluator, IntArray
from store.home import Home

log = logging.getLogger(__name__)

POPULARITY = "popularity"
NAMES = (POPULARITY, "ItemKNN", "iALS", "BPR", "EASE", "EASE + T + S")
_BATCH = 1_024
_LEFT_OUT = "left_out"  # in figures: the reason
_FITTED_ON, _DATA = "fitted-on", "data"  # names of folders


@dataclass(frozen=True)
class RankedItems:
    """What a baseline ranks first, with settings that were chosen on valid; or why it is left out.

    Shapes:
        rows: (len(users), 20) item rows, −1 where there are fewer; empty where it is left out.
    """

    settings: dict[str, Any]
    rows: IntArray

    @property
    def left_out(self) -> str | None:
        """The reason, None where it is not left out."""
        reason: str | None = self.settings.get(_LEFT_OUT)
        return reason


@dataclass(frozen=True)
class Contest:
    """What baselines are fitted on, and whom they rank items for.

    Shapes:
        users: (n,) rows of the users; masked: (U, N) items that are not ranked.

    Attributes:
        fitted_on: the data without the users whom the model's training did not see either.
        data: with all users.
    """

    fitted_on: Dataset
    data: Dataset
    users: IntArray
    masked: Matrix

    def save(self, folder: Path) -> None:
        """Write it where workers find it."""
        save_dataset(self.data, folder / _DATA)
        if self.fitted_on is not self.data:
            save_dataset(self.fitted_on, folder / _FITTED_ON)
        save_matrix(folder, "masked", self.masked)
        np.save(folder / "users.npy", self.users, allow_pickle=False)

    @classmethod
    def read(cls, folder: Path) -> "Contest":
        """Read what `save` wrote."""
        data = read_dataset(folder / _DATA)
        apart = (folder / _FITTED_ON).is_dir()
        return cls(
            read_dataset(folder / _FITTED_ON) if apart else data,
            data,
            np.load(folder / "users.npy", allow_pickle=False),
            read_matrix(folder, "masked"),
        )

    def rank(self, name: str) -> RankedItems:
        """Choose the settings of a baseline, fit it, and rank the items for every user."""
        if name == POPULARITY:
            return RankedItems({}, _rank(Popularity.fit(self.fitted_on.seen), self))
        choose, fit = _peers(self.fitted_on)[name]
        try:
            setting, model = choose(*_choosing_data(self.fitted_on))
            if "valid" not in self.fitted_on.held_out:  # chosen on a part of train, so fitted again on all
                model = fit(self.fitted_on.seen, setting)
        except (LibraryMissingError, TooManyItemsError, TooMuchWorkError) as error:
            return RankedItems({_LEFT_OUT: str(error)}, np.zeros((0, max(KS)), dtype=np.int64))
        chosen = {"lambda": setting} if isinstance(setting, float) else asdict(setting)
        return RankedItems(chosen, _rank(model, self))


def baseline_figures(
    evaluator: Evaluator,
    fitted_on: Dataset,
    main: IntArray,
    among: "np.ndarray[Any, np.dtype[np.bool_]]",
    home: Home,
    jobs: Jobs = IN_PROCESS,
) -> dict[str, dict[str, Any]]:
    """Return the figures of each baseline over some users, or the reason why it is left out, by name.

    Args:
        evaluator: ranks by the protocol of the model beside them.
        fitted_on: the data without the users whom the model's training did not see either.
        main: (len(evaluator.users), 20) the ranking whose gain over each baseline is "gain".
        among: (len(evaluator.users),) bool.
        home: where workers find what they need.
        jobs: the workers; each fits a baseline at a time.
    """
    contest = Contest(fitted_on, evaluator.data, evaluator.users, evaluator.masked)
    figures: dict[str, dict[str, Any]] = {}
    with LongStage("baselines", len(NAMES), "model") as stage:
        for name, ranked in zip(NAMES, ranked_by(contest, home, jobs), strict=True):
            stage.advance()
            figures[name] = dict(ranked.settings)
            if ranked.left_out is not None:
                log.warning("%s is left out: %s", name, ranked.left_out)
                continue
            figures[name] |= evaluator.metrics(ranked.rows, among)
            figures[name]["gain"] = evaluator.gain(main, ranked.rows, among)
    return figures


def rank_part(folder: Path, name: str) -> dict[str, Any]:
    """Write what a baseline ranks for the contest in a folder beside it; return its settings."""
    check_shared(folder)
    ranked = _contest_in(folder).rank(name)
    draft = folder / f"{name}.draft.npy"
    np.save(draft, ranked.rows, allow_pickle=False)
    draft.replace(folder / f"{name}.npy")
    return ranked.settings


@lru_cache(1)
def _contest_in(folder: Path) -> Contest:
    """Read a contest once for all baselines of a worker."""
    return Contest.read(folder)


def ranked_by(contest: Contest, home: Home, jobs: Jobs) -> Iterator[RankedItems]:
    """Yield what each baseline ranks, in the order of NAMES, on workers where there are any."""
    if jobs.in_this_process:
        yield from map(contest.rank, NAMES)
        return
    with shared_folder(home) as folder:
        contest.save(folder)
        results = jobs.map(partial(rank_part, folder), NAMES, "baselines")
        for name, settings in zip(NAMES, results, strict=True):
            yield RankedItems(settings, np.load(folder / f"{name}.npy", allow_pickle=False))


def _peers(data: Dataset) -> dict[str, tuple[Callable[..., tuple[Any, Scorer]], Callable[..., Scorer]]]:
    """Return, by the name of each baseline with settings, the function that chooses them and its `fit`."""
    side = Side(data.item_text_vectors, data.text, data.ties)
    return {
        "ItemKNN": (choose_knn, ItemKnn.fit),
        "iALS": (choose_als, Ials.fit),
        "BPR": (choose_bpr, Bpr.fit),
        "EASE": (choose_ease, Ease.fit),
        "EASE + T + S": (partial(choose_side_ease, side=side), partial(SideEase.fit, side=side)),
    }


def _choosing_data(data: Dataset) -> tuple[Matrix, Matrix, Matrix]:
    """Return train, targets and items not to rank, to choose settings by: of valid, or a tenth of train."""
    if "valid" in data.held_out:
        return data.seen, data.relevant("valid"), data.seen
    rows = data.history
    inner = mark("random", rows.users, rows.items, rows.ts, valid=0.1, test=0.0, seed=0)
    kept = _pairs(data, inner != VALID)
    return kept, _pairs(data, inner == VALID), kept


def _pairs(data: Dataset, rows: "np.ndarray[Any, np.dtype[np.bool_]]") -> Matrix:
    chosen = data.history.where(rows)
    pairs = sparse.csr_array(
        (np.ones(len(chosen.users), dtype=np.float32), (chosen.users, chosen.items)), shape=data.shape
    )
    pairs.sum_duplicates()
    pairs.data[:] = 1.0
    return pairs


def _rank(model: Scorer, contest: Contest) -> IntArray:
    """Return the item rows (len(users), 20) that a baseline ranks first, −1 where there are fewer."""
    users, data = contest.users, contest.data
    side = Side(data.item_text_vectors, data.text, data.ties)
    circle = side.circle(data.seen) if isinstance(model, SideEase) else None

    def scores(rows: IntArray) -> FloatArray:
        if isinstance(model, SideEase) and circle is not None:
            return model.scores(data.seen[rows], circle=circle[rows], text=data.text[rows])
        return np.ascontiguousarray(model.scores(data.seen[rows], rows))

    blocks = [users[start : start + _BATCH] for start in range(0, len(users), _BATCH)]
    return np.concatenate([top_k(scores(rows), contest.masked[rows], max(KS)) for rows in blocks])
