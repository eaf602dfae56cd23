"""Names of keys, and the bytes of values, of a home's state in a cluster.

Everything of a user lies in one hash, so that one command writes it and another reads it, whole. Hashes are
spread over buckets; a bucket is a hash tag, so its keys lie in one slot and move together. Each bucket of a
generation has a marker: where that is gone, so may be anything else, and nobody may take a user without a
record for one who is unknown. A generation is one filling of the cluster; its keys are never used again.
"""

import struct
import zlib
from dataclasses import dataclass

from store.state import DamagedRecordError, with_checksum, without_checksum

FORMAT = b"1"
BUCKETS = 1_024
LIVE_BUCKETS = 64
CODES = 1_000  # in one hash of a vocabulary
FIELD_OF = {"events": b"e", "texts": b"t", "friends": b"f", "consents": b"c"}
STAMP = b"s"  # field of a user: when the record was written
_STAMP = struct.Struct("<QII")
_SEQUENCE = struct.Struct(">Q")


@dataclass(frozen=True)
class Keys:
    """Names of the keys of one home.

    Attributes:
        name: of the home's place; several homes may share a cluster.
    """

    name: str

    def _name(self, bucket: str, *rest: str) -> str:
        return ":".join((f"triptych:{{{self.name}/{bucket}}}", *rest))

    @property
    def head(self) -> str:
        """A hash: the generation that counts, whose it is, and by which nodes it is held."""
        return self._name("head", "head")

    @property
    def log(self) -> str:
        """The stream of log entries, with the numbers of the log as ids."""
        return self._name("head", "log")

    def incomplete(self, generation: str) -> str:
        """Return the name of the set of users some of whose texts had no vector when they were written."""
        return self._name("head", generation, "incomplete")

    def user(self, generation: str, user_id: str) -> str:
        """Return the name of the hash of a user."""
        return self._name(str(bucket_of(user_id)), generation, "u", user_id)

    def marker(self, generation: str, bucket: int) -> str:
        """Return the name of the marker of a bucket."""
        return self._name(str(bucket), generation, "here")

    def codes(self, generation: str, vocabulary: str, chunk: int) -> str:
        """Return the name of a hash of strings by code."""
        return self._name(str(chunk % BUCKETS), generation, vocabulary, str(chunk))

    def live(self, generation: str, index_id: str, part: str, bucket: int) -> str:
        """Return the name of a hash of what became of items or users of an index, by id."""
        return self._name(str(bucket), generation, "live", part, index_id)

    @property
    def pattern(self) -> str:
        """What matches every key of the home."""
        return f"triptych:{{{self.name}/*"

    def generation_of(self, key: bytes) -> str:
        """Return the generation of a key that `pattern` matches, "" for one that belongs to none."""
        rest = key.partition(b"}:")[2].decode("utf-8", "replace").split(":")
        return rest[0] if len(rest) > 1 else ""


def bucket_of(name: str) -> int:
    """Return the bucket of a user."""
    return zlib.crc32(name.encode()) % BUCKETS


def live_bucket_of(name: str) -> int:
    """Return the bucket of an item, or a user, of an index."""
    return zlib.crc32(name.encode()) % LIVE_BUCKETS


def vectors_field(text_model_id: str) -> bytes:
    """Return the field of a user with the vectors of the user's texts by a text model."""
    return b"v" + text_model_id.encode()


def pack_stamp(sequence: int, items: int, words: int) -> bytes:
    """Return when a record was written: the number of the log, and of codes of either vocabulary."""
    return _STAMP.pack(sequence, items, words)


def unpack_stamp(raw: bytes) -> tuple[int, int, int]:
    """Read the bytes of `pack_stamp`.  Raises: DamagedRecordError."""
    if len(raw) != _STAMP.size:
        raise DamagedRecordError("stamps")
    return _STAMP.unpack(raw)


def pack_rows(table: str, user_id: str, rows: bytes) -> bytes:
    """Return rows of a user with a checksum, none for none."""
    return with_checksum(f"{table} {user_id}".encode(), rows) if rows else b""


def unpack_rows(table: str, user_id: str, raw: bytes | None) -> bytes:
    """Read the bytes of `pack_rows`.  Raises: DamagedRecordError."""
    return without_checksum(table, f"{table} {user_id}".encode(), raw) if raw else b""


def pack_live(sequence: int, change: bytes) -> bytes:
    """Return what became of an item, and the entry that told."""
    return _SEQUENCE.pack(sequence) + change


def unpack_live(raw: bytes) -> tuple[int, bytes]:
    """Read the bytes of `pack_live`."""
    return int(_SEQUENCE.unpack_from(raw)[0]), raw[_SEQUENCE.size :]
