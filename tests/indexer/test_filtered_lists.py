"""Filtered searches of lists: the same rows by selector and copies, in any batch, within bounded memory."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from indexer.building.filter_tuning import filter_policy
from indexer.building.ground_truth import ground_truths
from indexer.files import FloatArray, IntArray
from indexer.filters import Filter
from indexer.index import Index
from indexer.search import AnnIndex, FilterPolicy, Portions, SearchParams, bits_of
from indexer.search.lists import FilteredLists, FilteredSearch, Lists
from scripts.bench.index.synthetic import Synthetic, write_index

ITEMS, DIM, LISTS = 4_000, 24, 32
WORLD = Synthetic(ITEMS, DIM, seed=3)
VECTORS = np.concatenate(list(WORLD.chunks()))
QUERIES = WORLD.users(40, draw=1)
RANDOM = np.sort(np.random.default_rng(5).permutation(ITEMS)[: ITEMS // 5])
NEAR = np.sort(np.argsort(-(VECTORS @ QUERIES[0]))[: ITEMS // 5])
EVERYTHING = Portions(1.0, 1.0)
SOME = Portions(0.3, 0.3)


def built(factory: str) -> faiss.Index:
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add(VECTORS)
    return index


def lists_of(index: faiss.Index) -> Lists:
    lists = Lists.of(index)
    assert lists is not None
    return lists


def filtered(factory: str = f"IVF{LISTS},SQ8", **options: int) -> FilteredSearch:
    return FilteredSearch([lists_of(built(factory))], [0, ITEMS], **options)


def by_faiss(
    index: faiss.Index, queries: FloatArray, count: int, allowed: IntArray, nprobe: int = LISTS
) -> IntArray:
    params = faiss.SearchParametersIVF(nprobe=nprobe, sel=faiss.IDSelectorBatch(allowed))
    if isinstance(index, faiss.IndexPreTransform):
        params = faiss.SearchParametersPreTransform(index_params=params)
    rows: IntArray = index.search(queries, count, params=params)[1]
    return rows


@pytest.mark.parametrize("allowed", [RANDOM, NEAR], ids=["random", "near"])
@pytest.mark.parametrize(
    "factory",
    [
        f"IVF{LISTS},Flat",
        f"IVF{LISTS},SQ8",
        f"IVF{LISTS},SQfp16",
        f"Pad32,IVF{LISTS},SQ8",
        f"IVF{LISTS},RaBitQ",
        f"RR24,IVF{LISTS},RaBitQ",
    ],
)
def test_all_lists_give_what_faiss_gives_with_a_selector(factory: str, allowed: IntArray) -> None:
    index, bits = built(factory), bits_of(allowed, ITEMS)
    search = FilteredSearch([lists_of(index)], [0, ITEMS])
    wanted = by_faiss(index, QUERIES, 20, allowed)
    for copied in (False, True):
        assert (search.search(QUERIES, 20, EVERYTHING, bits)[0] == wanted).all()
        assert (search.copied_bytes > 0) == copied, "the first queries with a filter copy nothing"


@pytest.mark.parametrize("allowed", [RANDOM, NEAR], ids=["random", "near"])
def test_copies_and_batches_change_no_row(allowed: IntArray) -> None:
    search, bits = filtered(), bits_of(allowed, ITEMS)
    by_selector = search.search(QUERIES, 15, SOME, bits)[0]
    assert (search.search(QUERIES, 15, SOME, bits)[0] == by_selector).all()
    singly = [search.search(QUERIES[i : i + 1], 15, SOME, bits)[0] for i in range(len(QUERIES))]
    assert (np.concatenate(singly) == by_selector).all()
    assert np.isin(by_selector[by_selector >= 0], allowed).all()


def test_a_portion_is_compared_however_far_the_allowed_rows_are() -> None:
    """The nearest lists hold none of the rows farthest from a query, so a number of lists finds nothing."""
    index = built(f"IVF{LISTS},SQ8")
    far = np.sort(np.argsort(VECTORS @ QUERIES[0])[: ITEMS // 20])
    assert (by_faiss(index, QUERIES[:1], 10, far, nprobe=LISTS // 4) == -1).all()
    search = FilteredSearch([lists_of(index)], [0, ITEMS])
    found = search.search(QUERIES[:1], 10, Portions(0.5, 0.5), bits_of(far, ITEMS))[0]
    assert len(np.intersect1d(found, by_faiss(index, QUERIES[:1], 10, far))) >= 8


def test_lists_that_hold_enough_candidates_are_probed_even_for_the_least_portion() -> None:
    rows = filtered().search(QUERIES, 300, Portions(0.0, 0.0), bits_of(NEAR, ITEMS))[0]
    assert (rows >= 0).all()


def test_a_filter_that_allows_nothing_finds_nothing() -> None:
    for _ in range(3):
        rows = filtered().search(QUERIES, 5, EVERYTHING, bits_of(np.zeros(0, np.int64), ITEMS))[0]
        assert (rows == -1).all()


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_evenness_tells_random_rows_from_near_ones_and_from_whole_lists(share: float) -> None:
    lists, count = lists_of(built(f"IVF{LISTS},SQ8")), int(share * ITEMS)
    order = np.random.default_rng(1).permutation(ITEMS)

    def even(allowed: IntArray) -> bool:
        return FilteredLists(lists, bits_of(np.sort(allowed), ITEMS)).even

    assert even(order[:count])
    if share < 0.9:  # nearly everything is nearly even
        assert not even(np.argsort(-(VECTORS @ QUERIES[0]))[:count])
        assert not even(np.argsort(lists.places[0], kind="stable")[:count])


@pytest.mark.parametrize(("allowed", "even"), [(RANDOM, True), (NEAR, False)], ids=["random", "near"])
def test_even_and_uneven_filters_have_a_portion_each(allowed: IntArray, even: bool) -> None:
    index, bits = built(f"IVF{LISTS},SQ8"), bits_of(allowed, ITEMS)
    search = FilteredSearch([lists_of(index)], [0, ITEMS])
    best = by_faiss(index, QUERIES, 1, allowed)
    for portions, complete in ((Portions(0.0, 1.0), not even), (Portions(1.0, 0.0), even)):
        assert (search.search(QUERIES, 1, portions, bits)[0] == best).all() == complete


def test_rows_of_several_shards_are_their_own() -> None:
    half = ITEMS // 2
    shards = []
    for part in (VECTORS[:half], VECTORS[half:]):
        index = faiss.index_factory(DIM, f"IVF{LISTS},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(part)
        index.add(part)
        shards.append(index)
    index = AnnIndex(shards, SearchParams())
    params = SearchParams(portions=EVERYTHING)
    for allowed in (RANDOM, NEAR):
        found = index.search(QUERIES, 10, params, bits_of(allowed, ITEMS))
        truth, _ = ground_truths(VECTORS, QUERIES, allowed)
        assert truth.shorter(10).recall(found) == 1.0


def test_copies_stay_within_their_bytes_and_a_used_filter_keeps_its_own() -> None:
    random, near = bits_of(RANDOM, ITEMS), bits_of(NEAR, ITEMS)
    one = FilteredLists(lists_of(built(f"IVF{LISTS},SQ8")), random).bytes
    search = filtered(most_bytes=int(1.5 * one))
    for _ in range(5):
        search.search(QUERIES, 5, SOME, random)
    assert search.copied_bytes == one
    wanted = search.search(QUERIES, 5, SOME, near)[0]
    for _ in range(5):
        assert (search.search(QUERIES, 5, SOME, near)[0] == wanted).all()
        search.search(QUERIES, 5, SOME, random)
    assert search.copied_bytes == one, "there is no room for the second while the first is used"
    search.forget(random)
    search.search(QUERIES, 5, SOME, near)
    assert search.copied_bytes == one
    too_small = filtered(most_bytes=one // 2)
    for _ in range(5):
        too_small.search(QUERIES, 5, SOME, random)
    assert too_small.copied_bytes == 0


def test_a_filter_out_of_use_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.search.lists._UNUSED", 4)
    random, near = bits_of(RANDOM, ITEMS), bits_of(NEAR, ITEMS)
    one = FilteredLists(lists_of(built(f"IVF{LISTS},SQ8")), random).bytes
    search = filtered(most_bytes=int(1.5 * one))
    wanted = [search.search(QUERIES, 5, SOME, random)[0] for _ in range(3)][-1]
    for _ in range(6):
        search.search(QUERIES, 5, SOME, near)
    known = search._known[id(near)], search._known[id(random)]
    assert [each.copied for each in known] == [True, False]
    assert search.copied_bytes <= 1.5 * one
    assert (search.search(QUERIES, 5, SOME, random)[0] == wanted).all()


def test_threads_that_copy_the_same_lists_at_once_find_the_same() -> None:
    search, bits = filtered(), bits_of(RANDOM, ITEMS)
    wanted = search.search(QUERIES, 10, SOME, bits)[0]
    threads = 8
    for _ in range(10):
        known = search._known[id(bits)]
        known.copied = False
        for part in known.parts:
            part.drop_copies()
        meet = threading.Barrier(threads)

        def one(start: int, meet: threading.Barrier = meet) -> bool:
            meet.wait()
            rows = range(start, len(QUERIES), threads)
            found = [search.search(QUERIES[i : i + 1], 10, SOME, bits)[0] for i in rows]
            return bool((np.concatenate(found) == wanted[start::threads]).all())

        with ThreadPoolExecutor(threads) as pool:
            assert all(pool.map(one, range(threads)))


def test_only_the_last_filters_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.search.lists._FILTERS", 3)
    search = filtered()
    for number in range(6):
        allowed = bits_of(np.arange(number, ITEMS, 7), ITEMS)
        search.search(QUERIES[:1], 5, SOME, allowed)
        search.search(QUERIES[:1], 5, SOME, allowed)
        assert len(search._known) <= 3


@pytest.mark.parametrize("factory", ["HNSW16", f"IVF{LISTS},PQ4x4fs"])
def test_kinds_without_lists_of_plain_codes_are_given_no_portion(factory: str) -> None:
    index = AnnIndex([built(factory)], SearchParams())
    params = SearchParams(portions=SOME)
    assert index.filtered_lists is None
    assert not index.takes(params)
    assert index.takes(SearchParams())
    with pytest.raises(RuntimeError, match="no lists"):
        index.search(QUERIES, 5, params, bits_of(RANDOM, ITEMS))


def test_lists_by_another_distance_are_not_searched_so() -> None:
    index = faiss.index_factory(DIM, f"IVF{LISTS},Flat", faiss.METRIC_L2)
    index.train(VECTORS)
    assert Lists.of(index) is None


def test_a_policy_with_portions_is_read_as_it_was_written() -> None:
    params = SearchParams(7, 2, 20, Portions(0.25, 0.5))
    policy = FilterPolicy(0.1, ((0.5, SearchParams(5)), (0.2, params)))
    assert FilterPolicy.from_json(policy.as_json()) == policy
    assert params.times(8) == replace(params, nprobe=56, portions=Portions(1.0, 1.0))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Items with the attributes `any`, random, and `near`, how near they are to a user."""
    world = Synthetic(20_000, 32)
    vectors = np.concatenate(list(world.chunks()))
    anything = np.random.default_rng(2).random(len(vectors))
    near = vectors @ world.users(1, draw=9)[0]

    def attributes(row: int) -> dict[str, float]:
        mixed = anything[row] + 2.0 * float(near[row])
        return {"any": float(anything[row]), "near": float(near[row]), "mixed": mixed}

    folder = tmp_path_factory.mktemp("lists")
    return write_index(folder, vectors, "IVF128,SQ8", world.users(256), attributes=attributes)


