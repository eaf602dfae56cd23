"""The user index: cosines and audiences against brute force, refreshing, erasing, damage."""

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.dataset import Dataset
from encoder.runtime import Model
from encoder.text.cache import TextCache
from encoder.text.encoder import TextEncoder
from encoder.tower.tower import dataset_views
from indexer.building.assemble import lay_out
from indexer.building.autotune import fit
from indexer.building.factory import Choice
from indexer.building.items import MAIN_FILES, write_rows
from indexer.files import DELTA_FILES, VECTORS_FILE, write_vectors
from indexer.filters.attribute_index import AttributeIndexBuilder
from indexer.index import Index, VectorDimError
from indexer.publish import LoadedIndex, current_index, load_index, publish
from indexer.reindex import IndexSpec, reindex
from indexer.search.ann import EXACT
from indexer.search.search import Exclusions
from indexer.users import (
    EMBEDDING_DIM,
    FOLDER,
    ZeroVectorError,
    audience,
    row_width,
    similar_users,
    user_change,
    user_rows,
    vectors_of,
)
from store.artifact import DamagedArtifactError, build, new_id, read_manifest, read_pointer
from store.export import Export, create_export
from store.home import Home
from store.store import Store

ItemChange = Callable[[str], None]
AS_ALWAYS, ANEW = IndexSpec(), IndexSpec(full=True)


def user_index(parent: Path, vectors: Sequence[Sequence[float]] | np.ndarray, factory: str = EXACT) -> Index:
    """Return a user index over vectors; user n is called un."""
    given = np.asarray(vectors, dtype=np.float32)
    folder, rows = parent / "built", user_rows(given)
    folder.mkdir()
    write_vectors(folder / VECTORS_FILE, [rows], rows.shape[1])
    names = pa.table(
        {
            "item_id": [f"u{n}" for n in range(len(rows))],
            **{name: pa.array([bytes(16)] * len(rows), pa.binary(16)) for name in ("content", "facts")},
        }
    )
    write_rows(folder, names, np.arange(len(rows), dtype=np.float32), AttributeIndexBuilder())
    queries = rows[:128].copy()
    queries[:, -1] = 0
    fitted = fit(folder, queries, Choice(factory, "it is tested", (EXACT,)), 0.99)
    facts = {"model_id": "m", "dim": rows.shape[1], EMBEDDING_DIM: given.shape[1]}
    return Index(parent / "laid", lay_out(folder, parent / "laid", fitted, facts))


