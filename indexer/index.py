"""One index: an immutable directory, and the changes to it since."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
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
    MainPart,
    read_delta,
    read_without_vector,
)
from indexer.filters.attribute_index import AttributeIndex
from indexer.filters.filter import Filter
from indexer.search.ann import FilterPolicy, open_searched
from indexer.search.exact import Searched
from indexer.search.filter_cache import FilterCache
from indexer.search.search import Exclusions, Searchable, in_order
from store.artifact import DamagedArtifactError, read_manifest, verify
from store.attributes import BadAttributesError, left_out, sorted_out

log = logging.getLogger(__name__)

LAYOUT = 2  # of the files; 1 had no changes beside a main part


class VectorDimError(ValueError):
    """A query vector is not of the index's embedding dim."""

    def __init__(self, got: int, dim: int) -> None:
        super().__init__(f"the vector has {got} values, but the embedding dim is {dim}")
        self.got = got
        self.dim = dim


class Index:
    """An immutable directory below indexes/, and the changes that were put on top of it.

    A `row` is a position in the index: below M in its main part, from there on in its changes. The row of an
    item changes when the item does; the item at a row never does.

    Attributes:
        index_id: the directory's name.
        model_id: whose vectors these are; another model's user vectors do not compare.
        main, delta: the two parts.
        exact: whether a search without a filter compares every item.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.index_id = directory.name
        self.manifest = manifest
        self.model_id: str = manifest["model_id"]
        self.dim: int = manifest["dim"]
        self.exact: bool = manifest["factory"] == "Flat"
        self.main = MainPart.open(directory)
        self.approximate = open_searched(directory, manifest, self.main.vectors)
        self.policy = FilterPolicy.from_json(manifest["filters"])
        self.delta = Delta(self.main.ids, self.dim)
        changes, gone = read_delta(directory)
        self._take_over([*changes, *read_without_vector(directory, self.dim)], gone)
        self._filter_cache = FilterCache(self.main, AttributeIndex(directory / FACTS_FILE), self.delta)
        self._agree(directory, changes)

    @classmethod
    def load(cls, directory: Path, *, check: bool = True) -> "Index":
        """Return the index in a directory; with `check`, after comparing every file's checksum.

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
        return cls(directory, manifest)

    def __len__(self) -> int:
        now = self.delta.now
        return len(self.main) - now.main_gone + len(now.went) - now.gone - now.without_vector

    @property
    def without_vector(self) -> int:
        """Items that filters and the popularity fallback find, and searches by vector do not."""
        return self.delta.now.without_vector

    def search(
        self,
        vectors: FloatArray,
        k: int,
        excluded: Exclusions | None = None,
        wanted: Filter | None = None,
        now: IndexState | None = None,
    ) -> Searched:
        """Return the rows (B, k) int64 of the best items and their scores (B, k) float32, best first.

        Where fewer than k items are left, the rest is row −1 with score −inf. Scores are exact inner
        products with the stored vectors, also where FAISS compresses; they are the same to the last bit in
        every batch and for every k, and equal ones are in the order of the item ids. Where every item is
        compared, what is found for k is the head of what is found for any larger k.

        Args:
            vectors: (B, D) float32.
            k: how many, at most.
            excluded: rows to leave out, looked up in `now`.
            wanted: what items must be.
            now: the state to search; None is the latest.

        Raises:
            VectorDimError: `vectors` are not of the index's embedding dim.
            ReindexNeededError: the filter asks what the files of an older version do not tell.
        """
        now = now or self.delta.now
        allowed = self._filter_cache.allowed(wanted, now)
        return self._searchable(now).search(self._queries(vectors), k, excluded, allowed)

    def brute_force(
        self,
        vectors: FloatArray,
        k: int,
        excluded: Exclusions | None = None,
        wanted: Filter | None = None,
        now: IndexState | None = None,
    ) -> Searched:
        """Return what `search` is to return, from every vector.  Raises: as `search`."""
        now = now or self.delta.now
        state = replace(self._searchable(now), approximate=None, policy=FilterPolicy(scan_share=0.0))
        return state.search(self._queries(vectors), k, excluded, self._filter_cache.allowed(wanted, now))

    def popular(
        self, k: int, excluded: IntArray, wanted: Filter | None = None, now: IndexState | None = None
    ) -> IntArray:
        """Return the rows (at most k,) of the most popular items except some, most popular first.

        Items that are equally popular are in the order of their ids.  Raises: ReindexNeededError.
        """
        now = now or self.delta.now
        allowed = self._filter_cache.allowed(wanted, now)
        mask = np.concatenate([excluded, allowed.denied])
        main = self._by_popularity[: k + len(mask) + now.main_gone] if allowed.main is None else allowed.main
        late = (
            np.arange(len(now.went)) if allowed.late is None else allowed.late[allowed.late < len(now.went)]
        )
        rows = np.concatenate([main, late + len(self.main)])
        rows = rows[now.there(rows) & ~np.isin(rows, mask)]
        found = rows[None], self.popularity_of(rows)[None]
        best: IntArray = in_order(found, k, len(self.main), self.item_ids)[0][0]
        return best[best >= 0]

    def rows(self, item_ids: Sequence[str], now: IndexState | None = None) -> IntArray:
        """Return the row of each item as (n,) int64, −1 for one that is not there to be found.

        With `now` in that state, which what is done with the rows must look at too; otherwise in the latest.
        """
        return self.delta.rows(item_ids, now)

    def main_rows(self, item_ids: Sequence[str]) -> IntArray:
        """Return the row of each item in the main part as (n,) int64, removed or not; −1 for one it lacks."""
        return self.main.ids.rows(item_ids)

    def current_rows(self, main_rows: IntArray, name_of: Callable[[int], str], state: IndexState) -> IntArray:
        """Turn rows of items in the main part into their rows in one state, −1 for an item that is not live.

        The result is what `rows` returns of the same ids, without hashing them.

        Args:
            main_rows: (n,) int64, as `main_rows` returns them; left as they are.
            name_of: gives the item id at a position of `main_rows`; called only where the main part has no
                live row and rows were appended.
            state: to look the items up in, which what is done with the rows must use too.
        """
        return self.delta.current_rows(main_rows, name_of, state)

    def item_ids(self, rows: IntArray) -> list[str]:
        """Return the item ids of rows (n,)."""
        main = len(self.main)
        late = rows >= main
        if not late.any():
            return self.main.ids.of_rows(rows)
        ids = self.main.ids.of_rows(np.where(late, 0, rows)) if main else [""] * len(rows)
        places = np.flatnonzero(late)
        for place, item_id in zip(places.tolist(), self.delta.of_rows(rows[places] - main), strict=True):
            ids[place] = item_id
        return ids

    def vectors_of(self, rows: IntArray) -> FloatArray:
        """Return the vectors (n, D) float32 of rows (n,)."""
        main = len(self.main)
        if not len(rows) or rows.max() < main:
            return self.main.vectors[rows]
        found = np.empty((len(rows), self.dim), dtype=np.float32)
        early = rows < main
        found[early] = self.main.vectors[rows[early]]
        found[~early] = self.delta.now.vectors_of(rows[~early] - main)
        return found

    def popularity_of(self, rows: IntArray) -> FloatArray:
        """Return the popularity (n,) float32 of rows (n,)."""
        main = len(self.main)
        late = rows >= main
        found = np.zeros(len(rows), dtype=np.float32)
        found[~late] = self.main.popularity[rows[~late]]
        found[late] = self.delta.now.popularity[rows[late] - main]
        return found

    @property
    def ids(self) -> pa.LargeStringArray:
        """The item id of every row, also of those that are gone."""
        late = self.delta.of_rows(np.arange(len(self.delta.now.went)))
        column = self.main.ids.column
        return pa.concat_arrays([column, pa.array(late, pa.large_string())]) if late else column

    def put(self, changes: Sequence[ItemChange], removed: Sequence[str] = ()) -> None:
        """Put and remove items; searches see all of it from now on, or nothing.  Raises: as `Delta.apply`."""
        self.delta.apply(changes, removed)

    def _take_over(self, changes: Sequence[ItemChange], gone: IntArray) -> None:
        """Put the changes that lie beside the main part; one with bad attributes is named and left out."""
        removed = [self.main.ids[int(row)] for row in gone]
        try:
            self.delta.apply(changes, removed)
        except BadAttributesError:  # of an index that was made before they were refused
            usable, reasons = sorted_out((change.item_id, change.attributes) for change in changes)
            log.warning("index %s: %s", self.index_id, left_out(reasons))
            self.delta.apply([change for change in changes if change.item_id in usable], removed)

    def _searchable(self, now: IndexState) -> Searchable:
        return Searchable(self.main, self.approximate, self.policy, now, self.item_ids)

    def _queries(self, vectors: FloatArray) -> FloatArray:
        if vectors.shape[1] != self.dim:
            raise VectorDimError(vectors.shape[1], self.dim)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _agree(self, directory: Path, changes: Sequence[ItemChange]) -> None:
        """Raise DamagedArtifactError where the files and the manifest do not fit together."""
        main = self.main
        searched = (len(self.approximate), self.approximate.dim) if self.approximate else main.vectors.shape
        found = (len(main), *main.vectors.shape, *searched, len(changes))
        items = self.manifest["main_items"]
        named = (items, items, self.dim, items, self.dim, self.manifest["changes"])
        if found != named:
            reason = f"ids, vectors and FAISS disagree with the manifest: {found} is not {named}"
            raise DamagedArtifactError(directory, reason)

    @cached_property
    def _by_popularity(self) -> IntArray:
        return np.argsort(-self.main.popularity, kind="stable").astype(np.int64)
