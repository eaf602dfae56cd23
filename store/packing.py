"""The bytes in which the derived state of users lies on disk."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NO_TIME = int(np.iinfo(np.int64).min)
NO_ITEM = int(np.iinfo(np.uint32).max)

# What tells the events of a user apart comes first, in one piece: so it can be looked for as bytes.
EVENT = np.dtype(
    [("ts", "<i8"), ("item", "<u4"), ("action", "<u4"), ("weight", "<f8"), ("hidden", "?")]
)  # ts in microseconds, NO_TIME where there is none; item and action are codes; hidden: held out
TEXT = np.dtype([("digest", "V32"), ("ts", "<i8"), ("item", "<u4"), ("hidden", "?")])  # digest: sha256

EventRows = npt.NDArray[np.void]
TextRows = npt.NDArray[np.void]

event_bytes = struct.Struct("<qIId?").pack
event_identity = struct.Struct("<qII").pack
text_bytes = struct.Struct("<32sqI?").pack
text_identity = struct.Struct("<32sqI").pack
_COUNT = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Ties:
    """The friends of a user, one entry per friend and relation, sorted by friend, then relation.

    Shapes:
        weights: (n,) float64; relations: (n,) codes.
    """

    friends: tuple[str, ...] = ()
    relations: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    def pack(self) -> bytes:
        """Return the bytes that `unpack` reads."""
        names = [friend.encode() for friend in self.friends]
        return b"".join(
            (
                _COUNT.pack(len(names)),
                np.array(self.weights, dtype="<f8").tobytes(),
                np.array(self.relations, dtype="<u4").tobytes(),
                np.array([len(name) for name in names], dtype="<u2").tobytes(),
                *names,
            )
        )

    @classmethod
    def unpack(cls, raw: bytes) -> "Ties":
        """Return what `pack` wrote; none for no bytes."""
        if not raw:
            return cls()
        (n,) = _COUNT.unpack_from(raw)
        weights = np.frombuffer(raw, "<f8", n, 4)
        relations = np.frombuffer(raw, "<u4", n, 4 + 8 * n)
        ends = np.cumsum(np.frombuffer(raw, "<u2", n, 4 + 12 * n)).tolist()
        names = raw[4 + 14 * n :]
        friends = [names[start:end].decode() for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        return cls(tuple(friends), tuple(relations.tolist()), tuple(weights.tolist()))

    def by_friend(self) -> dict[str, float]:
        """Return the summed weight of each friend."""
        sums = dict(zip(self.friends, self.weights, strict=True))
        if len(sums) < len(self.friends):
            sums = dict.fromkeys(self.friends, 0.0)
            for friend, weight in zip(self.friends, self.weights, strict=True):
                sums[friend] += weight
        return sums


def place_of(raw: bytes, width: int, identity: bytes) -> int:
    """Return where in rows of `width` bytes the one that begins with `identity` starts, or −1."""
    at = raw.find(identity)
    while at >= 0 and at % width:  # the bytes may also occur across rows
        at = raw.find(identity, at + 1)
    return at


def runs(keys: Sequence[str]) -> list[tuple[int, int]]:
    """Return start and end of each run of equal neighbours."""
    starts = [i for i, key in enumerate(keys) if i == 0 or keys[i - 1] != key]
    return list(zip(starts, [*starts[1:], len(keys)], strict=True))
