"""Rate limits, by the library `limits`, counted together by all processes of a server."""

import fcntl
import hashlib
import math
import mmap
import os
import struct
import threading
import time
from pathlib import Path
from typing import Any

import limits
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from server.config import COUNTERS_BYTES

_SLOT = struct.Struct("=Qqd")  # the key, calls in its window, the end of the window
_SLOTS = COUNTERS_BYTES // _SLOT.size
_PROBES = 16


class RateLimits:
    """Counts the calls of each token in fixed windows; threads and processes may share it.

    A window begins with its first call and has the length of the limit, so that around its end up to twice
    the limit may pass within its length.
    """

    def __init__(self, counters: Path | None = None) -> None:
        """Begin to count.

        Args:
            counters: a file of COUNTERS_BYTES zeros that the processes of a server share; None counts for
                this process alone.
        """
        self._storage = _SharedCounters(counters)
        self._limiter = FixedWindowRateLimiter(self._storage)
        self._read: dict[str, list[limits.RateLimitItem]] = {}

    def seconds_to_wait(self, token_id: str, written: str, calls: int = 1) -> float | None:
        """Count calls of a token; return None where they are within its limits, else when to ask again.

        Calls that are refused count, too.
        """
        items = self._read.get(written)
        if items is None:
            items = self._read[written] = limits.parse_many(written)
        waits = [
            self._storage.get_expiry(item.key_for(token_id)) - self._storage.now()
            for item in items
            if not self._limiter.hit(item, token_id, cost=calls)
        ]
        return max(0.001, *waits) if waits else None


class _SharedCounters(Storage):
    """Counters in memory that processes share: `limits.storage.MemoryStorage` starts a thread to clean up.

    A key has one of a few slots. One whose window is over is free; where none is, the one that ends first
    gives way. The clock is the monotonic one, which is the same in all processes of a machine.
    """

    STORAGE_SCHEME = None

    def __init__(self, file: Path | None) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._file = None if file is None else os.open(file, os.O_RDWR)
        self._memory = mmap.mmap(-1 if self._file is None else self._file, COUNTERS_BYTES)

    @staticmethod
    def now() -> float:
        return time.monotonic()

    @property
    def base_exceptions(self) -> type[Exception]:
        return OSError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        number, now = _number(key), self.now()
        with self._lock, _locked(self._file):
            place, count, end = self._slot(number, now)
            count, end = (count + amount, end) if end > now else (amount, now + expiry)
            _SLOT.pack_into(self._memory, place, number, count, end)
        return count

    def get(self, key: str) -> int:
        with self._lock, _locked(self._file):
            return self._slot(_number(key), self.now())[1]

    def get_expiry(self, key: str) -> float:
        with self._lock, _locked(self._file):
            return self._slot(_number(key), self.now())[2]

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        with self._lock, _locked(self._file):
            self._memory[:] = bytes(COUNTERS_BYTES)
        return None  # how many there were is not known

    def clear(self, key: str) -> None:
        number = _number(key)
        with self._lock, _locked(self._file):
            _SLOT.pack_into(self._memory, self._slot(number, self.now())[0], number, 0, 0.0)

    def _slot(self, number: int, now: float) -> tuple[int, int, float]:
        """Return the place of the slot of a key, its count and the end of its window, 0 for a new one."""
        free, first_end = 0, math.inf
        for probe in range(_PROBES):
            place = (number + probe) % _SLOTS * _SLOT.size
            held, count, end = _SLOT.unpack_from(self._memory, place)
            if held == number:
                return (place, count, end) if end > now else (place, 0, 0.0)
            if end < first_end:
                free, first_end = place, end
        return free, 0, 0.0


class _locked:  # noqa: N801  # a context manager
    """Keeps other processes out while the block runs; a process that dies lets go."""

    def __init__(self, file: int | None) -> None:
        self._file = file

    def __enter__(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def _number(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") or 1
