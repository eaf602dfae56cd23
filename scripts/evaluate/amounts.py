"""How recall grows with the amount of a view: people's histories, texts and friends cut to n elements.

A view is made of elements: H of items (all events of one user on one item are one entry of the history, which
keeps its whole weight; where all its events count 0 it is none), T of texts, S of friends. A cut to n keeps n
elements of each user, drawn at random by seed, or all where there are no more; the draws are nested, so the
element of n = 1 is among those of n = 2. A half-life counts the newer events within the cut history, as it
would for a person who did no more.

Only what the ranked users give the tower is cut: the data, of which the function that training and serving
use then makes views. The model, the index, the masks, the targets, the other views and friends' histories
stay whole. All columns are over the same users: at most MOST_USERS of those that the main figures are over,
drawn by seed. The three blocks of the report and their columns, each the views that are on:

    by_history   n items     H, TS, HTS
    by_texts     n texts     T, HS, HTS
    by_friends   n friends   S, HT, HTS

A block is None where the data lacks its view, a column where the data has none of its views. The first two
columns carry what HTS gains over them, with the paired 95 % interval.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from tqdm import tqdm

from encoder.arrays import IntArray
from encoder.config import VIEW_NAMES, VIEWS, TowerConfig
from encoder.dataset import Dataset
from encoder.tower import dataset_views
from encoder.views import ViewBatch, event_matrix
from scripts.evaluate.protocol import Evaluator

NUMBERS = (0, 1, 2, 3, 5, 10, 20)
ALL = "all"
BLOCKS = {"H": "by_history", "T": "by_texts", "S": "by_friends"}
WHOLE = "HTS"
MOST_USERS = 2_000
_K = 20

log = logging.getLogger(__name__)


def columns_of(view: str) -> tuple[str, str, str]:
    """Return the columns of a block: the view that is cut, the two others, and all three."""
    return view, WHOLE.replace(view, ""), WHOLE


def amount_figures(evaluator: Evaluator, among: npt.NDArray[np.bool_], seed: int = 0) -> dict[str, Any]:
    """Return the three blocks as JSON values, and under "cut" the number of users and the seed.

    Args:
        evaluator: ranks by the protocol of the main figures.
        among: (len(evaluator.users),) bool, the users that are drawn from.
        seed: of the draws.
    """
    few = evaluator.sampled(MOST_USERS, among, seed)
    figures: dict[str, Any] = {"cut": {"users": len(few.users), "seed": seed}}
    for view, block in BLOCKS.items():
        figures[block] = _block(few, view, seed) if few.present[view] else None
    return figures


def _block(evaluator: Evaluator, view: str, seed: int) -> dict[str, Any]:
    name = BLOCKS[view].replace("_", " ")
    log.info("%s: %s users, %s amounts", name, f"{len(evaluator.users):,}", len(NUMBERS) + 1)
    there = "".join(one for one in columns_of(view)[1] if evaluator.present[one])
    everybody = np.ones(len(evaluator.users), dtype=bool)
    others = evaluator.metrics(evaluator.rank(tuple(there)), everybody, (_K,)) if there else None
    numbers = tqdm([*NUMBERS, None], desc=name, unit="amount", leave=None, disable=None)
    block = {ALL if n is None else str(n): _figures(evaluator, view, n, seed, others) for n in numbers}
    log.info("%s: done", name)
    return block


def _figures(
    evaluator: Evaluator, view: str, n: int | None, seed: int, others: dict[str, dict[str, object]] | None
) -> dict[str, Any]:
    """Return the figures at 20 of each column, with a view cut to n elements; None is whole.

    `others` are those without the view, which are the same for each n.
    """
    batch = cut_views(evaluator, view, n, seed)
    changed = _differ(evaluator.views, batch, view)  # who has no more than n is ranked as by the whole view
    everybody = np.ones(len(evaluator.users), dtype=bool)
    named = {c: "".join(one for one in c if evaluator.present[one]) for c in columns_of(view)}
    ranked: dict[str, IntArray] = {}  # by the views that the data has: an absent one changes nothing
    for there in filter(None, named.values()):
        if n is None or view not in there:
            ranked[there] = evaluator.rank(tuple(there))
        elif there not in ranked:
            less = batch.rows(changed).only(tuple(there))
            ranked[there] = evaluator.rank(tuple(there)).copy()
            ranked[there][changed] = evaluator.rank_batch(less, f"{there}, {n}", evaluator.users[changed])
    whole = ranked[named[WHOLE]]
    figures: dict[str, Any] = {}
    for column, there in named.items():
        if view in column:
            figures[column] = dict(evaluator.metrics(ranked[there], everybody, (_K,)))
        else:
            figures[column] = None if others is None else dict(others)
        if there and column != WHOLE:
            figures[column]["gain"] = evaluator.gain(whole, ranked[there], everybody)
    return figures


def _differ(one: ViewBatch, other: ViewBatch, view: str) -> IntArray:
    """Return the rows where a view, or any amount, differs between two batches (n,)."""
    rows = (getattr(batch, VIEW_NAMES[view]) for batch in (one, other))
    return np.flatnonzero(np.not_equal(*rows).any(axis=1) | (one.amounts != other.amounts).any(axis=1))


def cut_views(evaluator: Evaluator, view: str, n: int | None, seed: int) -> ViewBatch:
    """Return the raw views of the ranked users with one view cut to n elements, None being all."""
    if n is None:
        return evaluator.views
    model = evaluator.pair.model
    rng = np.random.default_rng([seed, VIEWS.index(view)])
    cut = _CUTS[view](evaluator.data, model.config, evaluator.users, n, rng)
    events = cut.events(model.config) if view == "H" else evaluator.events
    batch = dataset_views(cut, events, model.table, model.widths, evaluator.users)
    return evaluator.views.with_view(view, batch)


def first_drawn(owners: IntArray, n: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Draw n elements of each owner, all where there are fewer: (m,) bool.

    The same generator and owners (m,) give nested draws: what is drawn for n is drawn for n + 1, too.
    """
    order = np.lexsort((rng.random(len(owners)), owners))
    place = np.empty(len(owners), dtype=np.int64)  # of an element among its owner's
    place[order] = np.arange(len(owners)) - np.searchsorted(owners[order], owners[order])
    return place < n


