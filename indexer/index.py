"""An index: an immutable directory, and the changes on top of it."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.delta import Delta, IndexState
from indexer.files import (
    FACTS_FILE,
    FloatArray,
    IntArray,
    ItemChange,
    ItemIds,
    MainPart,
    read_delta,
    read_without_vector,
)
from indexer.filters import AttributeIndex, AttributesByRow, Filter
from indexer.milvus import MilvusSearch
from indexer.search import (
    ALL_ALLOWED,
    EXACT,
    CandidateSearch,
    Exclusions,
    FilterCache,
    FilterPolicy,
    Searchable,
    Searched,
    best_by_id,
    open_ann,
    scores_of,
)
from store.artifact import DamagedArtifactError, read_manifest, verify
from store.attributes import BadAttributesError, left_out_message, usable_attributes

log = logging.getLogger(__name__)

Elsewhere = Callable[[str, ItemIds], MilvusSearch]
"""Opens what finds candidates for an index, by its id and the ids of its main part."""

LAYOUT = 2  # of the files; 1 had no changes beside a main part


class VectorDimError(ValueError):
    """A query vector is not of the index's embedding dim."""

    def __init__(self, got: int, dim: int) -> None:
        super().__init__(f"the vector has {got} values, but the embedding dim is {dim}")
        self.got = got
        self.dim = dim


