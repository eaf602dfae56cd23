"""A data set as files, so that workers have it without reading an export or encoding a text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from encoder.arrays import Actions, Events, TextColumns
from encoder.content import Described, RawContent
from encoder.dataset import Dataset
from encoder.views import Matrix

_NAMES_FILE = "names.json"
_USERS_FILE, _ITEMS_FILE = "users.parquet", "items.parquet"
_HISTORY = "history"
_EVENTS = ("users", "items", "weights", "ts")
_TEXTS = ("users", "items", "ts", "vectors")


def save_dataset(data: Dataset, folder: Path) -> None:
    """Write a data set into a folder: arrays as npy, ids and what is known of items as Parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    events = {_HISTORY: data.history, **data.held_out}
    for split, rows in events.items():
        for name in _EVENTS:
            _save(folder, f"{split}.{name}", getattr(rows, name))
        _save(folder, f"{split}.actions", rows.actions.codes)
    for name in _TEXTS:
        _save(folder, f"texts.{name}", getattr(data.texts, name))
    save_matrix(folder, "ties", data.ties)
    content = data.item_content
    _save(folder, "item_text_vectors", content.text_vectors)
    _save(folder, "item_vectors", content.vectors)
    attributes = [None if one is None else json.dumps(one) for one in content.described.attributes]
    columns = {
        "item_id": data.items,
        "text": pa.array(content.texts, pa.string()),
        "kind": pa.array(content.described.kinds, pa.string()),
        "attributes": pa.array(attributes, pa.string()),
    }
    pq.write_table(pa.table(columns), folder / _ITEMS_FILE)
    pq.write_table(pa.table({"user_id": data.users}), folder / _USERS_FILE)
    names = {split: list(rows.actions.names) for split, rows in events.items()}
    (folder / _NAMES_FILE).write_text(json.dumps(names), "utf-8")


def read_dataset(folder: Path) -> Dataset:
    """Read the data set that `save_dataset` wrote into a folder; the vectors of texts are memory-mapped."""
    names: dict[str, list[str]] = json.loads((folder / _NAMES_FILE).read_text("utf-8"))
    events = {
        split: Events(
            users=_load(folder, f"{split}.users"),
            items=_load(folder, f"{split}.items"),
            actions=Actions(_load(folder, f"{split}.actions"), tuple(actions)),
            weights=_load(folder, f"{split}.weights"),
            ts=_load(folder, f"{split}.ts"),
        )
        for split, actions in names.items()
    }
    items = pq.read_table(folder / _ITEMS_FILE)
    kinds, attributes = (items.column(name).to_pylist() for name in ("kind", "attributes"))
    return Dataset(
        users=pq.read_table(folder / _USERS_FILE).column("user_id").combine_chunks(),
        items=items.column("item_id").combine_chunks(),
        history=events.pop(_HISTORY),
        held_out=events,
        ties=read_matrix(folder, "ties"),
        texts=TextColumns(
            users=_load(folder, "texts.users"),
            items=_load(folder, "texts.items"),
            ts=_load(folder, "texts.ts"),
            vectors=np.asarray(np.load(folder / "texts.vectors.npy", mmap_mode="r", allow_pickle=False)),
        ),
        item_content=RawContent(
            items.column("text").to_pylist(),
            _load(folder, "item_text_vectors"),
            Described(kinds, [None if one is None else json.loads(one) for one in attributes]),
            _load(folder, "item_vectors"),
        ),
    )


def save_matrix(folder: Path, name: str, matrix: Matrix) -> None:
    """Write a sparse matrix into a folder."""
    for part in ("data", "indices", "indptr"):
        _save(folder, f"{name}.{part}", getattr(matrix, part))
    _save(folder, f"{name}.shape", np.array(matrix.shape, dtype=np.int64))


def read_matrix(folder: Path, name: str) -> Matrix:
    """Read the sparse matrix that `save_matrix` wrote."""
    parts = tuple(_load(folder, f"{name}.{part}") for part in ("data", "indices", "indptr"))
    rows, columns = _load(folder, f"{name}.shape").tolist()
    return sparse.csr_array(parts, shape=(rows, columns))


def _save(folder: Path, name: str, array: npt.NDArray[Any]) -> None:
    np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _load(folder: Path, name: str) -> npt.NDArray[Any]:
    return np.asarray(np.load(folder / f"{name}.npy", allow_pickle=False))