def cut_history(
    data: Dataset, config: TowerConfig, users: IntArray, n: int, rng: np.random.Generator
) -> Dataset:
    """Return the data with n items in the history of each of some users, and none in any other's."""
    rows = data.history.where(np.isin(data.history.users, users))
    entries = event_matrix(rows, data.shape, config).tocoo()  # by user, then item
    pairs = entries.row.astype(np.int64) * len(data.items) + entries.col
    drawn = pairs[first_drawn(entries.row.astype(np.int64), n, rng)]
    return replace(data, history=rows.where(np.isin(rows.users * len(data.items) + rows.items, drawn)))


def cut_texts(
    data: Dataset, _config: TowerConfig, users: IntArray, n: int, rng: np.random.Generator
) -> Dataset:
    """Return the data with n texts of each of some users, and none of any other."""
    kept = np.isin(data.texts.users, users)
    kept[kept] = first_drawn(data.texts.users[kept], n, rng)
    return replace(data, texts=data.texts.where(kept))


def cut_friends(
    data: Dataset, _config: TowerConfig, users: IntArray, n: int, rng: np.random.Generator
) -> Dataset:
    """Return the data with n friends of each of some users, and none of any other."""
    ties = data.ties.tocoo()
    kept = np.isin(ties.row, users)
    kept[kept] = first_drawn(ties.row[kept].astype(np.int64), n, rng)
    fewer = sparse.csr_array((ties.data[kept], (ties.row[kept], ties.col[kept])), shape=ties.shape)
    return replace(data, ties=fewer)


_CUTS: dict[str, Callable[[Dataset, TowerConfig, IntArray, int, np.random.Generator], Dataset]] = {
    "H": cut_history,
    "T": cut_texts,
    "S": cut_friends,
}
