"""A finished build as a published directory, after a last look at whether it finds what it holds."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from indexer.arrays import map_vectors
from indexer.building import MAIN_FILES
from indexer.fitting import Fitted
from indexer.index import LAYOUT, Index
from indexer.parts import VECTORS_FILE, write_delta
from store.artifact import build, new_id

_BLOCK = 65_536  # items at a time


class IndexCheckError(RuntimeError):
    """A freshly built index does not find what brute force finds."""


def seal(parent: Path, folder: Path, fitted: Fitted, facts: dict[str, Any]) -> Path:
    """Return the new directory below `parent` of an index whose files lie in a folder, which stays.

    Args:
        parent: indexes/.
        folder: with the main part and the FAISS files.
        fitted: what `fit` returned for it.
        facts: for the manifest: model_id, dim and what else is known.

    Raises:
        IndexCheckError: the index does not find what it holds; there is no directory.
    """
    index_id = new_id()
    with build(parent, index_id) as draft:
        for name in (*MAIN_FILES, *fitted.files):
            _link(folder / name, draft.path / name)
        write_delta(draft.path, [], facts["dim"], np.zeros(0, dtype=np.int64))
        items = map_vectors(folder / VECTORS_FILE).shape[0]
        draft.facts = {
            "kind": "index",
            "layout": LAYOUT,
            "items": items,
            "main_items": items,
            "changes": 0,
            **facts,
            **fitted.facts(),
        }
        check(Index(draft.path, draft.facts))
    return parent / index_id


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
