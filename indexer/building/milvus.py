"""Moving an index into Milvus: its items as a collection, tuned to an ANN recall, and back."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from indexer.building.ground_truth import TUNED_K, GroundTruth
from indexer.building.sample import QUERIES, tuning_queries
from indexer.files import FloatArray, hash_of
from indexer.filters import AttributesByRow
from indexer.index import Index
from indexer.milvus import (
    BUCKET,
    BUCKETS,
    MOST_TERMS,
    CollectionFacts,
    MilvusConnection,
    MilvusSearch,
    bounds_of,
    collection_of,
    create_collection,
    drop_collection,
    entity_of,
    load_built,
    write_facts,
)
from indexer.search import FilterPolicy, SearchParams
from indexer.users import open_users, vectors_of

log = logging.getLogger(__name__)

_EF_SEARCH = (100, 200, 400, 800, 1_600, 3_200, 6_400)
_SHARES = (0.5, 0.2, 0.1, 0.05)  # of items that a filter allows, falling
_BATCH_BYTES = 4 << 20  # of the vectors of a call
_ASKED = 0.99  # where an index does not say
_MISSES = 0.5  # of those that the wanted recall allows are reserved for filters that were not tried


class MilvusRecallError(RuntimeError):
    """A collection does not reach the ANN recall, however long it is searched."""

    def __init__(self, index_id: str, target: float, reached: float) -> None:
        super().__init__(
            f"index {index_id} reaches ANN recall@{TUNED_K} {reached:.4f} in Milvus, not {target} as asked"
        )


class TooManyTermsError(ValueError):
    """An item has more values than Milvus takes."""

    def __init__(self, item_id: str, count: int) -> None:
        super().__init__(f"item {item_id!r} has {count} values, and Milvus takes {MOST_TERMS} of an item")


def move_to_milvus(
    index: Index, connection: MilvusConnection, queries: FloatArray, target: float
) -> CollectionFacts:
    """Make the collection of an index, in place of an unfinished one; return what is known of it.

    Args:
        index: without changes on top of it, or with: those of its files come along when it is opened.
        connection: to Milvus.
        queries: (Q, D) user vectors; half choose the search parameters, the other half must reach the recall.
        target: ANN recall at TUNED_K.

    Raises:
        MilvusRecallError: it cannot be reached; there is no collection.
        TooManyTermsError, MilvusUnreachableError: likewise, or an unfinished one, which counts as none.
    """
    drop_collection(connection, index.index_id)
    client, name = connection.client, collection_of(index.index_id)
    by_row = index.attributes_by_row()
    numbers, moments = tuple(sorted(by_row.numbers)), tuple(sorted(by_row.moments))
    create_collection(connection, index.index_id, index.dim)
    entities = _entities(index, by_row, numbers, moments)
    size = max(1, _BATCH_BYTES // (4 * index.dim))
    with tqdm(total=len(index.main), desc="milvus", unit="item", disable=None) as bar:
        for batch in _batches(entities, size):
            connection.call(lambda batch=batch: client.insert(name, batch))  # type: ignore[misc]
            bar.update(len(batch))
    connection.call(lambda: client.flush(name))
    load_built(connection, index.index_id, len(index.main))
    untuned = CollectionFacts(
        len(index.main), index.dim, numbers, moments, SearchParams(), 0.0, FilterPolicy()
    )
    found = MilvusSearch(connection, index.index_id, index.main.ids, facts=untuned)
    try:
        facts = _tuned(index, found, untuned, queries, target)
    except BaseException:
        drop_collection(connection, index.index_id)
        raise
    write_facts(connection, index.index_id, facts)
    return facts


def users_to_tune_with(indexes: Path, index: Index) -> FloatArray:
    """Return up to QUERIES user vectors (Q, D) of the user index beside an index, or mixtures of items."""
    users = open_users(indexes / index.index_id, index.manifest)
    vectors = np.zeros((0, index.dim), dtype=np.float32)
    if users is not None and len(users.main):
        rows = np.unique(np.linspace(0, len(users.main) - 1, QUERIES).astype(np.int64))
        vectors = vectors_of(users, rows)
    return tuning_queries(index.main.vectors, vectors[vectors.any(axis=1)])


def recall_asked_of(index: Index) -> float:
    """Return the ANN recall that a reindex was asked for."""
    asked: dict[str, Any] = index.manifest.get("asked", {})
    return float(asked.get("ann_recall", _ASKED))


def _entities(
    index: Index, by_row: AttributesByRow, numbers: tuple[str, ...], moments: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Yield the items of the main part as entities, in the order of their rows."""
    columns = [("n", number, by_row.numbers[name]) for number, name in enumerate(numbers)]
    columns += [("m", number, by_row.moments[name]) for number, name in enumerate(moments)]
    for row, vector in enumerate(index.main.vectors):
        terms = np.unique(by_row.terms[by_row.starts[row] : by_row.starts[row + 1]] >> np.uint64(1)).tolist()
        item_id = index.main.ids[row]
        if len(terms) > MOST_TERMS:
            raise TooManyTermsError(item_id, len(terms))
        bounds: dict[str, float] = {}
        for letter, number, ends in columns:
            if not np.isnan(ends[0, row]):
                bounds |= bounds_of(letter, number, float(ends[0, row]), float(ends[1, row]))
        yield entity_of(item_id, vector, terms, bounds)


def _batches(entities: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for entity in entities:
        batch.append(entity)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _tuned(
    index: Index, found: MilvusSearch, facts: CollectionFacts, queries: FloatArray, target: float
) -> CollectionFacts:
    """Choose the least efSearch that reaches an ANN recall, without a filter and for shares of the items.

    Filters that let through less than the least share that reaches it are compared one by one.

    Raises:
        MilvusRecallError: without a filter nothing reaches it.
    """
    vectors = index.main.vectors
    if not len(vectors):
        return replace(facts, recall=1.0)
    chosen, recall = _least_ef(found, GroundTruth(vectors, queries[::2]), target)
    if chosen:
        chosen, recall = _least_ef(found, GroundTruth(vectors, queries[1::2]), target, chosen)
    if not chosen:
        raise MilvusRecallError(index.index_id, target, recall)
    log.info("in Milvus efSearch %d reaches ANN recall@%d %.4f", chosen, TUNED_K, recall)
    buckets = np.array([hash_of(index.main.ids[row]) % BUCKETS for row in range(len(vectors))])
    by_share: list[tuple[float, SearchParams]] = []
    for share in _SHARES:
        rows = np.flatnonzero(buckets < share * BUCKETS)
        if not len(rows):
            break
        truth = GroundTruth(vectors, queries, rows)
        expression = f"{BUCKET} < {round(share * BUCKETS)}"
        effort, _ = _least_ef(found, truth, 1.0 - (1.0 - target) * _MISSES, chosen, expression)
        if not effort:
            break
        by_share.append((share, SearchParams(effort)))
    return replace(
        facts,
        search_params=SearchParams(chosen),
        recall=recall,
        policy=FilterPolicy(by_share[-1][0] if by_share else 1.0, tuple(by_share)),
    )


def _least_ef(
    found: MilvusSearch, truth: GroundTruth, target: float, least: int = 0, expression: str = ""
) -> tuple[int, float]:
    """Return the least efSearch, from one on, that reaches a recall, and the recall; 0 for none."""
    recall = 0.0
    for ef_search in (one for one in _EF_SEARCH if one >= least):
        recall = truth.recall(found.search(truth.queries, truth.k, ef_search, expression))
        if recall >= target:
            return ef_search, recall
    return 0, recall
