"""A small home whose work is divided into many parts, and what a reindex makes of it."""

import shutil
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from encoder.jobs import Jobs
from encoder.runtime import Model
from encoder.text import TextCache, TextEncoder
from indexer.reindex import IndexSpec, reindex
from store.artifact import read_pointer
from store.export import Export
from store.home import Home

SPEC = IndexSpec("IVF2,Flat", full=True)
SIZES = {
    "indexer.building.items.ITEM_BATCH": 64,
    "indexer.building.parts.ITEM_BATCH": 64,
    "indexer.building.sample.USER_BATCH": 64,
    "indexer.building.users.USER_BATCH": 64,
    "indexer.building.parts.USER_BATCH": 64,
    "encoder.text.cache.CHUNK": 32,
    "encoder.text.parts.CHUNK": 32,
    "indexer.building.shards.SHARD_ITEMS": 64,
    "indexer.building.ground_truth.PART_ROWS": 50,
}


def divide_more(patch: pytest.MonkeyPatch) -> None:
    """Make several parts of everything, also of few items and people; workers are told the parts alone."""
    for name, size in SIZES.items():
        patch.setattr(name, size)


def copy_without_vectors(home: Home, path: Path) -> Home:
    """Copy a home, all whose texts are to be encoded again."""
    shutil.copytree(home.path, path)
    shutil.rmtree(Home(path).text_cache)
    return Home(path)


def built(home: Home, jobs: Jobs) -> dict[str, bytes]:
    """Build an index and return its files by name, without the manifest, in which times are measured."""
    model = Model.load(read_pointer(home.latest_model, home.models))
    encoder = TextEncoder.load(home.text_models / model.text_model_id)
    with Export.latest(home.exports) as export, closing(TextCache.open(home.text_cache)) as cache:
        directory = reindex(home, export, model, encoder, cache, SPEC, jobs)
    assert not list(home.indexes.glob(".spool-*"))
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def cached(home: Home) -> dict[bytes, bytes]:
    """Return what the text cache of a home holds."""
    with lmdb.open(str(home.text_cache), readonly=True, lock=False) as env, env.begin() as transaction:
        return {bytes(key): bytes(value) for key, value in transaction.cursor() if key[:1] != b"\0"}
