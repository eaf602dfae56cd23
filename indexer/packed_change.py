"""The bytes in which a change to an index is passed from process to process."""

import json
import struct

import numpy as np

from indexer.files import ItemChange

_HEADER_SIZE = struct.Struct("<I")


def pack_change(change: ItemChange) -> bytes:
    """Return the bytes of a change, without its item id, that `unpack_change` reads."""
    fields = [
        change.popularity,
        change.content.hex(),
        change.facts.hex(),
        change.kind,
        change.attributes,
        change.listed,
    ]
    header = json.dumps(fields, ensure_ascii=False).encode()
    return _HEADER_SIZE.pack(len(header)) + header + change.vector.astype("<f4").tobytes()


def unpack_change(item_id: str, raw: bytes) -> ItemChange:
    """Read the bytes of `pack_change`; the vector (D,) float32 is read-only."""
    (size,) = _HEADER_SIZE.unpack_from(raw)
    start = _HEADER_SIZE.size
    popularity, content, facts, kind, attributes, listed = json.loads(raw[start : start + size])
    vector = np.frombuffer(raw, "<f4", offset=start + size)
    hashes = bytes.fromhex(content), bytes.fromhex(facts)
    return ItemChange(item_id, vector, popularity, *hashes, kind, attributes, listed)
