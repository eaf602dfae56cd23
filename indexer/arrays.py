"""Numeric arrays on disk: safetensors files that are written in a stream and read memory-mapped."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

VECTORS_KEY = "vectors"
_HEADER = 256  # bytes in front of the vectors; JSON padded with blanks, as the format allows
_DTYPES = {
    "F32": np.float32,
    "F64": np.float64,
    "I32": np.int32,
    "I64": np.int64,
    "U64": np.uint64,
    "U8": np.uint8,
}


def write_vectors(path: Path, chunks: Iterable[FloatArray], dim: int) -> int:
    """Write vectors that come in chunks (n, D) float32 to one safetensors file; return how many there were.

    Source:
        the safetensors format: 8 bytes of header size, JSON, data.
    """
    rows = 0
    with path.open("wb") as file:
        file.write(b" " * _HEADER)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype=np.float32).data)
            rows += len(chunk)
        entry = {"dtype": "F32", "shape": [rows, dim], "data_offsets": [0, 4 * rows * dim]}
        header = json.dumps({VECTORS_KEY: entry}).encode().ljust(_HEADER - 8)
        file.seek(0)
        file.write((_HEADER - 8).to_bytes(8, "little") + header)
    return rows


def map_vectors(path: Path) -> FloatArray:
    """Return the vectors in a safetensors file, memory-mapped read-only as (N, D) float32."""
    return map_tensors(path)[VECTORS_KEY]


def map_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a safetensors file by name, memory-mapped read-only."""
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        entries: dict[str, Any] = json.loads(file.read(header_size))
    entries.pop("__metadata__", None)
    return {name: _map(path, 8 + header_size, entry) for name, entry in entries.items()}


def _map(path: Path, start: int, entry: dict[str, Any]) -> npt.NDArray[Any]:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    if 0 in shape:
        return np.zeros(shape, dtype=dtype)  # nothing can be mapped
    mapped = np.memmap(path, dtype=dtype, mode="r", offset=start + entry["data_offsets"][0], shape=shape)
    return mapped.view(np.ndarray)  # the subclass makes every access slower