def random_users(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Return vectors whose lengths differ a lot."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim)) * rng.lognormal(0, 1, (count, 1))
    return np.asarray(vectors, dtype=np.float32)


def test_cosines_and_audience_by_hand(tmp_path: Path) -> None:
    users = user_index(tmp_path, [[3, 4], [1, 0], [0, 2]])
    rows, cosines = similar_users(users, np.array([[2, 0]], np.float32), 3)
    assert users.item_ids(rows[0]) == ["u1", "u0", "u2"]
    np.testing.assert_allclose(cosines[0], [1.0, 0.6, 0.0], atol=1e-6)
    rows, scores = audience(users, np.array([[1, 1]], np.float32), 5)
    assert users.item_ids(rows[0, :3]) == ["u0", "u2", "u1"]
    np.testing.assert_allclose(scores[0, :3], [7, 2, 1], rtol=1e-6)
    assert rows[0, 3:].tolist() == [-1, -1]
    assert np.isneginf(scores[0, 3:]).all()
    np.testing.assert_allclose(vectors_of(users, np.array([0, 2])), [[3, 4], [0, 2]], rtol=1e-6)


def test_a_row_is_padded_to_what_faiss_is_quick_with() -> None:
    assert [row_width(dim) for dim in (2, 15, 16, 128, 385)] == [16, 16, 32, 144, 400]
    assert not user_rows(np.zeros((1, 4), np.float32)).any()


def test_a_user_is_put_replaced_and_taken_out_at_once(tmp_path: Path) -> None:
    users = user_index(tmp_path, [[3, 4], [1, 0]])
    x = np.array([[1, 1]], np.float32)
    users.put([user_change("new", np.array([9, 9], np.float32), 3)], ["u0"])
    rows, scores = audience(users, x, 2)
    assert users.item_ids(rows[0]) == ["new", "u1"]
    np.testing.assert_allclose(scores[0], [18, 1], rtol=1e-6)
    assert users.popularity_of(rows[0]).tolist() == [3, 1]
    users.put([user_change("new", np.array([0, 0], np.float32), 0)])  # nothing is known any more
    assert users.item_ids(similar_users(users, x, 1)[0][0]) == ["u1"]
    assert audience(users, x, 2)[0].tolist() == [[1, -1]]


def test_an_index_without_users_answers_with_nobody(tmp_path: Path) -> None:
    users = user_index(tmp_path, np.zeros((0, 3)))
    for search in (similar_users, audience):
        assert search(users, np.ones((2, 3), np.float32), 2)[0].tolist() == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize("search", [similar_users, audience])
def test_queries_that_mean_nothing_are_refused(tmp_path: Path, search: Callable[..., object]) -> None:
    users = user_index(tmp_path, [[3, 4], [1, 0]])
    with pytest.raises(VectorDimError, match="3 values, but the embedding dim is 2"):
        search(users, np.ones((1, 3), np.float32), 1)
    with pytest.raises(ZeroVectorError, match="query 1 is zero"):
        search(users, np.array([[1, 0], [0, 0]], np.float32), 1)


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Index]:
    """Open an index of fifty users of `random_users`."""
    folder = tmp_path_factory.mktemp("fifty")
    manifest = user_index(folder, random_users(50, 5)).manifest
    return lambda: Index(folder / "laid", manifest)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    k=st.integers(1, 70),
    changed=st.lists(st.integers(0, 60), max_size=12),
    gone=st.lists(st.integers(0, 60), max_size=12),
    without=st.integers(0, 20),
    block=st.sampled_from([1, 700, 1 << 20]),
)
def test_both_searches_equal_brute_force(
    fifty: Callable[[], Index],
    seed: int,
    k: int,
    changed: list[int],
    gone: list[int],
    without: int,
    block: int,
) -> None:
    users = fifty()
    rng = np.random.default_rng(seed)
    left = dict(zip([f"u{n}" for n in range(50)], random_users(50, 5), strict=True))
    for n, vector in zip(changed, random_users(len(changed), 5, seed + 1), strict=True):
        left[f"u{n}"] = vector
        users.put([user_change(f"u{n}", vector, n)])
    users.put([], [f"u{n}" for n in gone])
    left = {name: vector for name, vector in left.items() if int(name[1:]) not in gone}
    out = [f"u{n}" for n in rng.permutation(61)[:without]]
    barred = users.rows(out)
    excluded = Exclusions(np.ones(len(barred), np.int64), barred)  # of the second query alone
    queries = rng.standard_normal((2, 5)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexer.users._BLOCK_BYTES", block)
        found = {
            "cosine": similar_users(users, queries, k, excluded),
            "product": audience(users, queries, k, excluded),
        }
    for q, query in enumerate(queries.astype(np.float64)):
        those = {name: v.astype(np.float64) for name, v in left.items() if not (q and name in out)}
        product = {name: float(query @ v) for name, v in those.items()}
        cosine = {n: s / float(np.linalg.norm(query) * np.linalg.norm(those[n])) for n, s in product.items()}
        for name, wanted in (("cosine", cosine), ("product", product)):
            best = sorted(wanted.values(), reverse=True)[:k]
            rows, scores = found[name][0][q], found[name][1][q]
            assert (rows >= 0).sum() == len(best)
            np.testing.assert_allclose(scores[: len(best)], best, rtol=1e-4, atol=1e-5)
            named = users.item_ids(rows[: len(best)])
            np.testing.assert_allclose([wanted[n] for n in named], best, rtol=1e-4, atol=1e-5)


def test_with_faiss_cosines_reach_the_recall_and_audiences_stay_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((40, 20))
    near = centres[rng.integers(40, size=3_000)] + 0.5 * rng.standard_normal((3_000, 20))
    vectors = np.asarray(near * rng.lognormal(0, 1, (3_000, 1)), np.float32)
    users = user_index(tmp_path, vectors, "IVF16,SQ8")
    assert not users.exact
    asked = vectors[1::60]
    rows, cosines = similar_users(users, asked, 100)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = unit[1::60] @ unit.T
    best = np.argsort(-wanted, axis=1)[:, :100]
    assert np.mean([len(np.intersect1d(*pair)) / 100 for pair in zip(rows, best, strict=True)]) >= 0.98
    np.testing.assert_allclose(cosines, np.take_along_axis(wanted, rows, 1), rtol=1e-4, atol=1e-5)
    assert similar_users(users, asked, 100, exact=True)[0].tolist() == best.tolist()
    items = centres[:5].astype(np.float32)
    assert audience(users, items, 50)[0].tolist() == np.argsort(-(items @ vectors.T), axis=1)[:, :50].tolist()


@pytest.fixture
def home(small_home: Home, tmp_path: Path) -> Home:
    shutil.copytree(small_home.path, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture
def sql(home: Home) -> ItemChange:
    """Run a statement on the store of `home`."""

    def run(statement: str) -> None:
        with Store.open(home.database) as store, store.writing() as cursor:
            cursor.execute(statement)

    return run


def rebuilt(home: Home, spec: IndexSpec = AS_ALWAYS) -> LoadedIndex:
    """Return the index of a new export, which serves from then on where it was made from another."""
    model = Model.load(read_pointer(home.latest_model, home.models))
    encoder = TextEncoder.load(home.text_models / model.text_model_id)
    with Store.open(home.database) as store:
        export_id = create_export(store, home.exports)
    with closing(TextCache.open(home.text_cache)) as cache, Export.open(home.exports / export_id) as export:
        return load_index(home, reindex(home, export, model, encoder, cache, spec).name)


def users_of(pair: LoadedIndex) -> Index:
    assert pair.users is not None
    return pair.users


def contents(users: Index) -> dict[str, tuple[np.ndarray, float]]:
    rows = users.rows(users.ids.to_pylist())
    rows = np.unique(rows[rows >= 0])
    return {
        name: (vector, float(events))
        for name, vector, events in zip(
            users.item_ids(rows), vectors_of(users, rows), users.popularity_of(rows), strict=True
        )
    }


def assert_same(one: Index, other: Index) -> None:
    mine, theirs = contents(one), contents(other)
    assert mine.keys() == theirs.keys()
    for name, (vector, events) in mine.items():
        np.testing.assert_allclose(vector, theirs[name][0], rtol=1e-4, atol=1e-5)
        assert events == theirs[name][1]


def test_every_user_lies_there_with_the_vector_that_the_tower_gives(
    small_home: Home, small_data: Dataset
) -> None:
    pair = load_index(small_home, current_index(small_home).name)
    users, model = users_of(pair), pair.model
    views = dataset_views(small_data, small_data.events(model.config), model.table, model.widths)
    vectors = model.encode_users(views).vectors
    there = np.asarray(vectors.any(axis=1))
    assert users.ids.to_pylist() == [
        name for name, has in zip(small_data.users.to_pylist(), there, strict=True) if has
    ]
    np.testing.assert_allclose(vectors_of(users, np.arange(len(users))), vectors[there], rtol=1e-4, atol=1e-6)
    events = np.bincount(small_data.history.users, minlength=len(there))
    assert users.main.popularity.tolist() == events[there].tolist()
    assert users.manifest["without_vector"] == 0
    asked = vectors[there][:3]
    assert similar_users(users, asked, 1)[0][:, 0].tolist() == [0, 1, 2]


def test_only_who_changed_and_who_follows_them_is_encoded_again(
    home: Home, sql: ItemChange, caplog: pytest.LogCaptureFixture
) -> None:
    base = users_of(load_index(home, current_index(home).name))
    one, writer, _, other = base.ids.to_pylist()[:4]
    item = Index.load(current_index(home)).ids[0].as_py()
    sql("DELETE FROM data.social")
    sql(f"INSERT INTO data.social (user_id, friend_id) VALUES ('{other}', '{one}')")
    publish(home, rebuilt(home, ANEW).index.index_id)
    sql(f"INSERT INTO data.behaviors (user_id, item_id) VALUES ('{one}', '{item}'), ('newcomer', '{item}')")
    sql(f"INSERT INTO data.texts (user_id, text) VALUES ('{writer}', 'Gardens at night')")
    sql(f"INSERT INTO data.behaviors (user_id, item_id, split) VALUES ('{base.ids[9]}', '{item}', 'test')")
    with caplog.at_level(logging.INFO):
        pair = rebuilt(home)
    users = users_of(pair)
    assert "reindex: 4 users changed" in caplog.text
    assert sorted(change.item_id for change in users.delta.changes()) == sorted(
        [one, writer, other, "newcomer"]
    )
    assert users.manifest["changes"] == 4
    assert_same(users, users_of(rebuilt(home, ANEW)))
    publish(home, pair.index.index_id)
    sql(f"DELETE FROM data.texts WHERE user_id = '{writer}'")
    assert_same(users_of(rebuilt(home)), users_of(rebuilt(home, ANEW)))


def test_the_main_part_is_taken_over_as_a_copy(home: Home, sql: ItemChange) -> None:
    before = current_index(home)
    sql("INSERT INTO data.texts (user_id, text) SELECT user_id, 'Gardens' FROM data.texts LIMIT 1")
    after = home.indexes / rebuilt(home).index.index_id
    for name in MAIN_FILES:
        one, other = before / FOLDER / name, after / FOLDER / name
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_ino != other.stat().st_ino  # damage to one is none to the other


def test_nothing_changed_encodes_nobody(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        users = users_of(rebuilt(home))
    assert "0 users changed" in caplog.text
    assert users.manifest["changes"] == 0
    assert_same(users, users_of(load_index(home, current_index(home).name)))


def test_an_erased_user_is_out_and_in_no_file(
    home: Home, sql: ItemChange, caplog: pytest.LogCaptureFixture
) -> None:
    base = users_of(load_index(home, current_index(home).name))
    erased = base.ids[7].as_py()
    row = base.vectors_of(base.rows([erased]))
    for table in ("behaviors", "texts", "social"):
        sql(f"DELETE FROM data.{table} WHERE user_id = '{erased}'")
    sql(f"DELETE FROM data.social WHERE friend_id = '{erased}'")
    with caplog.at_level(logging.INFO):
        pair = rebuilt(home)
    users = users_of(pair)
    assert pair.index.manifest["base"] == current_index(home).name  # the items were taken over
    assert users.rows([erased]).tolist() == [-1]
    assert "1 went: building the user index anew" in caplog.text
    assert f"encoding {len(_followers(home, erased))} of {len(users)} users" in caplog.text
    for path in (home.indexes / pair.index.index_id / FOLDER).iterdir():
        assert erased.encode() not in path.read_bytes()
        assert row.tobytes() not in path.read_bytes()
    assert_same(users, users_of(rebuilt(home, ANEW)))


def _followers(home: Home, user_id: str) -> list[str]:
    """Return who named somebody a friend in the export that an index was made of."""
    with Export.open(home.exports / read_manifest(current_index(home))["export_id"]) as export:
        friends = export.friends().to_pylist()
    return [row["user_id"] for row in friends if row["friend_id"] == user_id]


def test_many_changes_build_the_users_anew_beside_the_same_items(
    home: Home, sql: ItemChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.building.incremental.ALWAYS", 3)
    sql("INSERT INTO data.texts (user_id, text) SELECT DISTINCT user_id, 'Gardens' FROM data.behaviors")
    pair = rebuilt(home)
    assert pair.index.manifest["base"] == current_index(home).name
    assert users_of(pair).manifest["changes"] == 0
    assert_same(users_of(pair), users_of(rebuilt(home, ANEW)))


def test_users_whom_the_model_cannot_encode_are_counted_and_left_out(home: Home, sql: ItemChange) -> None:
    sql("INSERT INTO data.items (item_id, title) VALUES ('fresh', 'Too new for the model')")
    sql("INSERT INTO data.behaviors (user_id, item_id) VALUES ('early', 'fresh')")
    sql("INSERT INTO data.social (user_id, friend_id) VALUES ('lonely', 'stranger')")
    for spec in (AS_ALWAYS, ANEW):
        users = users_of(rebuilt(home, spec))
        assert users.rows(["early", "lonely", "stranger"]).tolist() == [-1, -1, -1]
        assert users.manifest["without_vector"] == 1  # the others have nothing to be encoded


def test_users_of_a_killed_build_are_not_encoded_again(
    home: Home, sql: ItemChange, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("indexer.reindex.assemble_index", stop)
        with pytest.raises(KeyboardInterrupt):
            rebuilt(home, ANEW)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        users = users_of(rebuilt(home, ANEW))
    assert "rows of an earlier run go on" in caplog.text
    assert "encoding" not in caplog.text
    assert_same(users, users_of(load_index(home, current_index(home).name)))


CHANGES = {
    "INSERT INTO data.behaviors (user_id, item_id) VALUES ('a', 'z')": {"a", "b"},
    "UPDATE data.behaviors SET weight = 2 WHERE user_id = 'a'": {"a", "b"},
    "UPDATE data.behaviors SET ts = '2020-01-01' WHERE user_id = 'b'": {"b"},
    "UPDATE data.behaviors SET split = 'train' WHERE split IS NULL": set(),
    "UPDATE data.behaviors SET split = 'test' WHERE user_id = 'b'": {"b"},
    "INSERT INTO data.texts (user_id, text, occurrence) VALUES ('a', 'one', 2)": {"a"},
    "UPDATE data.texts SET ts = '2020-01-01'": set(),  # of what T is made, no part
    "UPDATE data.social SET weight = 3": {"b", "c"},
    "INSERT INTO data.items (item_id) VALUES ('new')": set(),
}


@pytest.mark.parametrize("statement", CHANGES)
def test_the_content_hash_of_a_user_moves_with_what_the_vector_is_made_from(
    tmp_path: Path, statement: str
) -> None:
    found = []
    with Store.open(tmp_path / "views.duckdb") as store:
        with store.writing() as cursor:
            cursor.execute("INSERT INTO data.items (item_id) VALUES ('x'), ('z')")
            cursor.execute("""INSERT INTO data.behaviors (user_id, item_id, split) VALUES
                ('a', 'x', NULL), ('b', 'x', NULL), ('c', 'x', 'valid')""")
            cursor.execute("INSERT INTO data.texts (user_id, text) VALUES ('a', 'one')")
            cursor.execute("""INSERT INTO data.social (user_id, friend_id) VALUES
                ('b', 'a'), ('c', 'd'), ('d', 'd')""")
        for change in (None, statement):
            if change:
                with store.writing() as cursor:
                    cursor.execute(change)
            with Export.open(tmp_path / "exports" / create_export(store, tmp_path / "exports")) as export:
                found.append({row["user_id"]: row for row in export.user_hashes().to_pylist()})
    before, after = found
    assert {name: (row["events"], row["blank"]) for name, row in before.items()} == {
        "a": (1, False), "b": (1, False), "c": (0, True), "d": (0, True)}  # fmt: skip
    assert {name for name in before if before[name]["content"] != after[name]["content"]} == CHANGES[
        statement
    ]


@pytest.fixture
def older(home: Home) -> str:
    """The id of an index like the one that serves, made before there were user indexes; it serves."""
    source = current_index(home)
    index_id = new_id()
    with build(home.indexes, index_id) as draft:
        for path in source.iterdir():
            if path.is_file() and path.name != "manifest.json":
                shutil.copyfile(path, draft.path / path.name)
        draft.facts = {
            name: fact for name, fact in read_manifest(source).items() if name not in ("files", FOLDER)
        }
    publish(home, index_id)
    return index_id


def test_an_index_from_before_user_indexes_still_serves_and_gets_one(home: Home, older: str) -> None:
    assert load_index(home, older).users is None
    pair = rebuilt(home)
    assert pair.index.manifest["base"] == older
    assert_same(users_of(pair), users_of(rebuilt(home, ANEW)))


@pytest.fixture(scope="module")
def files(small_home: Home) -> Path:
    return current_index(small_home)


@pytest.mark.parametrize("name", [*MAIN_FILES, *DELTA_FILES])
def test_any_damage_to_any_file_of_the_users_is_refused_and_named(
    files: Path, tmp_path: Path, name: str
) -> None:
    directory = tmp_path / files.name
    shutil.copytree(files, directory)
    assert {path.name for path in (directory / FOLDER).iterdir()} == {*MAIN_FILES, *DELTA_FILES}
    path = directory / FOLDER / name
    raw = path.read_bytes()
    middle = len(raw) // 2
    for damaged in (raw[:-1], raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :], None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(DamagedArtifactError, match=f"{FOLDER}/{name}"):
            Index.load(directory)
