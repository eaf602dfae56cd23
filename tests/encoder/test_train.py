import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest

from encoder import train as training
from encoder.config import TowerConfig
from encoder.dataset import hold_out, load_dataset
from encoder.fit import TrainOptions, fit
from encoder.left_out import LeftOutIds, LeftOutShares
from encoder.model_files import METRICS_FILE
from encoder.preflight import NothingToLearnError
from encoder.runtime import USER_GRAPH, Model
from encoder.text.cache import TextCache, encode_with_cache
from encoder.text.encoder import TextEncoder
from encoder.train import ParityError, train
from store.artifact import DamagedArtifactError, artifacts, build, read_pointer
from store.export import Export, create_export
from store.home import Home
from store.store import Store

FIXED = TrainOptions(base=TowerConfig(dim=16, damping=0.1), search=False)


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    copy = tmp_path_factory.mktemp("train") / "home"
    shutil.copytree(small_home.path, copy)
    return Home(copy)


@pytest.fixture(scope="module")
def encoder(home: Home) -> TextEncoder:
    (name,) = [p.name for p in home.text_models.iterdir() if p != home.text_cache]
    return TextEncoder.load(home.text_models / name)


@pytest.fixture(scope="module")
def cache(home: Home) -> Iterator[TextCache]:
    with closing(TextCache.open(home.text_cache)) as opened:
        yield opened


@pytest.fixture
def export(home: Home) -> Iterator[Export]:
    with Export.latest(home.exports) as opened:
        yield opened


def test_training_publishes_a_model_that_says_what_it_is(
    home: Home, export: Export, encoder: TextEncoder, cache: TextCache
) -> None:
    directory = train(home, export, encoder, cache, FIXED)
    assert read_pointer(home.latest_model, home.models) == directory
    model = Model.load(directory)
    assert (model.export_id, model.text_model_id) == (export.export_id, encoder.text_model_id)
    assert (model.dim, model.text_dim) == (16, encoder.dim)
    assert model.config == FIXED.base
    assert model.item_ids.to_pylist() == export.items().column("item_id").to_pylist()
    metrics = json.loads((directory / METRICS_FILE).read_text("utf-8"))
    assert metrics["views"] == {"H": True, "T": True, "S": True}
    assert metrics["trials"] == []


def test_vectors_of_texts_lie_in_a_file_and_not_in_memory(
    export: Export, encoder: TextEncoder, cache: TextCache
) -> None:
    texts = load_dataset(export, encoder, cache).texts
    assert isinstance(texts.vectors.base, np.memmap)
    wanted = encode_with_cache(encoder, cache, export.texts().column("text").to_pylist(), "texts")
    np.testing.assert_array_equal(texts.vectors, wanted)
    assert texts.where(np.ones(len(wanted), dtype=bool)) is texts


def test_the_same_seed_trains_the_same_model(
    home: Home, export: Export, encoder: TextEncoder, cache: TextCache
) -> None:
    first, second = (Model.load(train(home, export, encoder, cache, FIXED)) for _ in range(2))
    np.testing.assert_array_equal(first.table, second.table)
    np.testing.assert_array_equal(first.id_vectors, second.id_vectors)
    assert first.model_id != second.model_id


def test_the_exported_graph_agrees_with_the_reference_on_real_views(
    home: Home, export: Export, encoder: TextEncoder, cache: TextCache
) -> None:
    data = load_dataset(export, encoder, cache)
    tower = fit(data, FIXED, home.training).tower
    model = Model.load(train(home, export, encoder, cache, FIXED))
    views = tower.views(data)
    encoded = model.encode_users(views)
    np.testing.assert_allclose(encoded.parts, tower.parts(views), atol=1e-5)
    np.testing.assert_array_equal(encoded.used, tower.parts(views).any(axis=2))
    np.testing.assert_allclose(
        model.encode_items(model.id_vectors, model.content_encoder.encode(data.item_content)),
        tower.item_vectors(data),
        atol=1e-5,
    )


def test_users_left_out_are_named_and_not_learned_from(
    home: Home, export: Export, encoder: TextEncoder, cache: TextCache
) -> None:
    options = TrainOptions(base=FIXED.base, search=False, left_out=LeftOutShares(users=0.2, seed=4), seed=4)
    directory = train(home, export, encoder, cache, options)
    left_out = set(LeftOutIds.load(directory).users.to_pylist())
    assert 20 < len(left_out) < 60
    history = export.history().to_pylist()
    seen = {(row["user_id"], row["item_id"]) for row in history if row["user_id"] not in left_out}
    assert Model.load(directory).popularity.sum() == len(seen)


