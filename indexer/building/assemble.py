"""A finished build as a published directory, after a last look at whether it finds what it holds."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from indexer.building.autotune import FittedIndex
from indexer.building.items import MAIN_FILES
from indexer.building.users import BuiltUsers
from indexer.files import VECTORS_FILE, faiss_file, map_vectors, read_without_vector, write_delta
from indexer.index import LAYOUT, Index
from indexer.users import FOLDER
from store.artifact import build, new_id

_BLOCK = 65_536  # items at a time


class IndexCheckError(RuntimeError):
    """A freshly built index does not find what brute force finds."""


def assemble(
    parent: Path, folder: Path, fitted: FittedIndex, facts: dict[str, Any], users: BuiltUsers | None = None
) -> Path:
    """Return the new directory below `parent` of an index whose files lie in a folder, which stays.

    Args:
        parent: indexes/.
        folder: with the main part and the FAISS files.
        fitted: what `fit` returned for it.
        facts: for the manifest: model_id, dim and what else is known.
        users: the user index, whose files lie in the folder too; None makes an index without one.

    Raises:
        IndexCheckError: the index does not find what it holds; there is no directory.
    """
    index_id = new_id()
    with build(parent, index_id) as draft:
        draft.facts = lay_out(folder, draft.path, fitted, facts)
        if users is not None:
            draft.facts[FOLDER] = lay_out(folder / FOLDER, draft.path / FOLDER, users.fitted, users.facts)
    return parent / index_id


def lay_out(folder: Path, target: Path, fitted: FittedIndex, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what the manifest says of an index whose files, built in a folder, now lie in `target` too.

    Raises:
        IndexCheckError: the index does not find what it holds.
    """
    target.mkdir(exist_ok=True)
    for name in (*MAIN_FILES, *fitted.files):
        _link(folder / name, target / name)
    write_delta(target, read_without_vector(folder, facts["dim"]), facts["dim"], np.zeros(0, dtype=np.int64))
    items = map_vectors(folder / VECTORS_FILE).shape[0]
    described = {
        "kind": "index",
        "layout": LAYOUT,
        "items": items,
        "main_items": items,
        "changes": 0,
        **facts,
        **fitted.facts(),
    }
    check(Index(target, described))
    return described


def take_over(source: Path, target: Path, index: Index) -> dict[str, Any]:
    """Write an index with the changes on top of it; return what the manifest then says otherwise.

    Args:
        source: the directory it was opened from.
        target: where its files are copied to, and what changed is written.
        index: with the changes.
    """
    target.mkdir(exist_ok=True)
    for name in files_taken_over(index):
        # A copy: damage to a file of one index must not reach another.
        shutil.copyfile(source / name, target / name)
    changes = index.delta.changes()
    write_delta(target, changes, index.dim, index.delta.main_gone())
    return {"items": len(index), "changes": sum(change.has_vector for change in changes)}


def files_taken_over(index: Index) -> list[str]:
    """Return the names of the files of an index that do not change while changes are put on top of it."""
    shards = [] if index.exact else [faiss_file(i) for i in range(index.manifest["shards"])]
    return [*MAIN_FILES, *shards]


def check(index: Index, queries: int = 50, k: int = 10) -> float:
    """Return ANN recall@k of an index against inner products by numpy, on its own items as queries.

    Raises:
        IndexCheckError: an exact index misses something, or any index finds less than half.
    """
    if not len(index):
        return 1.0
    rows = np.linspace(0, len(index.main) - 1, queries).astype(np.int64)
    wanted = index.main.vectors[rows]
    k = min(k, len(index.main))
    scores = np.concatenate(
        [
            wanted @ index.main.vectors[start : start + _BLOCK].T
            for start in range(0, len(index.main), _BLOCK)
        ],
        axis=1,
    )
    least = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    found = index.search(wanted, k)[1]
    recall = float((found >= least - 1e-5 * np.maximum(np.abs(least), 1.0)).mean())
    if recall < (1.0 if index.exact else 0.5):
        raise IndexCheckError(f"ANN recall@{k} against brute force is only {recall:.4f}")
    return recall


def _link(source: Path, target: Path) -> None:
    """Make a file appear in a second place; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
