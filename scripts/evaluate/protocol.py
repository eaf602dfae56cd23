"""Full-ranking evaluation of a published pair: exported graphs and the index, as serving uses them."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.config import VIEWS
from encoder.dataset import Dataset, rows_of
from encoder.progress import watched
from encoder.tower import dataset_views
from encoder.views import Matrix, ViewBatch
from evaluation.bootstrap import ci95, paired_ci95
from evaluation.metrics import coverage, mean_over_users, mrr, ndcg, recall
from evaluation.ranking import top_k
from indexer.publish import LoadedIndex
from indexer.search import Exclusions

IntArray = npt.NDArray[np.int64]
KS = (10, 20)
SUBSETS = tuple("".join(chosen) for n in (1, 2, 3) for chosen in combinations(VIEWS, n))
_BATCH = 1_024


class NothingHeldOutError(ValueError):
    """A split has no rows, so nothing can be measured on it."""

    def __init__(self, split: str) -> None:
        super().__init__(
            f"nothing is held out: the data has no rows with split {split!r}; "
            f"`triptych split` marks some, then train and reindex again"
        )
        self.split = split


class NothingToFindError(ValueError):
    """Every held-out row of a split names an item that its user has in train or valid already."""

    def __init__(self, split: str) -> None:
        super().__init__(
            f"nothing to find: every row of split {split!r} repeats an item that its user has in the history"
        )
        self.split = split


class VocabularyError(ValueError):
    """A model's items are not those of the export it names."""