@pytest.mark.parametrize("kind", ["any", "near", "-near", "mixed"])
@pytest.mark.parametrize("share", [0.08, 0.1, 0.15, 0.3, 0.5, 0.7])
def test_filters_that_were_not_tuned_reach_the_recall(index: Index, kind: str, share: float) -> None:
    """Also those far from where queries are, and those that are neither even nor clustered."""
    world = Synthetic(20_000, 32)
    name, sign = kind.removeprefix("-"), -1 if kind.startswith("-") else 1
    queries = world.users(100, draw=4)
    vectors = np.asarray(index.main.vectors)
    near = vectors @ world.users(1, draw=9)[0]
    anything = np.random.default_rng(2).random(len(vectors))
    of_item = {"any": anything, "near": near, "mixed": anything + 2.0 * near.astype(float)}[name]
    edge = float(np.quantile(of_item, share if sign < 0 else 1 - share))
    wanted = Filter(ranges=((name, -np.inf, edge) if sign < 0 else (name, edge, np.inf),))
    for k in (10, 100):
        exact = index.brute_force(queries, k, None, wanted)[1]
        found = index.search(queries, k, None, wanted)[1]
        assert (found >= exact[:, -1:] - 1e-6).mean() >= 0.985


def test_the_policy_of_lists_has_portions_that_grow_as_shares_fall(index: Index) -> None:
    portions = [params.portions for _, params in index.policy.by_share]
    assert portions
    even, uneven = ([getattr(each, name) for each in portions] for name in ("even", "uneven"))
    assert even == sorted(even)
    assert uneven == sorted(uneven)
    assert all(np.array(even) <= np.array(uneven))


def test_a_policy_leaves_no_copies_behind(tmp_path: Path) -> None:
    index = AnnIndex([built(f"IVF{LISTS},SQ8")], SearchParams(4, 2, 20))
    filter_policy(VECTORS, index, WORLD.users(64), index.search_params, 0.9)
    assert index.filtered_lists is not None
    assert index.filtered_lists.copied_bytes == 0
