"""Candidates from Milvus.

What a filter asks becomes an expression that lets through all that it allows, and perhaps more, which is
dropped by the rows that it allows here. Scores are computed from the stored vectors.
"""

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from indexer.files import FloatArray, IntArray, ItemChange, ItemIds
from indexer.filters import KIND, Filter, Moment, Number, Value, term, truth
from indexer.milvus.collection import (
    ID,
    TERMS,
    VECTOR,
    CollectionFacts,
    collection_of,
    entity_of,
    fields_of,
    read_facts,
    term_hash,
)
from indexer.milvus.connection import (
    CALL_SECONDS,
    SEARCH_SECONDS,
    MilvusConnection,
    MilvusUnreachableError,
    NoCollectionError,
)
from indexer.search import Allowed, Searched, SearchParams, scores_of

log = logging.getLogger(__name__)

MOST_RESULTS = 16_384  # of a search, by Milvus's own bound


class MilvusSearch:
    """The main part of an index in Milvus; a `CandidateSearch`.

    Attributes:
        search_params: what the collection was tuned to.
        policy: of filtered searches.
    """

    def __init__(
        self,
        connection: MilvusConnection,
        index_id: str,
        ids: ItemIds,
        *,
        writes: bool = False,
        facts: CollectionFacts | None = None,
    ) -> None:
        """Open the collection of an index.

        Args:
            connection: to Milvus.
            index_id: of the index.
            ids: of its main part.
            writes: whether items that are put and removed are passed on.
            facts: of the collection; None has them read.

        Raises:
            NoCollectionError: it has none, or one of other items.
            MilvusUnreachableError: Milvus does not answer.
        """
        facts = facts or read_facts(connection, index_id)
        if facts is None or facts.items != len(ids):
            raise NoCollectionError(connection.uri, index_id)
        self._connection, self._collection, self._ids = connection, collection_of(index_id), ids
        self._facts = facts
        self.search_params, self.policy = facts.search_params, facts.policy
        self._writer = ThreadPoolExecutor(1, "milvus") if writes else None
        connection.call(lambda: connection.client.load_collection(self._collection, timeout=CALL_SECONDS))

    def __len__(self) -> int:
        return self._facts.items

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""
        return self._facts.dim

    def takes(self, search_params: SearchParams) -> bool:
        """Tell whether a search with a filter can be given these parameters: no portions of lists."""
        return search_params.portions is None

    def candidates(
        self, vectors: FloatArray, queries: FloatArray, count: int, search_params: SearchParams,
        allowed: Allowed, *, spare: int = 0,
    ) -> Searched:  # fmt: skip
        """Search the rows that a filter allows; return them with their exact scores, unsorted.

        Raises:
            MilvusUnreachableError: Milvus does not answer.
        """
        wanted = expression_of(allowed.wanted, self._facts) if allowed.main is not None else ""
        limit = search_params.candidates(count) + spare
        rows = self._connection.call_unless_silent(
            lambda: self._search(queries, limit, search_params.nprobe, wanted, SEARCH_SECONDS)
        )
        if allowed.main is not None and len(allowed.main):
            places = np.minimum(np.searchsorted(allowed.main, rows), len(allowed.main) - 1)
            rows = np.where(allowed.main[places] == rows, rows, -1)
        return rows, scores_of(vectors, queries, rows)

    def search(self, queries: FloatArray, count: int, nprobe: int, expression: str = "") -> IntArray:
        """Return rows (B, n) of the main part that are near to queries (B, D), −1 where there are no more.

        Args:
            queries: (B, D).
            count: rows of each.
            nprobe: or efSearch of a graph.
            expression: that must be true of each; "" for none.

        Raises:
            MilvusUnreachableError: Milvus does not answer.
        """
        found: IntArray = self._connection.call(
            lambda: self._search(queries, count, nprobe, expression, CALL_SECONDS)
        )
        return found

    def _search(
        self, queries: FloatArray, count: int, nprobe: int, expression: str, seconds: float
    ) -> IntArray:
        """Search once.  Raises: as the library."""
        limit = max(1, min(count, MOST_RESULTS, len(self)))
        lists = self._facts.lists
        effort = {"nprobe": min(nprobe, lists)} if lists else {"ef": max(nprobe, limit)}
        hits = self._connection.client.search(
            self._collection,
            data=list(queries),
            limit=limit,
            filter=expression,
            search_params={"params": effort},
            output_fields=[ID],
            anns_field=VECTOR,
            timeout=seconds,
        )
        names = [[str(hit[ID]) for hit in of_query] for of_query in hits]
        flat = self._ids.rows([name for of_query in names for name in of_query])
        rows = np.full((len(queries), limit), -1, dtype=np.int64)
        start = 0
        for query, of_query in enumerate(names):
            rows[query, : len(of_query)] = flat[start : start + len(of_query)]
            start += len(of_query)
        return rows

    def put(self, changes: Sequence[ItemChange], removed: Sequence[str]) -> None:
        """Pass on items that were put and removed, behind the caller's back.

        Searches know of them by the index itself; here they only keep others from being crowded out by what
        is gone. So a failure is logged, and nothing waits.
        """
        if self._writer is not None:
            self._writer.submit(self._put, list(changes), list(removed))

    def wait(self) -> None:
        """Wait until what was put is passed on."""
        if self._writer is not None:
            self._writer.submit(lambda: None).result()

    def close(self) -> None:
        """End the thread that passes on; what waits is passed on first."""
        if self._writer is not None:
            self._writer.shutdown()

    def _put(self, changes: list[ItemChange], removed: list[str]) -> None:
        latest = {change.item_id: change for change in changes}
        gone = [*removed, *(name for name, change in latest.items() if not change.has_vector)]
        entities = [
            entity_of(change.item_id, change.vector, *fields_of(change, self._facts))
            for change in latest.values()
            if change.has_vector
        ]
        client, name = self._connection.client, self._collection
        try:
            if gone:
                self._connection.call(lambda: client.delete(name, ids=gone, timeout=CALL_SECONDS))
            if entities:
                self._connection.call(lambda: client.upsert(name, entities, timeout=CALL_SECONDS))
        except MilvusUnreachableError as error:
            log.warning("%d items were not passed on: %s", len(gone) + len(entities), error)