@dataclass(frozen=True)
class Evaluator:
    """The protocol of one data set, one split, and the model and index that answer.

    Targets are the held-out rows of the split. Every train row of the user is masked, for test also every
    valid row; a target that is masked itself could never be found and is none. `exact` ranks by brute force
    over the index's vectors instead of searching it.

    Attributes:
        drawn: rows of the users that are ranked, if not all with a target; `sampled` sets them.
        whole: the data with the rows of items that training never saw, which are masked and no targets; None
            where there are no such items.
    """

    data: Dataset
    pair: LoadedIndex
    split: str
    exact: bool = False
    drawn: IntArray | None = None
    whole: Dataset | None = None

    def __post_init__(self) -> None:
        if self.split not in self.data.held_out:
            raise NothingHeldOutError(self.split)
        if not self.pair.model.item_ids.equals(self.data.items):
            raise VocabularyError(
                f"model {self.pair.model.model_id} was trained on other items than its export's"
            )
        if self.drawn is None and not len(self.users):
            raise NothingToFindError(self.split)

    @cached_property
    def masked(self) -> Matrix:
        """Items that are never ranked, (U, N): those of train rows, for test also of valid rows."""
        return masked_items(self.data if self.whole is None else self.whole, self.split)

    @cached_property
    def relevant(self) -> Matrix:
        """The targets, (U, N)."""
        return unmasked_targets(self.data, self.split, self.masked)

    @cached_property
    def users(self) -> IntArray:
        """Rows of the users with at least one target, ascending; of `drawn` where that is given."""
        if self.drawn is not None:
            return self.drawn
        return np.flatnonzero(np.diff(self.relevant.indptr)).astype(np.int64)

    def sampled(self, most: int, among: npt.NDArray[np.bool_], seed: int) -> "Evaluator":
        """Return an evaluator of at most `most` users, drawn from those of `users` that are `among`."""
        users = self.users[among]
        if len(users) > most:
            users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
        return replace(self, drawn=users)

    @cached_property
    def events(self) -> Matrix:
        """The weighted histories of all users, (U, N)."""
        return self.data.events(self.pair.model.config)

    @cached_property
    def views(self) -> ViewBatch:
        """The raw views of `users`."""
        return self.views_of(self.users)

    def views_of(self, users: IntArray) -> ViewBatch:
        """Make the raw views of the users with some rows (n,)."""
        model = self.pair.model
        return dataset_views(self.data, self.events, model.table, model.widths, users)

    @property
    def present(self) -> dict[str, bool]:
        """Whether the data has each view, for any user."""
        has = (bool(len(self.data.history.users)), bool(self.data.text.any()), bool(self.data.ties.nnz))
        return dict(zip(VIEWS, has, strict=True))

    def rank(self, views: tuple[str, ...]) -> IntArray:
        """Return the item rows (len(users), 20) that the index finds with only some views on; −1 fills up."""
        named = "".join(view for view in views if self.present[view])  # an absent view changes nothing
        if named not in self._ranked:
            self._ranked[named] = self.rank_batch(self.views.only(views), named or "fallback")
        return self._ranked[named]

    @cached_property
    def _ranked(self) -> dict[str, IntArray]:
        return {}

    def rank_batch(self, batch: ViewBatch, label: str, users: IntArray | None = None) -> IntArray:
        """Return the item rows (B, 20) that the index finds for raw views of users, −1 where there are fewer.

        Args:
            batch: the raw views.
            label: of the progress bar.
            users: rows of these users (B,); None is `users`.
        """
        users = self.users if users is None else users
        model, index = self.pair.model, self.pair.index
        item_rows, index_row = self._translation
        ranked = np.empty((len(batch), max(KS)), dtype=np.int64)
        # Neighbours with histories of like length are searched together: the index fetches k + the longest.
        order = np.argsort(np.diff(self.masked.indptr)[users], kind="stable")
        starts = range(0, len(batch), _BATCH)
        for start in watched(starts, label, "block", leave=False):
            chosen = order[start : start + _BATCH]
            encoded = model.encode_users(batch.rows(chosen))
            used = encoded.used.any(axis=1)
            if not used.all():
                ranked[chosen[~used]] = self.rank_popular(users[chosen[~used]])
            chosen, vectors = chosen[used], encoded.vectors[used]
            if not len(chosen):
                continue
            masked = self.masked[users[chosen]].tocoo()
            queries, rows = masked.row.astype(np.int64), index_row[masked.col]
            excluded = Exclusions(queries[rows >= 0], rows[rows >= 0])
            search = index.brute_force if self.exact else index.search
            ranked[chosen] = item_rows[search(vectors, max(KS), excluded)[0]]
        return ranked

    @cached_property
    def _translation(self) -> tuple[IntArray, IntArray]:
        """Index row → item row, with −1 → −1 at the end; item row → index row."""
        index, items = self.pair.index, self.data.items
        return np.append(rows_of(index.ids, items), -1), index.rows(items.to_pylist())

    def rank_popular(self, users: IntArray) -> IntArray:
        """Return item rows (n, 20) of the fallback of serving: the indexed items by popularity."""
        index = self.pair.index
        rows = self._translation[1]
        indexed = rows >= 0
        scores = np.full(len(self.data.items), -1.0, dtype=np.float32)
        scores[indexed] = index.popularity_of(rows[indexed])
        spread = np.broadcast_to(scores, (len(users), len(scores)))
        ranked = top_k(np.ascontiguousarray(spread), self.masked[users], max(KS))
        return np.where(scores[ranked] < 0, -1, ranked)

    def subset_figures(
        self, subset: str, among: npt.NDArray[np.bool_]
    ) -> dict[str, dict[str, object]] | None:
        """Return the figures with only some views on, or None where the data lacks all of them."""
        if not any(self.present[view] for view in subset):
            return None
        return self.metrics(self.rank(tuple(subset)), among)

    def metrics(
        self, ranked: IntArray, among: npt.NDArray[np.bool_], ks: tuple[int, ...] = KS
    ) -> dict[str, dict[str, object]]:
        """Return recall, NDCG, MRR and coverage at each k, over some of `users`; None without any."""
        ranked, relevant = ranked[among], self.relevant[self.users][among]
        figures: dict[str, dict[str, object]] = {}
        for k in ks:
            at_k: dict[str, object] = {}
            for name, metric in (("recall", recall), ("ndcg", ndcg), ("mrr", mrr)):
                values = metric(ranked, relevant, k)
                at_k[name] = number(mean_over_users(values))
                at_k[f"{name}_ci95"] = [number(end) for end in ci95(values, seed=0)]
            at_k["coverage"] = coverage(ranked, len(self.data.items), k)
            figures[str(k)] = at_k
        return figures

    def gain(
        self, main: IntArray, other: IntArray, among: npt.NDArray[np.bool_]
    ) -> dict[str, dict[str, object]]:
        """Return the gain of one ranking over another at 20: mean and paired 95 % interval over users.

        One beats the other where the interval excludes 0.
        """
        relevant, k = self.relevant[self.users][among], max(KS)
        gains: dict[str, dict[str, object]] = {}
        for name, metric in (("recall", recall), ("ndcg", ndcg)):
            ours, theirs = metric(main[among], relevant, k), metric(other[among], relevant, k)
            ends = [number(end) for end in paired_ci95(ours, theirs, seed=0)]
            gains[name] = {"mean": number(mean_over_users(ours - theirs)), "ci95": ends}
        return gains


def masked_items(data: Dataset, split: str) -> Matrix:
    """Return the items that a split never ranks, (U, N): those of train rows, for test also of valid rows."""
    return data.seen + data.relevant("valid") if split == "test" else data.seen


def unmasked_targets(data: Dataset, split: str, masked: Matrix) -> Matrix:
    """Return the held-out pairs of a split that are not masked, (U, N)."""
    held_out = data.relevant(split)
    targets = sparse.csr_array(held_out - held_out.multiply(masked.astype(bool).astype(np.float32)))
    targets.eliminate_zeros()
    return targets


def number(value: float) -> float | None:
    """Return a figure as JSON has it: None for NaN, the mean over no user."""
    return None if math.isnan(value) else value