def test_without_valid_a_tenth_of_train_chooses_and_the_whole_is_refitted(
    home: Home, encoder: TextEncoder, cache: TextCache
) -> None:
    with Store.open(home.database) as store:
        events = store.visible_events(held_out=True)
        valid = [s == "valid" for s in events.column("split").to_pylist()]
        marks = events.filter(valid)
        none = marks.set_column(marks.schema.get_field_index("split"), "split", [[None] * len(marks)])
        store.write_splits(none, reset=False)
        export_id = create_export(store, home.exports)
        store.write_splits(marks, reset=False)
    with Export.open(home.exports / export_id) as export:
        assert export.manifest["held_out"]["valid"] == 0
        directory = train(home, export, encoder, cache, TrainOptions(dims=(16,)))
        pairs = {(row["user_id"], row["item_id"]) for row in export.history().to_pylist()}
    metrics = json.loads((directory / METRICS_FILE).read_text("utf-8"))
    assert metrics["chosen_on"] == "a tenth of train"
    assert Model.load(directory).popularity.sum() == len(pairs)  # the refit saw every row
    shutil.rmtree(home.exports / export_id)


def test_rows_held_out_of_train_take_the_texts_that_name_them_along(
    export: Export, encoder: TextEncoder, cache: TextCache
) -> None:
    data = load_dataset(export, encoder, cache)
    named = [t for t in export.texts().to_pylist() if t["item_id"] is not None]
    rows = np.zeros(len(data.history.users), dtype=bool)
    rows[::3] = True
    held = hold_out(data, rows, "inner")
    assert len(held.history.users) + len(held.held_out["inner"].users) == len(data.history.users)
    moved = {
        (data.users[u].as_py(), data.items[i].as_py())
        for u, i in zip(held.held_out["inner"].users, held.held_out["inner"].items, strict=True)
    }
    affected = {t["user_id"] for t in named if (t["user_id"], t["item_id"]) in moved}
    changed = {data.users[int(u)].as_py() for u in np.flatnonzero((held.text != data.text).any(axis=1))}
    assert changed <= affected
    assert bool(changed) == bool(affected)


def test_nothing_to_learn_from_is_an_error(
    tmp_path: Path, home: Home, encoder: TextEncoder, cache: TextCache
) -> None:
    with Store.open(tmp_path / "empty.duckdb") as store:
        export_id = create_export(store, tmp_path / "exports")
    with (
        Export.open(tmp_path / "exports" / export_id) as empty,
        pytest.raises(NothingToLearnError, match="has no behaviours"),
    ):
        train(home, empty, encoder, cache, FIXED)


def test_a_graph_that_differs_from_the_reference_is_not_published(
    home: Home, export: Export, encoder: TextEncoder, cache: TextCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PARITY", 0.0)
    before = artifacts(home.models)
    with pytest.raises(ParityError, match="user tower differs from its reference"):
        train(home, export, encoder, cache, FIXED)
    assert artifacts(home.models) == before


def test_any_damage_to_a_model_is_refused_and_named(home: Home, tmp_path: Path) -> None:
    intact = read_pointer(home.latest_model, home.models)
    for name in sorted(p.name for p in intact.iterdir()):
        copy = tmp_path / name / intact.name
        shutil.copytree(intact, copy)
        raw = bytearray((copy / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (copy / name).write_bytes(raw)
        with pytest.raises(DamagedArtifactError, match=name):
            Model.load(copy)


def test_a_graph_of_another_model_is_refused(home: Home, tmp_path: Path) -> None:
    intact = read_pointer(home.latest_model, home.models)
    with build(tmp_path, intact.name) as draft:
        draft.facts = {"kind": "model", "export_id": "e", "text_model_id": "t"}
        for path in intact.iterdir():
            if path.name != "manifest.json":
                shutil.copy(path, draft.path)
        graph = onnx.load(draft.path / USER_GRAPH)
        onnx.helper.set_model_props(graph, {"model_id": "another"})
        onnx.save(graph, draft.path / USER_GRAPH)
    with pytest.raises(DamagedArtifactError, match=f"{USER_GRAPH}: belongs to model 'another'"):
        Model.load(tmp_path / intact.name)


def test_an_artifact_that_is_no_model_is_refused(home: Home) -> None:
    with pytest.raises(DamagedArtifactError, match="'export', not a model"):
        Model.load(home.exports / artifacts(home.exports)[0])
