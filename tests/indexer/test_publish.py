import shutil
from contextlib import closing
from pathlib import Path

import pytest

from encoder.runtime import Model
from encoder.text.cache import TextCache
from encoder.text.encoder import TextEncoder
from indexer.index import Index
from indexer.publish import (
    IndexNotFoundError,
    NoOlderIndexError,
    current_index,
    load_index,
    previous_index,
    prune,
    publish,
)
from indexer.reindex import IndexSpec, ModelMismatchError, reindex
from store.artifact import DamagedArtifactError, NotPublishedError, artifacts, read_pointer
from store.export import Export
from store.home import Home


@pytest.fixture
def home(small_home: Home, tmp_path: Path) -> Home:
    shutil.copytree(small_home.path, tmp_path / "home")
    return Home(tmp_path / "home")


def another_index(home: Home, factory: str = "Flat", *, full: bool = True) -> str:
    model = Model.load(read_pointer(home.latest_model, home.models))
    encoder = TextEncoder.load(home.text_models / model.text_model_id)
    with closing(TextCache.open(home.text_cache)) as cache, Export.latest(home.exports) as export:
        return reindex(home, export, model, encoder, cache, IndexSpec(factory, full=full)).name


def test_reindex_leaves_current_alone_and_publish_moves_it(home: Home) -> None:
    before = current_index(home).name
    new = another_index(home)
    assert current_index(home).name == before
    pair = publish(home, new)
    assert (pair.index.index_id, pair.index.model_id) == (new, pair.model.model_id)
    assert current_index(home).name == new
    assert previous_index(home) == before


def test_the_index_holds_the_available_items_with_the_model_s_vectors(home: Home) -> None:
    pair = load_index(home, another_index(home, "HNSW16"))
    with Export.latest(home.exports) as export:
        available = export.items(available_only=True).column("item_id").to_pylist()
    assert pair.index.ids.to_pylist() == available
    rows = [pair.model.item_ids.to_pylist().index(i) for i in available[:20]]
    known = pair.model.id_vectors[rows].any(axis=1)
    assert (pair.index.main.vectors[:20][known] == pair.model.id_vectors[rows][known]).all()
    assert pair.index.manifest["ann_recall@100"] >= 0.99
    assert not pair.index.exact


def test_rolling_back_from_the_oldest_is_refused(home: Home) -> None:
    with pytest.raises(NoOlderIndexError, match="no index older than"):
        previous_index(home)


def test_an_unknown_index_is_named_with_those_there_are(home: Home) -> None:
    with pytest.raises(IndexNotFoundError, match=f"no index 'x'; there are: {current_index(home).name}"):
        publish(home, "x")


def test_prune_keeps_the_newest_and_the_one_that_serves(home: Home) -> None:
    serving = current_index(home).name
    newer = [another_index(home) for _ in range(3)]
    assert prune(home, keep=1) == newer[:2]
    assert artifacts(home.indexes) == [serving, newer[2]]
    assert not [p for p in home.indexes.iterdir() if p.name.startswith(".")]


def test_an_index_without_its_model_is_refused(home: Home) -> None:
    index = Index.load(current_index(home))
    (home.models / index.model_id).rename(home.models / ".gone")
    with pytest.raises(DamagedArtifactError, match=f"{index.model_id}: is missing and index"):
        load_index(home, index.index_id)


def test_a_pointer_to_nothing_is_refused_and_named(home: Home) -> None:
    home.current_index.write_text("nowhere\n", "utf-8")
    with pytest.raises(DamagedArtifactError, match="CURRENT: names 'nowhere'"):
        current_index(home)
    home.current_index.unlink()
    with pytest.raises(NotPublishedError, match="CURRENT"):
        current_index(home)


def test_a_model_is_not_used_with_another_language_model(home: Home) -> None:
    model = Model.load(read_pointer(home.latest_model, home.models))
    encoder = TextEncoder.load(home.text_models / model.text_model_id)
    encoder.text_model_id = "another"
    with (
        closing(TextCache.open(home.text_cache)) as cache,
        Export.latest(home.exports) as export,
        pytest.raises(ModelMismatchError, match="not 'another'"),
    ):
        reindex(home, export, model, encoder, cache)
