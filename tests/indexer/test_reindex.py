"""Building, going on after a kill, and the cheap reindex of what changed."""

import json
import logging
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoder.runtime import Model
from encoder.text.cache import TextCache
from encoder.text.encoder import TextEncoder
from indexer import reindex as flow
from indexer.building.build_checkpoint import ReindexRunsError, open_checkpoint
from indexer.building.factory import Choice, choose, lists_for
from indexer.building.items import MAIN_FILES
from indexer.index import Index
from indexer.publish import current_index, publish
from indexer.reindex import IndexSpec, reindex
from indexer.users import FOLDER
from store.artifact import DamagedArtifactError, artifacts, read_pointer, sha256
from store.export import Export, create_export
from store.home import Home
from store.imports.run import import_folder
from store.store import Store


@pytest.fixture
def home(small_home: Home, tmp_path: Path) -> Home:
    shutil.copytree(small_home.path, tmp_path / "home")
    return Home(tmp_path / "home")


AS_ALWAYS = IndexSpec()


@dataclass
class Written:
    item_id: str
    title: str
    kind: str = "film"
    attributes: str = "{}"
    available: bool = True
    vector: list[float] | None = None


def put(home: Home, *items: Written) -> None:
    folder = home.path / "more"
    folder.mkdir(exist_ok=True)
    columns = {name: [getattr(i, name) for i in items] for name in Written.__dataclass_fields__}
    columns["vector"] = pa.array(columns["vector"], pa.list_(pa.float32()))
    table = pa.table(columns)
    pq.write_table(table, folder / "items.parquet")
    with Store.open(home.database) as store:
        import_folder(store, folder, rejects=home.rejects, strict=True)


def rebuilt(home: Home, spec: IndexSpec = AS_ALWAYS) -> Index:
    """Return the index of a new export."""
    model = Model.load(read_pointer(home.latest_model, home.models))
    encoder = TextEncoder.load(home.text_models / model.text_model_id)
    with Store.open(home.database) as store:
        export_id = create_export(store, home.exports)
    with closing(TextCache.open(home.text_cache)) as cache, Export.open(home.exports / export_id) as export:
        return Index.load(reindex(home, export, model, encoder, cache, spec))


def contents(index: Index) -> dict[str, tuple[bytes, float]]:
    rows = index.rows(index.ids.to_pylist())
    rows = np.unique(rows[rows >= 0])
    described = zip(index.vectors_of(rows), index.popularity_of(rows), strict=True)
    return {i: (v.tobytes(), float(p)) for i, (v, p) in zip(index.item_ids(rows), described, strict=True)}


def test_what_changed_is_written_beside_what_serves(home: Home) -> None:
    base = Index.load(current_index(home))
    known, gone, renamed = base.ids.to_pylist()[:3]
    put(
        home,
        Written("new", "A new film about gardens", attributes='{"year": 1999}'),
        Written("empty", ""),
        Written(known, "Another title", "song"),
        Written(gone, "No longer there", available=False),
    )
    index = rebuilt(home)
    assert index.manifest["base"] == base.index_id
    assert (index.manifest["changes"], len(index)) == (2, len(base))
    again = rebuilt(home, IndexSpec(full=True))
    assert "base" not in again.manifest
    assert contents(index) == contents(again)
    for name in MAIN_FILES:
        one, other = (home.indexes / i.index_id / name for i in (base, index))
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_ino != other.stat().st_ino  # damage to one is none to the other
    publish(home, index.index_id)
    put(home, Written(known, "Another title", available=False), Written(renamed, "A third title"))
    third = rebuilt(home)
    assert third.manifest["base"] == index.index_id
    assert contents(third) == contents(rebuilt(home, IndexSpec(full=True)))


