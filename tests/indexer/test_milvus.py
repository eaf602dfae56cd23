"""Filters as expressions of Milvus: each is true of every item that the filter allows."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest

from indexer.building.ground_truth import GroundTruth
from indexer.building.milvus import MilvusRecallError, _cells, _graph_may_reach, move_to_milvus
from indexer.filters import Filter, Moment
from indexer.filters.attribute_index import moment_of
from indexer.index import Index
from indexer.milvus import (
    CELL,
    CollectionFacts,
    MilvusAddress,
    MilvusConnection,
    MilvusSearch,
    MilvusUnreachableError,
    NoCollectionError,
    collection_of,
    create_collection,
    drop_collection,
    expression_of,
    read_facts,
)
from indexer.search import FilterPolicy, SearchParams
from scripts.bench.engines.milvus_server import milvus_lite
from scripts.bench.index.synthetic import write_index
from tests.engines.milvus import EVERY_MILVUS, milvus_server
from tests.live_server import stopped
from tests.random_index import DIM, queries_of

ITEMS = 300
BIG = 2**53


def attributes(row: int) -> dict[str, object]:
    found: dict[str, object] = {
        "maker": {"country": ["Norway", "中国", 'a"b\\c'][row % 3]},
        "tags": [f"t{row % 7}", row % 4],
        "sold": row % 5 == 0,
        "balance": (row - 150) / 7,
        "serial": BIG + row,
    }
    if row % 2:
        found["released"] = f"{1990 + row % 40}-05-01T12:00:00.123456Z"
    return found


def day(text: str) -> Moment:
    found = moment_of(text)
    assert found is not None
    return found


EXACT = [  # of texts and truth values alone
    Filter(equals=(("maker.country", ("Norway",)),)),
    Filter(equals=(("maker.country", ("中国", 'a"b\\c')), ("sold", (True,)))),
    Filter(equals=(("tags", ("t3",)),), unequal=(("maker.country", ("Norway",)),)),
    Filter(unequal=(("sold", (True,)),)),
]
WIDER = [
    Filter(ranges=(("balance", -3.25, 9.5),)),
    Filter(ranges=(("balance", -np.inf, -1e-300),)),
    Filter(ranges=(("balance", -np.inf, np.inf),)),
    Filter(ranges=(("serial", BIG + 5, BIG + 11),)),
    Filter(equals=(("serial", (BIG + 7,)),)),
    Filter(equals=(("tags", ("t1", 3)),)),
    Filter(equals=(("tags", (2, 3)),), ranges=(("balance", 0.0, 1e20),)),
    Filter(times=(("released", day("2000-01-01"), day("2010-05-01T12:00:00.123456Z")),)),
    Filter(equals=(("released", (day("1995-05-01T12:00:00.123456Z"),)),)),
    Filter(unequal=(("balance", (0.0,)), ("tags", ("t2", 1)))),
    Filter(equals=(("unknown", (1.0,)),)),
    Filter(deny=("item-000000003",), kinds=("film",)),
]


@pytest.fixture(scope="module", params=EVERY_MILVUS)
def connection(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MilvusConnection]:
    with milvus_server(tmp_path_factory.mktemp("milvus"), request.param) as uri:
        one = MilvusConnection(MilvusAddress(uri))
        yield one
        one.close()


@pytest.fixture(scope="module")
def index(connection: MilvusConnection, tmp_path_factory: pytest.TempPathFactory) -> Index:
    vectors = np.random.default_rng(0).standard_normal((ITEMS, DIM)).astype(np.float32)
    folder = tmp_path_factory.mktemp("index")
    made = write_index(folder, vectors, "Flat", queries_of(64), attributes=attributes)
    move_to_milvus(made, connection, queries_of(64), 0.99)
    return Index.load(
        folder / made.index_id, elsewhere=lambda name, ids: MilvusSearch(connection, name, ids, writes=True)
    )


def selected(connection: MilvusConnection, index: Index, wanted: Filter) -> set[str]:
    """The items of which the expression of a filter is true, by Milvus itself."""
    facts = read_facts(connection, index.index_id)
    assert facts is not None
    found = connection.client.query(
        collection_of(index.index_id),
        filter=expression_of(wanted, facts),
        output_fields=["item_id"],
        limit=ITEMS + 10,
        consistency_level="Strong",
    )
    return {one["item_id"] for one in found}


def allowed(index: Index, wanted: Filter) -> set[str]:
    rows, _ = index.brute_force(queries_of(1), ITEMS + 10, wanted=wanted)
    return set(index.item_ids(rows[0][rows[0] >= 0]))


@pytest.mark.parametrize("wanted", EXACT, ids=range(len(EXACT)))
def test_texts_and_truth_values_select_just_what_is_allowed(
    connection: MilvusConnection, index: Index, wanted: Filter
) -> None:
    assert selected(connection, index, wanted) == allowed(index, wanted) != set()


@pytest.mark.parametrize("wanted", WIDER, ids=range(len(WIDER)))
def test_other_conditions_select_at_least_what_is_allowed(
    connection: MilvusConnection, index: Index, wanted: Filter
) -> None:
    found = selected(connection, index, wanted)
    assert found >= allowed(index, wanted)
    if wanted.ranges or wanted.times:
        assert len(found) <= ITEMS // 2 + 150


def test_an_index_that_was_not_moved_is_refused(connection: MilvusConnection, index: Index) -> None:
    with pytest.raises(NoCollectionError, match="run `triptych index move"):
        MilvusSearch(connection, "20300101T000000000000-none", index.main.ids)


def test_a_move_that_was_cut_off_counts_as_none(
    connection: MilvusConnection, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(1).standard_normal((50, DIM)).astype(np.float32)
    made = write_index(tmp_path, vectors, "Flat", queries_of(64), attributes=attributes)
    with monkeypatch.context() as patch:
        patch.setattr(connection.client, "flush", lambda *_: (_ for _ in ()).throw(OSError("cut off")))
        with pytest.raises(ConnectionError, match="cut off"):
            move_to_milvus(made, connection, queries_of(64), 0.9)
    assert connection.client.has_collection(collection_of(made.index_id))
    assert read_facts(connection, made.index_id) is None
    facts = move_to_milvus(made, connection, queries_of(64), 0.9)
    assert read_facts(connection, made.index_id) == facts
    assert facts.items == 50


def test_what_was_tuned_is_what_searches_use_from_then_on(
    connection: MilvusConnection, tmp_path: Path
) -> None:
    """Milvus builds a graph after a flush, and compares every vector until then."""
    vectors = np.random.default_rng(4).standard_normal((6_000, DIM)).astype(np.float32)
    made = write_index(tmp_path, vectors, "Flat", queries_of(64))
    facts = move_to_milvus(made, connection, queries_of(64), 0.9)
    assert facts.recall < 1.0  # of a graph
    name = collection_of(made.index_id)
    connection.client.release_collection(name)
    connection.client.load_collection(name)
    found = MilvusSearch(connection, made.index_id, made.main.ids)
    truth = GroundTruth(vectors, queries_of(64)[1::2])
    rows = found.search(truth.queries, truth.k, facts.search_params.ef_search)
    assert truth.recall(rows) == pytest.approx(facts.recall, abs=1e-3)
    drop_collection(connection, made.index_id)


CLUSTERS, WIDE = 40, 64


def in_clusters(items: int, clusters: int = CLUSTERS, fall: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, D) in clusters at right angles, and queries (64, D); item n is of cluster n % clusters.

    In each cluster vectors are shorter by the power `fall` of their place. By inner product the short ones
    are then nearest to the long ones, and none is nearest to them, so that no edge of a graph leads there.
    """
    generator = np.random.default_rng(4)
    centres = np.linalg.qr(generator.standard_normal((WIDE, WIDE)))[0][:clusters]
    noise = generator.standard_normal((items + 64, WIDE)) / (2 * np.sqrt(WIDE))
    drawn = centres[np.arange(items + 64) % clusters] + noise
    drawn[:items] /= (1 + np.arange(items) // clusters)[:, None] ** fall
    drawn = drawn.astype(np.float32)
    return drawn[:items], drawn[items:]


def opened(connection: MilvusConnection, folder: Path, index: Index) -> Index:
    return Index.load(
        folder / index.index_id, elsewhere=lambda name, ids: MilvusSearch(connection, name, ids)
    )


def recall(index: Index, queries: np.ndarray, wanted: Filter | None = None) -> float:
    found = index.search(queries, 100, wanted=wanted)[0].tolist()
    best = index.brute_force(queries, 100, wanted=wanted)[0].tolist()
    return float(
        np.mean([len({*some} & {*all_of_it}) / 100 for some, all_of_it in zip(found, best, strict=True)])
    )


def test_vectors_of_unlike_lengths_are_divided_into_lists(
    connection: MilvusConnection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vectors, queries = in_clusters(6_000, fall=0.5)
    made = write_index(tmp_path, vectors, "Flat", queries)
    facts = move_to_milvus(made, connection, queries, 0.95)
    assert "by a graph: its items are divided into lists" in caplog.text
    assert read_facts(connection, made.index_id) == facts
    assert facts.recall >= 0.95
    assert facts.tuned_to == f"nprobe {facts.search_params.nprobe} of 256 lists"
    assert recall(opened(connection, tmp_path, made), queries) >= 0.95
    drop_collection(connection, made.index_id)


def test_a_graph_that_a_sample_rules_out_is_not_built(
    connection: MilvusConnection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("indexer.building.milvus._SAMPLE", 4_000)
    kinds = []
    monkeypatch.setattr(
        "indexer.building.milvus.create_collection",
        lambda *given: (kinds.append(given[-1]), create_collection(*given)),
    )
    vectors, queries = in_clusters(6_000, fall=0.5)
    made = write_index(tmp_path, vectors, "Flat", queries)
    facts = move_to_milvus(made, connection, queries, 0.95)
    assert kinds == [facts.lists] == [256]
    assert "by a graph" not in caplog.text
    assert _graph_may_reach(in_clusters(6_000)[0], queries, 0.95)  # it is the lengths
    drop_collection(connection, made.index_id)


def test_a_filter_that_allows_whole_clusters_reaches_the_recall_too(
    connection: MilvusConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the queries look for what the filter denies, and the best of the others lie in far lists."""
    monkeypatch.setattr("indexer.building.milvus._graph_may_reach", lambda *_: False)
    vectors, queries = in_clusters(6_000, 20)
    made = write_index(tmp_path, vectors, "Flat", queries, attributes=lambda row: {"cluster": row % 20})
    facts = move_to_milvus(made, connection, queries, 0.95)
    tuned = MilvusSearch(connection, made.index_id, made.main.ids)
    for share, params in facts.policy.by_share:
        truth = GroundTruth(vectors, queries, np.flatnonzero(_cells(vectors) < round(100 * share)))
        rows = tuned.search(queries, truth.k, params.nprobe, f"{CELL} < {round(100 * share)}")
        assert truth.recall(rows) >= 0.975  # half of the misses are for filters that were not tried
    found = opened(connection, tmp_path, made)
    for last in (9.0, 3.0):
        assert recall(found, queries, Filter(ranges=(("cluster", 0.0, last),))) >= 0.95
    drop_collection(connection, made.index_id)


@pytest.mark.parametrize(("lists", "wanted"), [(0, {"M": 32, "efConstruction": 200}), (48, {"nlist": 48})])
def test_an_engine_takes_notice_of_how_an_index_is_built(
    connection: MilvusConnection, lists: int, wanted: dict[str, int]
) -> None:
    create_collection(connection, "built", DIM, lists)
    told = connection.client.describe_index(collection_of("built"), "vector")
    said = {**told, **told.get("params", {})}
    assert {name: int(said[name]) for name in wanted} == wanted
    drop_collection(connection, "built")


def test_facts_of_the_first_versions_are_of_graphs() -> None:
    facts = CollectionFacts(5, DIM, ("price",), (), SearchParams(200), 0.991, FilterPolicy())
    said = json.loads(facts.to_json())
    del said["lists"]
    assert CollectionFacts.from_json(json.dumps(said)) == facts
    assert facts.tuned_to == "a graph at efSearch 200"


def test_a_recall_that_is_not_reached_leaves_no_collection(
    connection: MilvusConnection, tmp_path: Path
) -> None:
    vectors = np.random.default_rng(2).standard_normal((50, DIM)).astype(np.float32)
    made = write_index(tmp_path, vectors, "Flat", queries_of(64), attributes=attributes)
    with pytest.raises(MilvusRecallError, match=r"not 1\.5 as asked"):
        move_to_milvus(made, connection, queries_of(64), 1.5)
    assert not connection.client.has_collection(collection_of(made.index_id))


def test_a_silent_milvus_holds_one_search_and_refuses_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.milvus.search.SEARCH_SECONDS", 2.0)
    vectors = np.random.default_rng(3).standard_normal((50, DIM)).astype(np.float32)
    made = write_index(tmp_path, vectors, "Flat", queries_of(64), attributes=attributes)
    with milvus_lite(tmp_path / "milvus") as running, ThreadPoolExecutor(1) as pool:
        connection = MilvusConnection(MilvusAddress(running.uri))
        move_to_milvus(made, connection, queries_of(64), 0.9)
        index = Index.load(
            tmp_path / made.index_id, elsewhere=lambda name, ids: MilvusSearch(connection, name, ids)
        )
        before = index.search(queries_of(1), 5)[0]
        with stopped(running.pids[0]):
            with pytest.raises(MilvusUnreachableError, match="DEADLINE_EXCEEDED: "):
                index.search(queries_of(1), 5)
            trying = pool.submit(index.search, queries_of(1), 5)
            while not connection._trying.locked():  # it takes its turn
                assert not trying.done()
            with pytest.raises(MilvusUnreachableError, match="says nothing, and one search waits"):
                index.search(queries_of(1), 5)
            assert not trying.done()  # the refusal did not wait for it
        wait([trying])
        for _ in range(2):  # by now it answers, and all searches are let through
            assert (index.search(queries_of(1), 5)[0] == before).all()
        assert not connection._silent
        connection.close()
