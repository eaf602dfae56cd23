"""A reindex whose work is divided makes the files that one process makes, whatever happens to a worker."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from encoder.jobs import IN_PROCESS, Jobs, open_jobs
from encoder.runtime import Model
from encoder.text import TextCache, TextEncoder
from indexer.reindex import IndexSpec, reindex
from store.artifact import read_pointer
from store.export import Export
from store.home import Home

SPEC = IndexSpec("IVF2,Flat", full=True)


@pytest.fixture(scope="module")
def two() -> Iterator[Jobs]:
    with open_jobs(2) as jobs:
        yield jobs


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts of everything, also of so few items and people; workers are told them, not the sizes."""
    for module in ("items", "parts"):
        monkeypatch.setattr(f"indexer.building.{module}.ITEM_BATCH", 64)
    for module in ("sample", "users", "parts"):
        monkeypatch.setattr(f"indexer.building.{module}.USER_BATCH", 64)
    monkeypatch.setattr("encoder.text.cache.CHUNK", 32)
    monkeypatch.setattr("encoder.text.parts.CHUNK", 32)
    monkeypatch.setattr("indexer.building.shards.SHARD_ITEMS", 64)
    monkeypatch.setattr("indexer.building.ground_truth.PART_ROWS", 50)


def copy(small_home: Home, path: Path) -> Home:
    """A copy of the home that has encoded no text yet."""
    shutil.copytree(small_home.path, path)
    shutil.rmtree(Home(path).text_cache)
    return Home(path)


def built(home: Home, jobs: Jobs) -> dict[str, bytes]:
    """The files of an index that some workers build, by name, and what its manifest says of them."""
    model = Model.load(read_pointer(home.latest_model, home.models))
    encoder = TextEncoder.load(home.text_models / model.text_model_id)
    with Export.latest(home.exports) as export, closing(TextCache.open(home.text_cache)) as cache:
        directory = reindex(home, export, model, encoder, cache, SPEC, jobs)
    assert not list(home.indexes.glob(".spool-*"))
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def without_manifest(files: dict[str, bytes]) -> dict[str, bytes]:
    """All files but the manifest, which has measured times in what it chooses for filters."""
    return {name: content for name, content in files.items() if not name.endswith("manifest.json")}


def cached(home: Home) -> dict[bytes, bytes]:
    import lmdb

    with lmdb.open(str(home.text_cache), readonly=True, lock=False) as env, env.begin() as transaction:
        return {bytes(k): bytes(v) for k, v in transaction.cursor() if not k.startswith(b"\0")}


@pytest.mark.usefixtures("small_parts")
def test_two_processes_make_the_files_of_one(small_home: Home, two: Jobs, tmp_path: Path) -> None:
    one, other = copy(small_home, tmp_path / "one"), copy(small_home, tmp_path / "other")
    alone, divided = built(one, IN_PROCESS), built(other, two)
    assert sorted(alone) == sorted(divided)
    assert sum(name.endswith(".faiss") for name in alone) == 3
    assert without_manifest(alone) == without_manifest(divided)
    assert cached(one) == cached(other)
