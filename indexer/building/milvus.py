"""Moving an index into Milvus: its items as a collection, tuned to an ANN recall, and back."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from indexer.building.efforts import recall_of
from indexer.building.factory import empty_faiss, lists_for
from indexer.building.ground_truth import TUNED_K, GroundTruth
from indexer.building.sample import QUERIES, tuning_queries
from indexer.files import FloatArray, IntArray, hash_of
from indexer.filters import AttributesByRow
from indexer.index import Index
from indexer.milvus import (
    BUCKET,
    BUCKETS,
    CELL,
    EF_CONSTRUCTION,
    MOST_TERMS,
    CollectionFacts,
    M,
    MilvusConnection,
    MilvusSearch,
    bounds_of,
    build_lists,
    collection_of,
    create_collection,
    drop_collection,
    entity_of,
    load_built,
    write_facts,
)
from indexer.search import AnnIndex, FilterPolicy, SearchParams
from indexer.users import open_users, vectors_of

log = logging.getLogger(__name__)

_EF_SEARCH = (100, 200, 400, 800, 1_600)  # with more, lists answer sooner
_SAMPLE = 10_000  # items, by which a graph over more is judged before it is built
_CELLS = 100  # clusters that a filter is tried with are made of
_BLOCK = 1 << 16  # vectors at a time
_SEGMENT_BYTES = 512 << 20  # of vectors that Milvus divides into lists by themselves
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

    Its items are found by a graph. Where vectors are of very unlike lengths no graph leads to the short ones,
    however long it is searched: then they are divided into lists. Where a graph over a sample tells so, none
    is built over all.

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
    client, name, vectors = connection.client, collection_of(index.index_id), index.main.vectors
    by_row, cells = index.attributes_by_row(), _cells(vectors)
    numbers, moments = tuple(sorted(by_row.numbers)), tuple(sorted(by_row.moments))
    lists = lists_for(max(1, min(len(vectors), _SEGMENT_BYTES // (4 * index.dim))))
    kinds = (0, lists) if _graph_may_reach(vectors, queries, target) else (lists,)
    create_collection(connection, index.index_id, index.dim, kinds[0])
    entities = _entities(index, by_row, numbers, moments, cells)
    size = max(1, _BATCH_BYTES // (4 * index.dim))
    with tqdm(total=len(index.main), desc="milvus", unit="item", disable=None) as bar:
        for batch in _batches(entities, size):
            connection.call(lambda batch=batch: client.insert(name, batch))  # type: ignore[misc]
            bar.update(len(batch))
    connection.call(lambda: client.flush(name))
    untuned = CollectionFacts(
        len(index.main), index.dim, numbers, moments, SearchParams(), 0.0, FilterPolicy(), kinds[0]
    )
    try:
        facts = _built(index, connection, untuned, kinds[1:], partial(_tuned, index, queries, target, cells))
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


def _built(
    index: Index,
    connection: MilvusConnection,
    facts: CollectionFacts,
    others: Sequence[int],
    tuned: Callable[[MilvusSearch, CollectionFacts], CollectionFacts],
) -> CollectionFacts:
    """Wait until a collection is built, and tune it; build so many lists instead where that fails.

    Raises:
        MilvusRecallError: none of the others does it either.
    """
    load_built(connection, index.index_id, len(index.main))
    try:
        return tuned(MilvusSearch(connection, index.index_id, index.main.ids, facts=facts), facts)
    except MilvusRecallError as error:
        if not others:
            raise
        log.warning("%s by a graph: its items are divided into lists", error)
    build_lists(connection, index.index_id, others[0])
    return _built(index, connection, replace(facts, lists=others[0]), others[1:], tuned)


def _graph_may_reach(vectors: FloatArray, queries: FloatArray, target: float) -> bool:
    """Tell whether a graph over a sample of the items reaches an ANN recall; True of so few as a sample has.

    The more items there are, the more of them no other is led to.
    """
    if len(vectors) <= _SAMPLE:
        return True
    sample = vectors[np.linspace(0, len(vectors) - 1, _SAMPLE).astype(np.int64)]
    graph = empty_faiss(sample.shape[1], f"HNSW{M}")
    graph.hnsw.efConstruction = EF_CONSTRUCTION
    graph.add(sample)
    most = SearchParams(_EF_SEARCH[-1])
    return recall_of(AnnIndex([graph], most), GroundTruth(sample, queries), most, None) >= target


def _cells(vectors: FloatArray) -> IntArray:
    """Return numbers of 0 to 99 (N,), evenly; items of the same number are in the same direction.

    They are in the order of the nearest of _CELLS random items, so that items below a number are whole
    clusters, as those are that a filter by kind allows.
    """
    count = len(vectors)
    if not count:
        return np.zeros(0, dtype=np.int64)
    centres = vectors[np.random.default_rng(0).choice(count, min(_CELLS, count), replace=False)]
    centres = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-30)
    nearest, percent = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        nearest[block] = (vectors[block] @ centres.T).argmax(axis=1)
    percent[np.argsort(nearest, kind="stable")] = np.arange(count) * 100 // count
    return percent


def _entities(
    index: Index,
    by_row: AttributesByRow,
    numbers: tuple[str, ...],
    moments: tuple[str, ...],
    cells: IntArray,
) -> Iterator[dict[str, Any]]:
    """Yield the items of the main part as entities, in the order of their rows."""
    columns = [("n", number, by_row.numbers[name]) for number, name in enumerate(numbers)]
    columns += [("m", number, by_row.moments[name]) for number, name in enumerate(moments)]
    for row, vector in enumerate(index.main.vectors):
        terms = np.unique(by_row.terms[by_row.starts[row] : by_row.starts[row + 1]] >> np.uint64(1)).tolist()
        item_id = index.main.ids[row]
        if len(terms) > MOST_TERMS:
            raise TooManyTermsError(item_id, len(terms))
        fields: dict[str, float] = {CELL: int(cells[row])}
        for letter, number, ends in columns:
            if not np.isnan(ends[0, row]):
                fields |= bounds_of(letter, number, float(ends[0, row]), float(ends[1, row]))
        yield entity_of(item_id, vector, terms, fields)


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
    index: Index,
    queries: FloatArray,
    target: float,
    cells: IntArray,
    found: MilvusSearch,
    facts: CollectionFacts,
) -> CollectionFacts:
    """Choose the least efSearch or nprobe that reaches an ANN recall, without and with a filter.

    Filters are tried with random shares of the items, and with whole clusters. Those that let through less
    than the least share that reaches it are compared one by one, and so are those whose search would look at
    more than half of the lists.

    Raises:
        MilvusRecallError: without a filter nothing reaches it.
    """
    vectors = index.main.vectors
    if not len(vectors):
        return replace(facts, recall=1.0)
    efforts = _probes(facts.lists) if facts.lists else _EF_SEARCH
    chosen, recall = _least(found, GroundTruth(vectors, queries[::2]), target, efforts)
    if chosen:
        efforts = [one for one in efforts if one >= chosen]
        chosen, recall = _least(found, GroundTruth(vectors, queries[1::2]), target, efforts)
    if not chosen:
        raise MilvusRecallError(index.index_id, target, recall)
    facts = replace(facts, search_params=SearchParams(chosen), recall=recall)
    log.info("in Milvus %s reaches ANN recall@%d %.4f", facts.tuned_to, TUNED_K, recall)
    buckets = np.array([hash_of(index.main.ids[row]) % BUCKETS for row in range(len(vectors))])
    efforts = [one for one in efforts if one >= chosen and (one <= facts.lists // 2 or not facts.lists)]
    by_share: list[tuple[float, SearchParams]] = []
    for share in _SHARES:
        for name, parts in ((BUCKET, buckets), (CELL, cells)):
            rows = np.flatnonzero(parts < round(100 * share))
            if not len(rows):
                efforts = []
                break
            truth, expression = GroundTruth(vectors, queries, rows), f"{name} < {round(100 * share)}"
            least, _ = _least(found, truth, 1.0 - (1.0 - target) * _MISSES, efforts, expression)
            efforts = [one for one in efforts if one >= least > 0]
        if not efforts:
            break
        by_share.append((share, SearchParams(efforts[0])))
    policy = FilterPolicy(by_share[-1][0] if by_share else 1.0, tuple(by_share))
    return replace(facts, policy=policy)


def _probes(lists: int) -> list[int]:
    """Return numbers of lists to probe, rising to all of them by a half or a third at a time."""
    powers = [1 << power for power in range(lists.bit_length())]
    return sorted({number for power in powers for number in (power, power + power // 2) if number <= lists})


def _least(
    found: MilvusSearch, truth: GroundTruth, target: float, efforts: Sequence[int], expression: str = ""
) -> tuple[int, float]:
    """Return the first of some efSearch or nprobe that reaches a recall, and the recall; 0 for none."""
    recall = 0.0
    for effort in efforts:
        recall = truth.recall(found.search(truth.queries, truth.k, effort, expression))
        if recall >= target:
            return effort, recall
    return 0, recall
