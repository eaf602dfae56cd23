"""What every kind of index keeps to, whatever finds its candidates: one suite over all of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer.building.milvus import move_to_milvus
from indexer.files import ItemChange, ItemIds
from indexer.filters.filter import Filter
from indexer.index import Index
from indexer.milvus import MilvusAddress, MilvusConnection, MilvusSearch
from indexer.search import Exclusions
from tests.engines.milvus import EVERY_MILVUS, milvus_server
from tests.random_index import DIM, FILTERS, make_index, queries_of

ITEMS, K = 2_000, 20
TARGET = 0.95  # the ANN recall that `make_index` tunes to
KINDS = {"exact": "Flat", "ivf": "IVF16,Flat", "ivf compressed": "IVF16,SQ8", "hnsw": "HNSW16"}
LARGE = [  # that let through so many that candidates are looked for
    Filter(ranges=(("price", 100.0, 700.0),)),
    Filter(ranges=(("price", -np.inf, 800.0),), equals=(("colour", ("red", "green")),)),
    Filter(unequal=(("colour", ("red",)), ("price", (5.0, 6.5)))),
    Filter(equals=(("tags", ("all",)), ("colour", ("green", 7.0)))),
    Filter(equals=(("sold", (False,)),), deny=tuple(f"item-{n:09d}" for n in range(0, 400, 3))),
]
Make = Callable[[Path, int], Index]


@pytest.fixture(scope="module", params=[*KINDS, *EVERY_MILVUS])
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """What builds an index of one kind over random items, by a folder and a seed."""
    if request.param in KINDS:
        yield lambda folder, seed: make_index(folder, ITEMS, KINDS[request.param], seed)
        return
    with milvus_server(tmp_path_factory.mktemp("milvus"), request.param) as uri:
        connection = MilvusConnection(MilvusAddress(uri))
        yield lambda folder, seed: in_milvus(connection, folder, seed)
        connection.close()


def in_milvus(connection: MilvusConnection, folder: Path, seed: int) -> Index:
    """Build an index, move it to Milvus, and open it there."""
    made = make_index(folder, ITEMS, "Flat", seed)
    move_to_milvus(made, connection, queries_of(64), TARGET)

    def elsewhere(index_id: str, ids: ItemIds) -> MilvusSearch:
        return MilvusSearch(connection, index_id, ids, writes=True)

    (directory,) = [path for path in folder.iterdir() if path.name == made.index_id]
    return Index.load(directory, elsewhere=elsewhere)


@pytest.fixture(scope="module")
def shared(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index that no test changes."""
    return make(tmp_path_factory.mktemp("contract"), 0)


@pytest.fixture
def index(make: Make, tmp_path: Path) -> Index:
    return make(tmp_path, 0)


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """The share of the true rows that were found; −1 stands for none."""
    pairs = [(set(a.tolist()) - {-1}, set(b.tolist()) - {-1}) for a, b in zip(found, truth, strict=True)]
    wanted = sum(len(b) for _, b in pairs)
    return sum(len(a & b) for a, b in pairs) / wanted if wanted else 1.0


def settle(index: Index) -> None:
    """Wait until whatever finds candidates elsewhere knows of the changes."""
    if index.elsewhere is not None:
        index.elsewhere.wait()


def change(item_id: str, vector: np.ndarray) -> ItemChange:
    return ItemChange(
        item_id, vector.astype(np.float32), 1.0, b"c" * 16, b"f" * 16, None, '{"colour": "red"}'
    )


def test_it_finds_the_nearest_as_often_as_it_was_tuned_to(shared: Index) -> None:
    queries = queries_of(64, seed=9)
    rows, scores = shared.search(queries, K)
    truth, best = shared.brute_force(queries, K)
    assert recall(rows, truth) >= TARGET
    assert (np.diff(scores) <= 0).all()
    assert (scores <= best + 1e-6).all()


def test_scores_are_those_of_the_stored_vectors(shared: Index) -> None:
    queries = queries_of(8)
    rows, scores = shared.search(queries, K)
    assert (shared.scores_of(queries, rows) == scores).all()
    parts = np.random.default_rng(3).standard_normal((3, DIM)).astype(np.float32)  # of a user vector
    rows, scores = shared.search(parts.sum(axis=0)[None], K)
    shares = parts @ shared.vectors_of(rows[0]).T
    assert np.allclose(shares.sum(axis=0), scores[0], rtol=1e-5, atol=1e-5)