def test_files_are_hashed_when_they_are_written_and_when_they_are_read_back(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: Counter[tuple[bool, str]] = Counter()

    def counted(path: Path) -> str:
        hashed[path.parent.name == FOLDER, path.name] += 1
        return sha256(path)

    for module in ("store.artifact", "indexer.building.build_checkpoint"):
        monkeypatch.setattr(f"{module}.sha256", counted)
    rebuilt(home, IndexSpec(factory="IVF4,Flat", full=True))
    files = [(of_users, name) for name in MAIN_FILES for of_users in (False, True)]
    # Once as written, once as read back by reindex, once as loaded by this test.
    assert {hashed[file] for file in [*files, (False, "items.000.faiss")]} == {3}


def test_vectors_that_the_model_knows_nothing_of_are_told_and_count_for_nothing(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    put(
        home,
        Written("told", "Gardens of the north"),
        Written("seen", "Gardens of the north", vector=[3.0, 4.0]),
    )
    index = rebuilt(home, IndexSpec(full=True))
    told, seen = index.vectors_of(index.rows(["told", "seen"]))
    np.testing.assert_array_equal(told, seen)
    assert "1 items bring vectors of a length that the model knows nothing of" in caplog.text


def test_nothing_changed_is_no_work(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        index = rebuilt(home)
    assert index.manifest["changes"] == 0
    assert "0 items changed and 0 went" in caplog.text
    assert contents(index) == contents(Index.load(current_index(home)))


def test_many_changes_are_built_anew(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.building.incremental.ALWAYS", 3)
    put(home, *(Written(f"new{n}", f"Film number {n}") for n in range(12)))
    assert "base" not in rebuilt(home).manifest


@pytest.mark.parametrize("spec", [IndexSpec("HNSW8"), IndexSpec(ann_recall=0.9)])
def test_another_spec_is_built_anew(home: Home, spec: IndexSpec) -> None:
    assert "base" not in rebuilt(home, spec).manifest


def test_a_damaged_base_is_not_built_on(home: Home) -> None:
    base = current_index(home)
    (base / "facts.safetensors").write_bytes(b"x")
    index = rebuilt(home)
    assert "base" not in index.manifest
    with pytest.raises(DamagedArtifactError, match=r"facts\.safetensors"):
        Index.load(base)


class StoppedError(Exception):
    pass


def stopped(home: Home, spec: IndexSpec, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return what a build leaves behind that ends just before its index is sealed."""

    def stop(*_: object) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(flow, "assemble_index", stop)
        with pytest.raises(StoppedError):
            rebuilt(home, spec)
    (left,) = home.indexes.glob(".spool-*")
    return left


def test_a_killed_build_goes_on_where_it_was(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = IndexSpec("IVF2,Flat", full=True)
    before = artifacts(home.indexes)
    left = stopped(home, spec, monkeypatch)
    assert artifacts(home.indexes) == before
    with caplog.at_level(logging.INFO):
        index = rebuilt(home, spec)
    assert "items of an earlier run go on" in caplog.text
    assert "IVF2-Flat-0 of an earlier run go on" in caplog.text
    assert not left.exists()
    assert contents(index) == contents(Index.load(current_index(home)))


def test_what_a_killed_build_left_damaged_is_made_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    left = stopped(home, IndexSpec(full=True), monkeypatch)
    with (left / "vectors.safetensors").open("r+b") as file:
        file.seek(2_000)
        file.write(b"damage")
    assert contents(rebuilt(home, IndexSpec(full=True))) == contents(Index.load(current_index(home)))


def test_two_builds_of_one_index_do_not_mix(tmp_path: Path) -> None:
    with open_checkpoint(tmp_path, "a"):
        with (
            pytest.raises(ReindexRunsError, match="another reindex works in"),
            open_checkpoint(tmp_path, "a"),
        ):
            pass
        with open_checkpoint(tmp_path, "b"):
            assert len(list(tmp_path.glob(".spool-*"))) == 2  # nobody sweeps what is in use
    assert not list(tmp_path.glob(".spool-*"))


def test_facts_of_the_export_can_be_filtered_by(home: Home) -> None:
    from indexer.filters.filter import Filter

    with Export.latest(home.exports) as export:
        items = export.items(available_only=True).to_pylist()
    year = json.loads(items[0]["attributes"])["year"]
    wanted = Filter(kinds=(items[0]["kind"],), ranges=(("year", year, year),))
    expected = {
        i["item_id"]
        for i in items
        if i["kind"] == items[0]["kind"] and json.loads(i["attributes"])["year"] == year
    }
    index = Index.load(current_index(home))
    rows = index.search(np.ones((1, index.dim), np.float32), 500, None, wanted)[0][0]
    assert set(index.item_ids(rows[rows >= 0])) == expected


def test_the_kind_follows_items_and_memory() -> None:
    assert choose(50_000, 128) == Choice("Flat", choose(50_000, 128).reason)
    assert choose(1_000_000, 128, 1 << 30).factory == "IVF4096,SQ8"
    small = choose(1_000_000, 128, 64 << 20)
    assert small.factory == "RR128,IVF4096,RaBitQ"
    assert small.fallbacks == ("IVF4096,SQ8", "IVF4096,Flat", "Flat")
    assert "64 MiB" in small.reason
    odd = choose(1_000_000, 385, 1 << 30)  # codes of a width that FAISS is slow with are padded
    assert (odd.factory, odd.fallbacks) == ("Pad400,IVF4096,SQ8", ("IVF4096,Flat", "Flat"))
    assert choose(1_000_000, 128, 1 << 30, card=True).factory == "Flat"
    assert choose(1_000_001, 128, 1 << 30, card=True).factory == "IVF4096,SQ8"
    assert [lists_for(n) for n in (100_000, 1_000_000, 10_000_000)] == [1024, 4096, 16384]


def test_a_recall_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ANN recall 1\.5 is not in"):
        IndexSpec(ann_recall=1.5)
