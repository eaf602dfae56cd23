"""The bytes in which the derived state of users lies on disk."""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.tables import MAX_WEIGHT

NO_TIME = int(np.iinfo(np.int64).min)
NO_ITEM = int(np.iinfo(np.uint32).max)

# What tells the rows of a user apart comes first, in one piece: so it can be looked for as bytes.
EVENT = np.dtype(
    [("ts", "<i8"), ("item", "<u4"), ("action", "<u4"), ("weight", "<f8"), ("hidden", "?")]
)  # ts in microseconds, NO_TIME where there is none; item and action are codes; hidden: held out
TEXT = np.dtype([("digest", "V32"), ("ts", "<i8"), ("item", "<u4"), ("hidden", "?")])  # digest: sha256

EventRows = npt.NDArray[np.void]
TextRows = npt.NDArray[np.void]

event_identity = struct.Struct("<qII").pack
text_identity = struct.Struct("<32sqI").pack
_COUNT = struct.Struct("<I")
_SUM = struct.Struct("<I")
_RESIDUE = (
    0x2144DF1C  # the CRC-32 of anything with its own behind it, so that nothing has to be cut off first
)


class DamagedRecordError(ValueError):
    """A stored value is not what was written."""

    def __init__(self, table: str) -> None:
        super().__init__(f"a record among the {table} is not what was written")
        self.table = table


def with_checksum(key: bytes, value: bytes) -> bytes:
    """Return a value with a checksum of it and its key behind it."""
    return value + _SUM.pack(zlib.crc32(value, zlib.crc32(key)))


def without_checksum(table: str, key: bytes, raw: bytes) -> bytes:
    """Return the value that `sealed` was given.  Raises: DamagedRecordError."""
    if zlib.crc32(raw, zlib.crc32(key)) != _RESIDUE:
        raise DamagedRecordError(table)
    return raw[: -_SUM.size]


@dataclass(frozen=True, slots=True)
class Friendships:
    """The friends of a user, one entry per friend and relation, sorted by friend, then relation.

    Shapes:
        weights: (n,) float64; relations: (n,) codes; times: (n,) microseconds, NO_TIME where there is none.
    """

    friends: tuple[str, ...] = ()
    relations: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    times: tuple[int, ...] = ()

    def pack(self) -> bytes:
        """Return the bytes that `unpack` reads."""
        if not self.friends:
            return b""
        names = [friend.encode() for friend in self.friends]
        return b"".join(
            (
                _COUNT.pack(len(names)),
                np.array(self.weights, dtype="<f8").tobytes(),
                np.array(self.times, dtype="<i8").tobytes(),
                np.array(self.relations, dtype="<u4").tobytes(),
                np.array([len(name) for name in names], dtype="<u2").tobytes(),
                *names,
            )
        )

    @classmethod
    def unpack(cls, raw: bytes) -> "Friendships":
        """Return what `pack` wrote; none for no bytes."""
        if not raw:
            return cls()
        (n,) = _COUNT.unpack_from(raw)
        weights = np.frombuffer(raw, "<f8", n, 4)
        times = np.frombuffer(raw, "<i8", n, 4 + 8 * n)
        relations = np.frombuffer(raw, "<u4", n, 4 + 16 * n)
        ends = np.cumsum(np.frombuffer(raw, "<u2", n, 4 + 20 * n)).tolist()
        names = raw[4 + 22 * n :]
        friends = [names[start:end].decode() for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        columns = (relations.tolist(), weights.tolist(), times.tolist())
        return cls(tuple(friends), *map(tuple, columns))

    @classmethod
    def of(cls, rows: Iterable[tuple[str, int, float, int]]) -> "Friendships":
        """Return ties from (friend, relation, weight, time), which come sorted."""
        columns = list(zip(*rows, strict=True))
        return cls(*columns) if columns else cls()

    def by_friend(self) -> dict[str, float]:
        """Return the summed weight of each friend; each counts MAX_WEIGHT at most, as in an export."""
        sums = dict.fromkeys(self.friends, 0.0)
        for friend, weight in zip(self.friends, self.weights, strict=True):
            sums[friend] += min(weight, MAX_WEIGHT)
        return sums


def find_row(raw: bytes, width: int, identity: bytes) -> int:
    """Return where in rows of `width` bytes the one that begins with `identity` starts, or −1."""
    at = raw.find(identity)
    while at >= 0 and at % width:  # the bytes may also occur across rows
        at = raw.find(identity, at + 1)
    return at