def test_one_query_is_answered_as_in_a_batch(shared: Index) -> None:
    queries = queries_of(12, seed=5)
    together = shared.search(queries, K)
    for number in range(len(queries)):
        rows, scores = shared.search(queries[number : number + 1], K)
        assert recall(rows, together[0][number : number + 1]) >= TARGET
        common = np.isin(together[0][number], rows[0])
        assert set(together[1][number][common].tolist()) <= set(scores[0].tolist())


@pytest.mark.parametrize("wanted", [*FILTERS, *LARGE], ids=range(len(FILTERS) + len(LARGE)))
def test_a_filter_allows_what_brute_force_allows(shared: Index, wanted: Filter) -> None:
    queries = queries_of(16, seed=7)
    rows, scores = shared.search(queries, K, wanted=wanted)
    truth, _ = shared.brute_force(queries, K, wanted=wanted)
    assert ((rows >= 0).sum(axis=1) == (truth >= 0).sum(axis=1)).all()  # as many as there are
    everything, _ = shared.brute_force(queries[:1], ITEMS, wanted=wanted)
    assert set(rows.ravel().tolist()) <= {-1, *everything.ravel().tolist()}  # and no other ones
    assert recall(rows, truth) >= TARGET
    assert (scores[rows < 0] == -np.inf).all()


def test_excluded_rows_are_left_out_and_made_up_for(shared: Index) -> None:
    queries = queries_of(6, seed=2)
    best, _ = shared.brute_force(queries, 60)
    numbers = np.repeat(np.arange(len(queries)), 60)
    rows, _ = shared.search(queries, K, Exclusions(numbers, best.ravel()))
    for found, out in zip(rows, best, strict=True):
        assert not set(found.tolist()) & {-1, *out.tolist()}


def test_a_removed_item_is_not_found_and_its_place_is_filled(index: Index) -> None:
    queries = queries_of(8, seed=4)
    best, _ = index.brute_force(queries, 40)
    gone = sorted(set(index.item_ids(np.unique(best))))
    index.put([], gone)
    settle(index)
    rows, _ = index.search(queries, K)
    assert not {*gone} & {*index.item_ids(rows.ravel())}
    assert recall(rows, index.brute_force(queries, K)[0]) >= TARGET
    red = Filter(equals=(("colour", ("red",)),))
    rows, _ = index.search(queries, K, wanted=red)
    assert recall(rows, index.brute_force(queries, K, wanted=red)[0]) >= TARGET
    assert (rows >= 0).all()


def test_an_item_that_is_put_is_found_at_once_and_once(index: Index) -> None:
    query = queries_of(1, seed=6)
    best, _ = index.brute_force(query, 1)
    known = index.item_ids(best[0])[0]
    index.put([change("new", 9 * query[0]), change(known, 8 * query[0])])
    settle(index)
    rows, scores = index.search(query, K)
    assert index.item_ids(rows[0])[:2] == ["new", known]
    assert index.item_ids(rows[0]).count(known) == 1
    assert np.allclose(scores[0][:2], np.array([9, 8]) * (query[0] @ query[0]), rtol=1e-5)
    rows, _ = index.search(query, K, wanted=Filter(equals=(("colour", ("red",)),)))
    assert index.item_ids(rows[0])[:2] == ["new", known]
    index.put([change(known, -query[0])], ["new"])  # moved away, and removed again
    settle(index)
    assert not {"new", known} & {*index.item_ids(index.search(query, K)[0][0])}


def test_a_search_in_an_older_state_sees_that_state(index: Index) -> None:
    query = queries_of(1, seed=8)
    before, state = index.search(query, K), index.delta.state
    index.put([change("new", 9 * query[0])], index.item_ids(before[0][0]))
    settle(index)
    rows, scores = index.search(query, K, state=state)
    if index.elsewhere is None:
        assert (rows == before[0]).all()
        assert (scores == before[1]).all()
    else:  # it knows of the newest state alone: what is gone may be missing, and nothing newer is found
        assert "new" not in index.item_ids(rows[0])
        assert (index.scores_of(query, rows) == scores).all()


def test_two_indexes_answer_each_from_its_own(make: Make, tmp_path: Path) -> None:
    """One is published in place of the other, and rolled back to."""
    older, newer = make(tmp_path / "a", 1), make(tmp_path / "b", 2)
    queries = queries_of(8, seed=1)
    for index in (older, newer, older):
        rows, scores = index.search(queries, K)
        assert recall(rows, index.brute_force(queries, K)[0]) >= TARGET
        assert (index.scores_of(queries, rows) == scores).all()
