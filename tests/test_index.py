from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from indexer.index import FAISS_FILE, IDS_FILE, VECTORS_FILE, Excluded, Index, VectorDimError
from indexer.reindex import FactoryError, IndexCheckError, check, empty_faiss, fill
from store.artifact import DamagedArtifactError, build

DIM = 8


def filled(vectors: np.ndarray, factory: str) -> faiss.Index:
    index = empty_faiss(vectors.shape[1], factory)
    fill(index, vectors)
    return index


def make_index(parent: Path, items: int, factory: str = "Flat", seed: int = 0) -> Index:
    vectors = np.random.default_rng(seed).standard_normal((items, DIM)).astype(np.float32)
    with build(parent, f"i{items}-{factory}".replace(",", "-")) as draft:
        draft.facts = {"kind": "index", "model_id": "m", "dim": DIM, "items": items, "factory": factory}
        faiss.write_index(filled(vectors, factory), str(draft.path / FAISS_FILE))
        save_file({"vectors": vectors}, draft.path / VECTORS_FILE)
        ids = pa.table({"item_id": [f"i{n}" for n in range(items)], "popularity": np.arange(items) % 7})
        pq.write_table(ids, draft.path / IDS_FILE)
    return Index.load(parent / draft.path.name.removeprefix(".building-").rpartition("-")[0])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(tmp_path_factory.mktemp("indexes"), 60)


def test_k_beyond_the_index_returns_what_there_is(tmp_path: Path) -> None:
    five = make_index(tmp_path, 5)
    rows, scores = five.search(np.ones((1, DIM), np.float32), k=50)
    assert rows.shape == scores.shape == (1, 50)
    assert sorted(rows[0, :5]) == list(range(5))
    assert (rows[0, 5:] == -1).all()  # FAISS pads with row −1: never ids[-1]
    assert np.isneginf(scores[0, 5:]).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 70), excluded=st.integers(0, 60))
def test_flat_search_is_brute_force_over_what_is_not_excluded(
    index: Index, seed: int, k: int, excluded: int
) -> None:
    generator = np.random.default_rng(seed)
    queries = generator.standard_normal((3, DIM)).astype(np.float32)
    out = [generator.permutation(60)[: max(0, excluded - 10 * q)] for q in range(3)]
    pairs = Excluded(np.repeat(np.arange(3), [len(o) for o in out]), np.concatenate(out).astype(np.int64))
    rows, scores = index.search(queries, k, pairs)
    exact = queries.astype(float) @ index.vectors.T.astype(float)
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
    rows, _ = index.search(query, 1, Excluded(np.array([0]), np.array([best])))
    assert rows[0, 0] != best
    assert rows[1, 0] == best


def test_search_leaves_its_arguments_alone(index: Index) -> None:
    query = np.ones((1, DIM), np.float32)
    index.search(query, 5, Excluded(np.array([0]), np.array([3])))
    assert (query == 1).all()


@pytest.mark.parametrize("factory", ["HNSW16", "IVF4,Flat", "SQ8", "SQfp16"])
def test_scores_of_a_compressed_index_are_exact(tmp_path: Path, factory: str) -> None:
    index = make_index(tmp_path, 400, factory)
    queries = np.random.default_rng(5).standard_normal((4, DIM)).astype(np.float32)
    rows, scores = index.search(queries, 10)
    found = rows >= 0
    exact = np.einsum("qkd,qd->qk", index.vectors[rows], queries)
    np.testing.assert_allclose(scores[found], exact[found], rtol=1e-5)
    assert (np.diff(scores, axis=1)[:, :5] <= 0).all()
    assert index.exact is False


def test_popular_items_come_first_and_excluded_ones_never(index: Index) -> None:
    everything = index.popular(60, np.array([], dtype=np.int64))
    assert (np.diff(index.popularity[everything]) <= 0).all()
    left = index.popular(60, everything[:10])
    assert left.tolist() == everything[10:].tolist()
    assert len(index.popular(5, everything[:3])) == 5


def test_a_vector_of_another_dim_is_refused(index: Index) -> None:
    with pytest.raises(VectorDimError, match="7 values, but the embedding dim is 8"):
        index.search(np.ones((1, 7), np.float32), 3)


def test_a_factory_that_faiss_does_not_know_is_named() -> None:
    with pytest.raises(FactoryError, match="'Flatt'"):
        empty_faiss(DIM, "Flatt")


def test_an_index_that_misses_what_brute_force_finds_is_refused() -> None:
    vectors = np.random.default_rng(0).standard_normal((300, DIM)).astype(np.float32)
    wrong = filled(vectors[::-1].copy(), "Flat")
    with pytest.raises(IndexCheckError, match="only 0"):
        check(wrong, vectors)
    assert check(filled(vectors, "Flat"), vectors) == 1.0


@pytest.mark.parametrize("name", [FAISS_FILE, VECTORS_FILE, IDS_FILE, "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_any_damage_to_any_file_is_refused_and_named(tmp_path: Path, name: str, damage: str) -> None:
    index = make_index(tmp_path, 20)
    path = tmp_path / index.index_id / name
    raw = bytearray(path.read_bytes())
    for position in [0, len(raw) // 2, len(raw) - 1] if damage == "flip" else [0]:
        if damage == "flip":
            path.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
        elif damage == "truncate":
            path.write_bytes(raw[:-1])
        else:
            path.unlink()
        with pytest.raises(DamagedArtifactError, match=name):
            Index.load(tmp_path / index.index_id)


def test_an_index_of_another_kind_is_refused(tmp_path: Path) -> None:
    with build(tmp_path, "x") as draft:
        draft.facts = {"kind": "export"}
    with pytest.raises(DamagedArtifactError, match="'export', not an index"):
        Index.load(tmp_path / "x")


def test_an_index_whose_parts_disagree_is_refused(tmp_path: Path) -> None:
    vectors = np.ones((3, DIM), np.float32)
    with build(tmp_path, "x") as draft:
        draft.facts = {"kind": "index", "model_id": "m", "dim": DIM, "items": 3, "factory": "Flat"}
        faiss.write_index(filled(vectors, "Flat"), str(draft.path / FAISS_FILE))
        save_file({"vectors": vectors}, draft.path / VECTORS_FILE)
        pq.write_table(pa.table({"item_id": ["a", "b"], "popularity": [1, 2]}), draft.path / IDS_FILE)
    with pytest.raises(DamagedArtifactError, match="disagree with the manifest"):
        Index.load(tmp_path / "x")
