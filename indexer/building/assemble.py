"""A finished build as a published directory, after a last check that its search finds what it holds."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from indexer.building.autotune import FittedIndex
from indexer.building.ground_truth import GroundTruth
from indexer.building.items import MAIN_FILES
from indexer.building.users import BuiltUsers
from indexer.files import VECTORS_FILE, faiss_file, map_vectors, read_without_vector, write_delta
from indexer.index import LAYOUT, Index
from indexer.users import FOLDER
from store.artifact import build, new_id


class IndexCheckError(RuntimeError):
    """A freshly built index does not find what brute force finds."""


def assemble_index(
    parent: Path,
    folder: Path,
    fitted: FittedIndex,
    facts: dict[str, Any],
    users: BuiltUsers | None = None,
    digests: Mapping[str, str] = {},
) -> Path:
    """Publish an index whose files lie in a folder, which stays; return its new directory below `parent`.

    Args:
        parent: indexes/.
        folder: with the main part and the FAISS files.
        fitted: what `fit` returned for it.
        facts: for the manifest: model_id, dim and others.
        users: the user index, whose files lie in the folder, too; None makes an index without one.
        digests: sha256 of those files of the main part that were hashed when they were written.

    Raises:
        IndexCheckError: the index does not find what it holds; there is no directory.
    """
    index_id = new_id()
    with build(parent, index_id) as draft:
        draft.facts = lay_out(folder, draft.path, fitted, facts)
        draft.digests |= {**digests, **fitted.files}
        if users is not None:
            draft.facts[FOLDER] = lay_out(folder / FOLDER, draft.path / FOLDER, users.fitted, users.facts)
            draft.digests |= users.digests
    return parent / index_id


def lay_out(folder: Path, target: Path, fitted: FittedIndex, facts: dict[str, Any]) -> dict[str, Any]:
    """Link the files of an index, built in a folder, into `target` and check it; return its manifest.

    Raises:
        IndexCheckError: the index does not find what it holds.
    """
    target.mkdir(exist_ok=True)
    for name in (*MAIN_FILES, *fitted.files):
        _link(folder / name, target / name)
    write_delta(target, read_without_vector(folder, facts["dim"]), facts["dim"], np.zeros(0, dtype=np.int64))
    items = map_vectors(folder / VECTORS_FILE).shape[0]
    manifest = {
        "kind": "index",
        "layout": LAYOUT,
        "items": items,
        "main_items": items,
        "changes": 0,
        **facts,
        **fitted.facts(),
    }
    check(Index(target, manifest))
    return manifest


def copy_changed(source: Path, target: Path, index: Index) -> dict[str, Any]:
    """Copy an index with the changes on top of it; return the entries of its manifest that differ.

    Args:
        source: the directory it was opened from.
        target: where its unchanged files are copied to, and its changes written.
        index: with the changes.
    """
    target.mkdir(exist_ok=True)
    for name in unchanged_files(index):
        # A copy: damage to a file of one index must not reach another.
        shutil.copyfile(source / name, target / name)
    changes = index.delta.changes()
    write_delta(target, changes, index.dim, index.delta.main_removed())
    return {"items": len(index), "changes": sum(change.has_vector for change in changes)}


def unchanged_files(index: Index) -> list[str]:
    """Return the names of the files of an index that changes on top of it do not change."""
    shards = [] if index.exact else [faiss_file(i) for i in range(index.manifest["shards"])]
    return [*MAIN_FILES, *shards]


def check(index: Index, queries: int = 50, k: int = 10) -> float:
    """Search for some of its own items in an index; return the ANN recall@k against brute force.

    Raises:
        IndexCheckError: an exact index misses something, or any index finds less than half.
    """
    vectors = index.main.vectors
    if not len(vectors):
        return 1.0
    wanted = vectors[np.linspace(0, len(vectors) - 1, queries).astype(np.int64)]
    truth = GroundTruth(vectors, wanted, k=k)
    recall = truth.recall(index.search(wanted, truth.k)[0])
    if recall < (1.0 if index.exact else 0.5):
        raise IndexCheckError(f"ANN recall@{k} against brute force is only {recall:.4f}")
    return recall


def _link(source: Path, target: Path) -> None:
    """Link a file to a second place; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