def expression_of(wanted: Filter | None, facts: CollectionFacts) -> str:
    """Return an expression that is true of every item which a filter allows, and perhaps of others.

    Lists of ids are left out: what they allow is compared one by one, and what they deny is dropped.
    """
    if wanted is None:
        return ""
    clauses = []
    if wanted.kinds:
        clauses.append(_any_term([term(KIND, kind) for kind in wanted.kinds]))
    for name, values in wanted.equals:
        clauses.append(_any_of(name, values, facts))
    for name, least, greatest in wanted.ranges:
        clauses.append(_between("n", facts.numbers, name, least, greatest))
    for name, first, last in wanted.times:
        clauses.append(_between("m", facts.moments, name, first, last))
    for name, values in wanted.unequal:
        texts = _terms(name, values)
        if texts:
            clauses.append(f"not {_any_term(texts)}")
    return " and ".join(clause for clause in clauses if clause)


def _any_of(name: str, values: Sequence[Value], facts: CollectionFacts) -> str:
    texts, others = _terms(name, values), [one for one in values if not isinstance(one, (str, bool))]
    parts = [_any_term(texts)] if texts else []
    for value in others:
        letter, names = ("m", facts.moments) if isinstance(value, Moment) else ("n", facts.numbers)
        parts.append(_between(letter, names, name, value, value))
    return f"({' or '.join(parts)})" if all(parts) else ""


def _terms(name: str, values: Sequence[Value]) -> list[str]:
    """Return the terms of those values that are texts or truth values."""
    field = f"attributes.{name}"
    return [
        truth(field, one) if isinstance(one, bool) else term(field, one)
        for one in values
        if isinstance(one, (str, bool))
    ]


def _any_term(texts: Sequence[str]) -> str:
    return f"array_contains_any({TERMS}, [{', '.join(str(term_hash(text)) for text in texts)}])"


def _between(letter: str, names: Sequence[str], name: str, least: Number, greatest: Number) -> str:
    """Return a clause for a range; "" where the collection does not know the attribute."""
    if name not in names:
        return ""
    field, parts = f"{letter}{names.index(name)}", []
    if not math.isinf(least):
        parts.append(f"{field}_high >= {float(least)!r}")
    if not math.isinf(greatest):
        parts.append(f"{field}_low <= {float(greatest)!r}")
    return f"({' and '.join(parts)})" if parts else f"exists {field}_low"