class Index:
    """An immutable directory below indexes/, and the changes that were put on top of it.

    A row is a position in the index: the M rows of the main part come first, then the appended ones. An item
    that changes gets a new row, and appended rows are numbered anew now and then: who looks rows up while
    others write takes `delta.state` once, and passes it to each method.

    Attributes:
        index_id: the directory's name.
        model_id: of the model that made the vectors; vectors of another model do not compare with them.
        main, delta: the main part and the changes.
        elsewhere: what finds candidates in place of FAISS; None for FAISS.
        approximate: FAISS over the vectors of the main part; None where every vector is compared, and with
            `elsewhere`.
        policy: of filtered searches.
        exact: whether a search without a filter compares every item.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any], elsewhere: Elsewhere | None = None) -> None:
        self.index_id = directory.name
        self.manifest = manifest
        self.model_id: str = manifest["model_id"]
        self.dim: int = manifest["dim"]
        self.exact: bool = manifest["factory"] == EXACT
        self.main = MainPart.open(directory)
        self.elsewhere = None if elsewhere is None else elsewhere(self.index_id, self.main.ids)
        if self.elsewhere is None:
            self.approximate = open_ann(directory, manifest, self.main.vectors)
            self.policy = FilterPolicy.from_json(manifest["filters"])
        else:
            self.approximate, self.policy, self.exact = None, self.elsewhere.policy, False
        self.delta = Delta(self.main.ids, self.dim)
        changes, removed = read_delta(directory)
        self._apply_stored([*changes, *read_without_vector(directory, self.dim)], removed)
        self._attributes = AttributeIndex(directory / FACTS_FILE)
        self._allowed = FilterCache(self.main, self._attributes, self.delta.rows).allowed
        self._check_sizes(directory, len(changes))

    @classmethod
    def load(cls, directory: Path, *, check: bool = True, elsewhere: Elsewhere | None = None) -> "Index":
        """Open the index in a directory; with `check`, after comparing the checksum of every file.

        Candidates come from FAISS, or from what `elsewhere` opens.

        Raises:
            DamagedArtifactError: a file is missing, damaged or of another kind; names the file.
        """
        manifest = verify(directory) if check else read_manifest(directory)
        if manifest.get("kind") != "index":
            raise DamagedArtifactError(directory, f"is a {manifest.get('kind')!r}, not an index")
        if manifest.get("layout") != LAYOUT:
            found = manifest.get("layout")
            reason = f"has layout {found}, this version reads {LAYOUT}: run `triptych reindex`"
            raise DamagedArtifactError(directory, reason)
        return cls(directory, manifest, elsewhere)

    def __len__(self) -> int:
        state = self.delta.state
        appended = len(state.removed_at) - state.removed - state.without_vector
        return len(self.main) - state.main_removed + appended

    @property
    def without_vector(self) -> int:
        """Number of items that filters and the popularity fallback find, and searches by vector do not."""
        return self.delta.state.without_vector

    def search(
        self,
        vectors: FloatArray,
        k: int,
        excluded: Exclusions | None = None,
        wanted: Filter | None = None,
        state: IndexState | None = None,
    ) -> Searched:
        """Search for the best items: return rows (B, k) int64 and scores (B, k) float32, best first.

        Where fewer than k items are available, row −1 with score −inf follows. Scores are exact inner
        products with the stored vectors, also where FAISS compresses; they are the same to the last bit in
        every batch and for every k, and equal ones are in the order of the item ids. Where every item is
        compared, the results for k are the first k for any larger k.

        Args:
            vectors: (B, D) float32.
            k: at most so many.
            excluded: rows to leave out, looked up in `state`.
            wanted: the filter; None allows every item.
            state: to search in; None is the latest.

        Raises:
            VectorDimError: `vectors` are not of the index's embedding dim.
            ReindexNeededError: the filter needs what the attribute index of an older version does not hold.
        """
        state = state or self.delta.state
        return self._searchable(state).search(
            self._queries(vectors), k, excluded, self._allowed(wanted, state) if wanted else ALL_ALLOWED
        )

    def brute_force(
        self,
        vectors: FloatArray,
        k: int,
        excluded: Exclusions | None = None,
        wanted: Filter | None = None,
        state: IndexState | None = None,
    ) -> Searched:
        """Compare every vector that is allowed; otherwise as `search`."""
        state = state or self.delta.state
        ids = partial(self.item_ids, state=state)
        everything = Searchable(self.main, None, FilterPolicy(scan_share=0.0), state, ids)
        allowed = self._allowed(wanted, state) if wanted else ALL_ALLOWED
        return everything.search(self._queries(vectors), k, excluded, allowed)

    def popular(
        self, k: int, excluded: IntArray, wanted: Filter | None = None, state: IndexState | None = None
    ) -> IntArray:
        """Return the rows (at most k,) of the most popular items except some, most popular first.

        Equally popular items are in the order of their ids.  Raises: ReindexNeededError.
        """
        state = state or self.delta.state
        allowed = self._allowed(wanted, state) if wanted else ALL_ALLOWED
        masked = np.concatenate([excluded, allowed.denied])
        first = k + len(masked) + state.main_removed
        main = self._by_popularity[:first] if allowed.main is None else allowed.main
        appended = np.arange(len(state.removed_at)) if allowed.appended is None else allowed.appended
        rows = np.concatenate([main, appended + len(self.main)])
        rows = rows[state.live(rows) & ~np.isin(rows, masked)]
        found = rows[None], self.popularity_of(rows, state)[None]
        best: IntArray = best_by_id(found, k, len(self.main), partial(self.item_ids, state=state))[0][0]
        return best[best >= 0]

    def passing(self, wanted: Filter, state: IndexState | None = None) -> IntArray:
        """Return the rows (n,), increasing, of the items that pass a filter.  Raises: ReindexNeededError."""
        state = state or self.delta.state
        allowed = self._allowed(wanted, state)
        main = np.arange(len(self.main)) if allowed.main is None else allowed.main
        appended = np.arange(len(state.removed_at)) if allowed.appended is None else allowed.appended
        rows = np.concatenate([main, appended + len(self.main)])
        found: IntArray = rows[state.live(rows) & ~np.isin(rows, allowed.denied)]
        return found

    def rows(self, item_ids: Sequence[str], state: IndexState | None = None) -> IntArray:
        """Return the row of each item as (n,) int64, −1 for an item that is not live.

        Args:
            item_ids: any.
            state: to look them up in; whoever uses the rows must use the same. None is the latest.
        """
        state = state or self.delta.state  # before the lookup: an item that is put meanwhile has another row
        return self.current_rows(self.main_rows(item_ids), item_ids.__getitem__, state)

    def main_rows(self, item_ids: Sequence[str]) -> IntArray:
        """Return the row of each item in the main part as (n,) int64, removed or not; −1 for one it lacks."""
        return self.main.ids.rows(item_ids)

    def current_rows(self, main_rows: IntArray, name_of: Callable[[int], str], state: IndexState) -> IntArray:
        """Turn rows of items in the main part into their rows in one state, −1 for an item that is not live.

        The result is that of `rows` for the same ids, which need not be hashed again.

        Args:
            main_rows: (n,) int64, as `main_rows` returns them; left as they are.
            name_of: gives the item id at a position of `main_rows`; called only where the main part has no
                live row and rows were appended.
            state: to look the items up in; whoever uses the rows must use the same.
        """
        return self.delta.current_rows(main_rows, name_of, state) if state.version else main_rows

    def item_ids(self, rows: IntArray, state: IndexState | None = None) -> list[str]:
        """Return the item ids of rows (n,) of a state, the latest by default."""
        state, main = state or self.delta.state, len(self.main)
        appended = rows >= main
        if not appended.any():
            return self.main.ids.of_rows(rows)
        ids = self.main.ids.of_rows(np.where(appended, 0, rows)) if main else [""] * len(rows)
        places = np.flatnonzero(appended)
        for place, item_id in zip(places.tolist(), state.ids_of(rows[places] - main), strict=True):
            ids[place] = item_id
        return ids

    def vectors_of(self, rows: IntArray, state: IndexState | None = None) -> FloatArray:
        """Return the vectors (n, D) float32 of rows (n,) of a state, the latest by default."""
        state, main = state or self.delta.state, len(self.main)
        if not len(rows) or rows.max() < main:
            return self.main.vectors[rows]
        found = np.empty((len(rows), self.dim), dtype=np.float32)
        in_main = rows < main
        found[in_main] = self.main.vectors[rows[in_main]]
        found[~in_main] = state.vectors_of(rows[~in_main] - main)
        return found

    def scores_of(self, queries: FloatArray, rows: IntArray, state: IndexState | None = None) -> FloatArray:
        """Score rows (B, n) for queries (B, D) as `search` does: inner products (B, n) float32.

        Args:
            queries: float32, C-contiguous.
            rows: of items, none of them −1.
            state: whose rows they are; None is the latest.
        """
        if not rows.size or rows.max() < len(self.main):
            return scores_of(self.main.vectors, queries, rows)
        vectors = self.vectors_of(rows.ravel(), state)
        return scores_of(vectors, queries, np.arange(rows.size).reshape(rows.shape))

    def popularity_of(self, rows: IntArray, state: IndexState | None = None) -> FloatArray:
        """Return the popularity (n,) float32 of rows (n,) of a state, the latest by default."""
        state, main = state or self.delta.state, len(self.main)
        appended = rows >= main
        found = np.zeros(len(rows), dtype=np.float32)
        found[~appended] = self.main.popularity[rows[~appended]]
        found[appended] = state.popularity[rows[appended] - main]
        return found

    def attributes_by_row(self) -> AttributesByRow:
        """Return the attributes of the main part, row by row.  Raises: ReindexNeededError."""
        return self._attributes.by_row(len(self.main))

    @property
    def ids(self) -> pa.LargeStringArray:
        """The item id of every row, removed or not."""
        state = self.delta.state
        appended = state.ids_of(np.arange(len(state.removed_at)))
        column = self.main.ids.column
        return pa.concat_arrays([column, pa.array(appended, pa.large_string())]) if appended else column

    def put(self, changes: Sequence[ItemChange], removed: Sequence[str] = ()) -> None:
        """Put and remove items; a search sees all of it or nothing.  Raises: as `Delta.apply`."""
        self.delta.apply(changes, removed)
        if self.elsewhere is not None:
            self.elsewhere.put(changes, removed)

    def _apply_stored(self, changes: Sequence[ItemChange], removed_rows: IntArray) -> None:
        """Put the changes stored beside the main part; those with bad attributes are logged and left out."""
        removed = [self.main.ids[int(row)] for row in removed_rows]
        try:
            self.delta.apply(changes, removed)
        except BadAttributesError:  # an index of a version that accepted them
            usable, reasons = usable_attributes((change.item_id, change.attributes) for change in changes)
            log.warning("index %s: %s", self.index_id, left_out_message(reasons))
            self.delta.apply([change for change in changes if change.item_id in usable], removed)

    def _searchable(self, state: IndexState) -> Searchable:
        ids = partial(self.item_ids, state=state)
        return Searchable(self.main, self.elsewhere or self.approximate, self.policy, state, ids)

    def _queries(self, vectors: FloatArray) -> FloatArray:
        if vectors.shape[1] != self.dim:
            raise VectorDimError(vectors.shape[1], self.dim)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _check_sizes(self, directory: Path, changes: int) -> None:
        """Raise DamagedArtifactError where the files and the manifest do not fit together."""
        main = self.main
        searcher: CandidateSearch | None = self.elsewhere or self.approximate
        searched = main.vectors.shape if searcher is None else (len(searcher), searcher.dim)
        found = (len(main), *main.vectors.shape, *searched, changes)
        items = self.manifest["main_items"]
        named = (items, items, self.dim, items, self.dim, self.manifest["changes"])
        if found != named:
            reason = f"ids, vectors and FAISS disagree with the manifest: {found} is not {named}"
            raise DamagedArtifactError(directory, reason)

    @cached_property
    def _by_popularity(self) -> IntArray:
        return np.argsort(-self.main.popularity, kind="stable").astype(np.int64)
