"""The searches that are measured beside each other: ours in three forms, and bare FAISS."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from indexer.files import FloatArray, IntArray, ItemChange
from indexer.filters import Filter
from indexer.index import Index
from indexer.search import Bits, Exclusions, bits_of
from scripts.bench.index.bare import BareFaiss, search_params_of
from scripts.bench.index.synthetic import HALF, Synthetic
from scripts.bench.index.timing import Search, ann_recall

BARE, BARE_MORE, BARE_FILTERED = "bare", "bare_more", "bare_filtered"
PLAIN, USUAL, EVERYTHING = "plain", "usual", "everything"
BESIDE = {PLAIN: BARE, USUAL: BARE_MORE, EVERYTHING: BARE_FILTERED}  # ours, and what it is measured beside
_HALF = Filter(equals=((HALF, (True,)),))


class SearchComparison:
    """Searches over one index, by name.

    `plain` gives ids and scores. `usual` also leaves items out of each query and merges in what changed.
    `everything` also filters, half of the items passing. Beside them stands FAISS with the same effort:
    `bare` asked for k, `bare_more` for as many more as a caller needs who leaves items out, `bare_filtered`
    for as many with the same filter. Where FAISS cannot filter, there is neither `everything` nor that.

    Args:
        directory: of an index that `synthetic.build_index` built.
        world: that it is of.
        queries: (Q, D), each batch taken from them in turn.
        k: results per query.
        excluded: items per query to leave out: of its best ones, as those are that a user knows.
        changes: items to put, half of them in the place of others.
    """

    def __init__(
        self, directory: Path, world: Synthetic, queries: FloatArray, k: int, excluded: int, changes: int
    ) -> None:
        self.queries, self.k = queries, k
        self.index = Index.load(directory, check=False)
        self.bare = BareFaiss(self.index, directory)
        self._changed = Index.load(directory, check=False)
        self._changed.put(_changes(world, changes))
        near = self.index.search(queries, max(1, 2 * excluded))[0]
        self._left_out = near[:, ::2][:, :excluded]  # (Q, excluded)
        total = len(self.index.main)
        half = np.arange(0, total, 2)
        of_half = self.index.policy.search_params(len(half), total) or search_params_of(self.index)
        lists = self.index.approximate.max_nprobe if self.index.approximate else 1
        of_half_probes = round(of_half.portions.even * lists) if of_half.portions else of_half.nprobe
        more, bits, probes = k + excluded, bits_of(half, total), search_params_of(self.index).nprobe
        self._bare_calls: dict[str, tuple[int, int, Bits | None]] = {
            BARE: (k, probes, None),
            BARE_MORE: (more, probes, None),
            BARE_FILTERED: (more, max(1, of_half_probes), bits),
        }
        # The rows of a bitmap are those of the whole index, which FAISS's own shards do not know.
        several = self.index.manifest["shards"] > 1
        self._filters = not several and (self.index.approximate is None or self.index.approximate.filters)
        if not self._filters:
            del self._bare_calls[BARE_FILTERED]

    def searches(self, batch: int) -> dict[str, Search]:
        """Return each search as a function of the number of a batch."""
        found: dict[str, Search] = {name: partial(self._of_bare, batch, name) for name in self._bare_calls}
        starts = range(0, len(self.queries) - batch + 1, batch)
        out = [_excluded(self._left_out[start : start + batch]) for start in starts]
        nothing = [None] * len(out)
        found[PLAIN] = partial(self._of_ours, batch, self.index, nothing, None)
        found[USUAL] = partial(self._of_ours, batch, self._changed, out, None)
        if self._filters:
            found[EVERYTHING] = partial(self._of_ours, batch, self._changed, out, _HALF)
        return found

    def recalls(self) -> dict[str, float]:
        """Return the ANN recall@k of each search, beside brute force over the same items."""
        queries, k, out = self.queries, self.k, _excluded(self._left_out)
        all_of = {
            PLAIN: (self.index, None, None),
            USUAL: (self._changed, out, None),
            EVERYTHING: (self._changed, out, _HALF),
        }
        recalls = {
            name: ann_recall(
                index.search(queries, k, excluded, wanted)[0], index.brute_force(queries, k, excluded, wanted)
            )
            for name, (index, excluded, wanted) in all_of.items()
            if self._filters or name != EVERYTHING
        }
        for name, (count, _, bits) in self._bare_calls.items():
            exact = self.index.brute_force(queries, count, None, _HALF if bits is not None else None)
            recalls[name] = ann_recall(self._of_bare(len(queries), name, 0), exact)
        return recalls

    def _of_bare(self, batch: int, search: str, number: int) -> IntArray:
        count, search_params, bits = self._bare_calls[search]
        return self.bare.find(self.queries[number * batch : (number + 1) * batch], count, search_params, bits)

    def _of_ours(
        self,
        batch: int,
        index: Index,
        excluded: Sequence[Exclusions | None],
        wanted: Filter | None,
        number: int,
    ) -> tuple[list[list[str]], FloatArray]:
        some = self.queries[number * batch : (number + 1) * batch]
        return search_ours(index, some, self.k, excluded[number], wanted)


def search_ours(
    index: Index,
    queries: FloatArray,
    k: int,
    excluded: Exclusions | None = None,
    wanted: Filter | None = None,
) -> tuple[list[list[str]], FloatArray]:
    """Return item ids and scores (B, k), best first: what a query takes from the index."""
    rows, scores = index.search(queries, k, excluded, wanted)
    found = rows >= 0
    if len(rows) == 1:
        return [index.item_ids(rows[0][found[0]])], scores
    ids = index.item_ids(rows[found])
    ends = np.cumsum(found.sum(axis=1)).tolist()
    return [ids[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)], scores


def _changes(world: Synthetic, count: int) -> list[ItemChange]:
    """Return items to put: every other one takes the place of an item, the rest are new."""
    vectors = world.more(count)
    rows = np.linspace(0, world.items - 1, max(1, count)).astype(int)
    return [
        ItemChange(
            item_id=f"item-{rows[n]:09d}" if n % 2 else f"new-{n:09d}",
            vector=vectors[n],
            popularity=0.0,
            content=bytes(16),
            facts=bytes(16),
            kind=None,
            attributes=json.dumps({HALF: n % 4 < 2}),
        )
        for n in range(count)
    ]


def _excluded(rows: IntArray) -> Exclusions:
    return Exclusions(np.repeat(np.arange(len(rows)), rows.shape[1]), rows.ravel())
