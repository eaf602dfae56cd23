"""The bytes in which the rows of a user lie in the derived state."""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.tables import MAX_WEIGHT, VIEWS

NO_TIME = int(np.iinfo(np.int64).min)
NO_ITEM = int(np.iinfo(np.uint32).max)

# The identity of a row comes first, in one piece, so that `find_row` can search for its bytes.
# ts: microseconds since 1970, or NO_TIME; item, action: codes; hidden: held out; digest: sha256 of the text.
EVENT = np.dtype([("ts", "<i8"), ("item", "<u4"), ("action", "<u4"), ("weight", "<f8"), ("hidden", "?")])
TEXT = np.dtype([("digest", "V32"), ("ts", "<i8"), ("item", "<u4"), ("hidden", "?")])

EventRows = npt.NDArray[np.void]
TextRows = npt.NDArray[np.void]

pack_event_identity = struct.Struct("<qII").pack  # ts, item, action
pack_text_identity = struct.Struct("<32sqI").pack  # digest, ts, item
_COUNT = struct.Struct("<I")
_CHECKSUM = struct.Struct("<I")
_RESIDUE = 0x2144DF1C  # the CRC-32 of any bytes with their own CRC-32 behind them


class DamagedRecordError(ValueError):
    """A stored value is not what was written."""

    def __init__(self, table: str) -> None:
        super().__init__(f"a record among the {table} is not what was written")
        self.table = table


def with_checksum(key: bytes, value: bytes) -> bytes:
    """Return a value with the CRC-32 of its key and itself behind it."""
    return value + _CHECKSUM.pack(zlib.crc32(value, zlib.crc32(key)))


def without_checksum(table: str, key: bytes, raw: bytes) -> bytes:
    """Check and return the value that `with_checksum` was given.  Raises: DamagedRecordError."""
    if zlib.crc32(raw, zlib.crc32(key)) != _RESIDUE:
        raise DamagedRecordError(table)
    return raw[: -_CHECKSUM.size]


@dataclass(frozen=True, slots=True)
class Friendships:
    """The friends of a user, one entry for each friend and relation, sorted by friend, then relation.

    Attributes:
        friends: n user ids.
        relations: n codes.
        weights: n numbers, as they were written.
        times: n times in microseconds since 1970, NO_TIME where there is none.
    """

    friends: tuple[str, ...] = ()
    relations: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    times: tuple[int, ...] = ()

    def pack(self) -> bytes:
        """Return the bytes that `unpack` reads, none where there is no friend."""
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
        """Read the bytes of `pack`."""
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
        """Make friendships of entries (friend, relation, weight, time), which come sorted."""
        columns = list(zip(*rows, strict=True))
        return cls(*columns) if columns else cls()

    def by_friend(self) -> dict[str, float]:
        """Sum the weights of each friend; one weight counts MAX_WEIGHT at most, as in an export."""
        sums = dict.fromkeys(self.friends, 0.0)
        for friend, weight in zip(self.friends, self.weights, strict=True):
            sums[friend] += min(weight, MAX_WEIGHT)
        return sums


@dataclass(frozen=True, slots=True)
class Consents:
    """What a user allows to be done with each view.

    Attributes:
        used: views that may be used for the user's own results, and for training.
        shared: views that may show in results of others, where they are used at all.
    """

    used: frozenset[str] = frozenset(VIEWS)
    shared: frozenset[str] = frozenset(VIEWS)

    @property
    def seen_by_others(self) -> frozenset[str]:
        """The views that may show in results of others."""
        return self.used & self.shared

    def changed(self, view: str, use: bool | None, share: bool | None) -> "Consents":
        """Return them with another consent to one view; None leaves it as it is."""
        used, shared = (
            views if allows is None else views | {view} if allows else views - {view}
            for views, allows in ((self.used, use), (self.shared, share))
        )
        return Consents(used, shared)

    def pack(self) -> bytes:
        """Return the bytes that `unpack` reads, none where all is allowed."""
        if self == ALL_ALLOWED:
            return b""
        return bytes(sum(1 << i for i, view in enumerate(VIEWS) if view not in views) for views in
                     (self.used, self.shared))  # fmt: skip

    @classmethod
    def unpack(cls, raw: bytes) -> "Consents":
        """Read the bytes of `pack`."""
        if not raw:
            return ALL_ALLOWED
        return cls(*(frozenset(view for i, view in enumerate(VIEWS) if not bits >> i & 1) for bits in raw))


ALL_ALLOWED = Consents()


def find_row(raw: bytes, width: int, identity: bytes) -> int:
    """Return the offset of the first row that begins with `identity`, among rows of `width` bytes, or −1."""
    at = raw.find(identity)
    while at >= 0 and at % width:  # the bytes may also occur across rows
        at = raw.find(identity, at + 1)
    return at
