import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.building.assemble import IndexCheckError, check
from indexer.building.factory import FactoryError, empty_faiss
from indexer.building.ground_truth import ground_truths
from indexer.files import ItemChange
from indexer.filters.attribute_index import terms_of
from indexer.filters.filter import Filter, FilterError
from indexer.index import Index, VectorDimError
from indexer.search.ann import SearchParams
from indexer.search.exact import best_of_all
from indexer.search.search import Allowed, Exclusions
from store.artifact import MANIFEST, DamagedArtifactError, build
from tests.random_index import COLOURS, DIM, FILTERS, attributes, make_index, queries_of


def change(
    item_id: str, vector: np.ndarray, kind: str | None = None, popularity: float = 0.0, **facts: object
) -> ItemChange:
    return ItemChange(
        item_id, vector.astype(np.float32), popularity, bytes(16), bytes(16), kind, json.dumps(facts)
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(tmp_path_factory.mktemp("indexes"), 60)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An approximate index."""
    return make_index(tmp_path_factory.mktemp("large"), 4_000, "IVF16,SQ8")


def test_k_beyond_the_index_returns_what_there_is(tmp_path: Path) -> None:
    five = make_index(tmp_path, 5)
    rows, scores = five.search(np.ones((1, DIM), np.float32), k=50)
    assert rows.shape == scores.shape == (1, 50)
    assert sorted(rows[0, :5]) == list(range(5))
    assert (rows[0, 5:] == -1).all()  # FAISS pads with row −1: never ids[-1]
    assert np.isneginf(scores[0, 5:]).all()


def test_an_index_without_items_finds_nothing(tmp_path: Path) -> None:
    empty = make_index(tmp_path, 0)
    assert (empty.search(queries_of(2), 3)[0] == -1).all()
    assert not len(empty.popular(3, np.zeros(0, dtype=np.int64)))
    empty.put([change("new", np.ones(DIM))])
    assert empty.item_ids(empty.search(queries_of(1), 1)[0][0]) == ["new"]


@given(seed=st.integers(0, 2**31), k=st.integers(1, 70), excluded=st.integers(0, 60))
def test_flat_search_is_brute_force_over_what_is_not_excluded(
    index: Index, seed: int, k: int, excluded: int
) -> None:
    generator = np.random.default_rng(seed)
    queries = generator.standard_normal((3, DIM)).astype(np.float32)
    out = [generator.permutation(60)[: max(0, excluded - 10 * q)] for q in range(3)]
    pairs = Exclusions(np.repeat(np.arange(3), [len(o) for o in out]), np.concatenate(out).astype(np.int64))
    rows, scores = index.search(queries, k, pairs)
    exact = queries.astype(float) @ index.main.vectors.T.astype(float)
    for q in range(3):
        left = np.setdiff1d(np.arange(60), out[q])
        best = left[np.argsort(-exact[q, left])][:k]
        assert rows[q, : len(best)].tolist() == best.tolist()
        assert (rows[q, len(best) :] == -1).all()
        np.testing.assert_allclose(scores[q, : len(best)], exact[q, best], rtol=1e-4, atol=1e-5)
    by_force = index.brute_force(queries, k, pairs)
    np.testing.assert_array_equal(by_force[0], rows)


def test_exclusion_of_one_query_does_not_touch_the_next(index: Index) -> None:
    query = np.ones((2, DIM), np.float32)
    best = index.search(query, 1)[0][0, 0]
    rows, _ = index.search(query, 1, Exclusions(np.array([0]), np.array([best])))
    assert rows[0, 0] != best
    assert rows[1, 0] == best


def test_search_leaves_its_arguments_alone(index: Index) -> None:
    query = np.ones((1, DIM), np.float32)
    index.search(query, 5, Exclusions(np.array([0]), np.array([3])))
    assert (query == 1).all()


@pytest.mark.parametrize("factory", ["HNSW16", "IVF4,Flat", "SQ8", "SQfp16", "IVF4,RaBitQ", "PCA4,IVF4,Flat"])
def test_scores_of_a_compressed_index_are_exact(tmp_path: Path, factory: str) -> None:
    index = make_index(tmp_path, 1_000, factory)
    rows, scores = index.search(queries_of(4, 5), 10)
    exact = np.einsum("qkd,qd->qk", index.main.vectors[rows], queries_of(4, 5))
    np.testing.assert_allclose(scores, exact, rtol=1e-5, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert index.manifest["ann_recall@100"] >= 0.99
    assert index.exact is (index.manifest["factory"] == "Flat")


def test_a_kind_that_cannot_reach_the_recall_becomes_exact(tmp_path: Path) -> None:
    index = make_index(tmp_path, 4_000, "PQ1x4")
    assert index.manifest["factory"] == "Flat"


def test_popular_items_come_first_and_excluded_ones_never(tmp_path: Path) -> None:
    index = make_index(tmp_path, 20)
    index.put([change(f"p{n}", np.ones(DIM), popularity=n) for n in range(1, 30)])
    everything = index.popular(60, np.array([], dtype=np.int64))
    assert len(everything) == 49
    assert (np.diff(index.popularity_of(everything)) <= 0).all()
    left = index.popular(60, everything[:10])
    assert left.tolist() == everything[10:].tolist()
    assert index.item_ids(index.popular(2, everything[:3])) == ["p26", "p25"]
    assert index.item_ids(index.popular(9, everything[:0], Filter(allow=("p3", "p4"), deny=("p3",)))) == [
        "p4"
    ]


def test_a_vector_of_another_dim_is_refused(index: Index) -> None:
    with pytest.raises(VectorDimError, match="7 values, but the embedding dim is 8"):
        index.search(np.ones((1, 7), np.float32), 3)


def test_a_factory_that_faiss_does_not_know_is_named() -> None:
    with pytest.raises(FactoryError, match="'Flatt'"):
        empty_faiss(DIM, "Flatt")


def test_an_index_that_misses_what_brute_force_finds_is_refused(tmp_path: Path) -> None:
    index = make_index(tmp_path, 300, "IVF4,Flat")
    assert check(index) > 0.9
    index.approximate, index.exact = None, True
    index.put([], [f"item-{n:09d}" for n in range(100)])
    with pytest.raises(IndexCheckError, match="only 0"):
        check(index)


def test_the_check_of_an_index_compares_it_in_blocks() -> None:
    items, queries = 400_000, 50
    vectors = np.random.default_rng(0).standard_normal((items, DIM)).astype(np.float32)
    main = SimpleNamespace(vectors=vectors)
    index = SimpleNamespace(main=main, exact=True, search=lambda wanted, k: best_of_all(vectors, wanted, k))
    tracemalloc.start()
    try:
        assert check(index, queries) == 1.0  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * queries * items / 4  # all scores at once are four times as many bytes


def allowed_by_hand(index: Index, wanted: Filter) -> list[int]:
    rows = []
    for row in range(len(index.main)):
        facts, item_id = attributes(row), f"item-{row:09d}"
        rows.append(
            all(
                facts[name] in values or (isinstance(facts[name], list) and set(facts[name]) & set(values))
                for name, values in wanted.equals
            )
            and all(least <= facts[name] <= greatest for name, least, greatest in wanted.ranges)
            and (wanted.allow is None or item_id in wanted.allow)
            and item_id not in wanted.deny
        )
    return np.flatnonzero(rows).tolist()


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_filters_equal_brute_force(index: Index, large: Index, wanted: Filter) -> None:
    for one in (index, large):
        if wanted.kinds:
            allowed = np.zeros(0, dtype=np.int64)
        else:
            allowed = np.array(allowed_by_hand(one, wanted), dtype=np.int64)
        queries = queries_of(5, 9)
        k = min(20, len(allowed))
        exact = queries @ one.main.vectors[allowed].T
        best = allowed[np.argsort(-exact, axis=1)[:, :k]]
        by_force, found = (
            one.brute_force(queries, 20, None, wanted)[0],
            one.search(queries, 20, None, wanted)[0],
        )
        assert by_force[:, :k].tolist() == best.tolist()
        assert (by_force[:, k:] == -1).all()
        assert (found >= 0).sum() == 5 * k  # never fewer than k while k are allowed
        assert np.isin(found[found >= 0], allowed).all()
        assert np.mean([len(np.intersect1d(f, b)) for f, b in zip(found, best, strict=True)]) >= 0.9 * k


def test_a_filter_keeps_its_word_beside_exclusions_and_changes(large: Index, tmp_path: Path) -> None:
    one = make_index(tmp_path, 2_000, "IVF16,SQ8")
    wanted = Filter(equals=(("colour", ("red",)),), kinds=("film",))
    films = [change(f"film{n}", queries_of(1, n)[0], "film", colour=COLOURS[n % 2]) for n in range(20)]
    one.put(films)
    one.put([], ["film0"])
    expected = {f"film{n}" for n in range(2, 20, 2)}
    out = one.rows(["film2", "item-000000000"])
    rows = one.search(queries_of(1), 50, Exclusions(np.array([0, 0]), out), wanted)[0][0]
    assert set(one.item_ids(rows[rows >= 0])) == expected - {"film2"}


def test_impossible_filters_are_refused() -> None:
    with pytest.raises(FilterError, match="range of attribute 'price' is empty: 3 to 2"):
        Filter(ranges=(("price", 3, 2),))
    with pytest.raises(FilterError, match="'colour' is to equal one of no values"):
        Filter(equals=(("colour", ()),))


def test_facts_are_texts_numbers_and_truths_apart() -> None:
    terms, numbers, _ = terms_of(
        "film", {"a": "true", "b": True, "c": {"d": 2}, "e": ["x", 3, None], "f": None}
    )
    assert terms == ["kind\0film", "attributes.a\0true", "attributes.b\0\0true", "attributes.e\0x"]
    assert numbers == [("c.d", 2.0), ("e", 3.0)]


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=30), seed=st.integers(0, 99))
def test_changes_equal_an_index_built_of_what_is_left(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]], seed: int
) -> None:
    one = Index.load(_five(tmp_path_factory))
    rng = np.random.default_rng([7, seed])
    left = {f"item-{n:09d}": one.main.vectors[n] for n in range(5)}
    for put, n in steps:
        item_id = f"item-{n:09d}"
        if put:
            left[item_id] = rng.standard_normal(DIM).astype(np.float32)
            one.put([change(item_id, left[item_id])])
        else:
            left.pop(item_id, None)
            one.put([], [item_id])
    assert len(one) == len(left)
    query = rng.standard_normal((1, DIM)).astype(np.float32)
    rows, scores = one.search(query, 20)
    found = one.item_ids(rows[0][rows[0] >= 0])
    assert found == sorted(left, key=lambda item_id: -float(query[0] @ left[item_id]))
    np.testing.assert_allclose(
        scores[0][: len(found)], [query[0] @ left[i] for i in found], rtol=1e-4, atol=1e-5
    )
    assert one.item_ids(one.rows(found)) == found


_made: list[Path] = []


def _five(factory: pytest.TempPathFactory) -> Path:
    if not _made:
        parent = factory.mktemp("five")
        _made.append(parent / make_index(parent, 5).index_id)
    return _made[0]


def test_an_old_snapshot_sees_what_it_saw(tmp_path: Path) -> None:
    one = make_index(tmp_path, 10)
    query = queries_of(1)
    before = one._searchable(one.delta.state)
    first = one.search(query, 10)[0]
    one.put([change("item-000000001", query[0] * 9)], ["item-000000002"])
    again = before.search(query, 10, None, Allowed())[0]
    assert again.tolist() == first.tolist()
    assert one.item_ids(one.search(query, 1)[0][0]) == ["item-000000001"]


FILES = ("items.000.faiss", "vectors.safetensors", "items.arrow", "lookup.safetensors", "facts.safetensors",
         "delta.arrow", "delta.safetensors", "without_vector.arrow", MANIFEST)  # fmt: skip


def test_an_index_of_several_shards_is_one_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.building.shards.SHARD_ITEMS", 1_024)
    index = make_index(tmp_path, 4_000, "IVF16,SQ8")
    assert index.manifest["shards"] == 4
    index.put(
        [change("item-000002000", queries_of(1)[0] * 9), change("new", -queries_of(1)[0] * 9)],
        ["item-000000001"],
    )
    queries = queries_of(64)
    for wanted in (None, Filter(equals=(("colour", ("red",)),)), Filter(equals=(("sold", (True,)),))):
        for excluded in (None, Exclusions(np.zeros(3, np.int64), np.array([4, 1_030, 3_999]))):
            found = index.search(queries, 10, excluded, wanted)
            exact = index.brute_force(queries, 10, excluded, wanted)
            shared = [len(np.intersect1d(f, e)) for f, e in zip(found[0], exact[0], strict=True)]
            assert np.mean(shared) >= 9.8
            assert (found[0] >= 0).all()
    assert index.item_ids(index.search(queries[:1], 1)[0][0]) == ["item-000002000"]
    assert len(Index.load(tmp_path / index.index_id)) == 4_000


def test_a_filter_that_lets_everything_pass_is_none(large: Index) -> None:
    everything = Filter(ranges=(("price", -np.inf, np.inf),))
    assert large._allowed(everything, large.delta.state).main is None
    found, plain = large.search(queries_of(5), 10, None, everything), large.search(queries_of(5), 10)
    np.testing.assert_array_equal(found[0], plain[0])


def test_an_index_from_before_short_lists_were_tuned_is_searched_as_it_was() -> None:
    assert SearchParams.from_json({"probes": 7, "refine": 2, "factory": "IVF16,SQ8"}) == SearchParams(
        7, 2, 60
    )
    assert SearchParams.from_json({"probes": 7, "refine": 1}) == SearchParams(7, 1, 0)
    assert SearchParams.from_json(SearchParams(3, 4, 5).as_json()) == SearchParams(3, 4, 5)


def test_a_judge_of_a_short_list_knows_the_best_of_it() -> None:
    vectors, queries = queries_of(300, 3), queries_of(20)
    long, short = ground_truths(vectors, queries)
    order = np.argsort(-(queries @ vectors.T), axis=1)
    assert (long.k, short.k) == (100, 10)
    assert (long.recall(order[:, :100]), short.recall(order[:, :10])) == (1.0, 1.0)
    assert long.recall(order[:, :50]) == pytest.approx(0.5)
    assert short.recall(order[:, 5:15]) == pytest.approx(0.5)
    few = ground_truths(vectors, queries, np.arange(4))
    assert (few[0].k, few[1].k) == (4, 4)


def test_short_lists_are_tuned_too(large: Index) -> None:
    assert large.approximate is not None
    search_params = large.approximate.search_params
    assert search_params.least >= 10 * search_params.refine
    assert search_params.candidates(1) == search_params.least
    assert search_params.candidates(100) >= 100 * search_params.refine
    others = queries_of(200, 5)
    found, exact = large.search(others, 10)[0], large.brute_force(others, 10)[0]
    assert np.mean([len(np.intersect1d(f, e)) for f, e in zip(found, exact, strict=True)]) >= 0.97 * 10


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_any_damage_to_any_file_is_refused_and_named(tmp_path: Path, name: str, damage: str) -> None:
    index = make_index(tmp_path, 200, "IVF2,Flat")
    assert {p.name for p in (tmp_path / index.index_id).iterdir()} == set(FILES)
    path = tmp_path / index.index_id / name
    raw = bytearray(path.read_bytes())
    for position in [0, len(raw) // 2, len(raw) - 1] if damage == "flip" else [0]:
        path.unlink()
        if damage == "flip":
            path.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
        elif damage == "truncate":
            path.write_bytes(raw[:-1])
        with pytest.raises(DamagedArtifactError, match=name):
            Index.load(tmp_path / index.index_id)


def test_an_index_of_another_kind_or_layout_is_refused(tmp_path: Path) -> None:
    with build(tmp_path, "x") as draft:
        draft.facts = {"kind": "export"}
    with pytest.raises(DamagedArtifactError, match="'export', not an index"):
        Index.load(tmp_path / "x")
    with build(tmp_path, "y") as draft:
        draft.facts = {"kind": "index"}
    with pytest.raises(DamagedArtifactError, match="layout None, this version reads 2: run"):
        Index.load(tmp_path / "y")


def test_an_index_whose_parts_disagree_is_refused(tmp_path: Path) -> None:
    whole = make_index(tmp_path, 30)
    manifest = whole.manifest | {"main_items": 31}
    with pytest.raises(DamagedArtifactError, match="disagree with the manifest"):
        Index(tmp_path / whole.index_id, manifest)


@pytest.mark.parametrize("factory", ["Flat", "IVF16,SQ8", "HNSW16"])
def test_a_query_finds_in_a_batch_what_it_finds_alone(tmp_path: Path, factory: str) -> None:
    """Whatever the others exclude: candidates are as many, and who falls short is searched for alone."""
    rng, index = np.random.default_rng(3), make_index(tmp_path, 600, factory)
    index.put([], [index.main.ids[row] for row in range(0, 600, 7)])
    queries = queries_of(12)
    for counts in ([1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233], [590] + [1] * 11, [1] * 12):
        rows = [rng.choice(600, count, replace=False) for count in counts]
        together = index.search(
            queries, 10, Exclusions(np.repeat(np.arange(12), counts), np.concatenate(rows))
        )
        for place, query in enumerate(queries):
            own = Exclusions(np.zeros(counts[place], np.int64), rows[place])
            alone = index.search(query[None], 10, own)
            for one, other in zip(together, alone, strict=True):
                assert one[place].tobytes() == other[0].tobytes(), (factory, counts[place])
