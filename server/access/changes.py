"""When a file has to be read again: a number that its writers count up, and a look once a second."""

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

LOOK_SECONDS = 1.0  # between two looks at a file that something else than `triptych token` may have changed
_BYTES = 8

Version = tuple[int, int, int]


class ChangeCount:
    """A number in a small file beside another, counted up when that has changed.

    Processes map the file, so that reading the number is no system call: one would let go of Python's lock in
    every call that a server answers.
    """

    def __init__(self, path: Path) -> None:
        """Map the file of a count, made where it is missing.  Raises: OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _BYTES:
                os.ftruncate(descriptor, _BYTES)
            self._memory = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)

    def read(self) -> bytes:
        """Return the number as it stands in memory, to be compared."""
        return self._memory[:]

    def add(self) -> None:
        """Count up; the caller keeps other writers out."""
        number = int.from_bytes(self._memory[:], "little") + 1
        self._memory[:] = (number % (1 << 8 * _BYTES)).to_bytes(_BYTES, "little")


class Watch:
    """Says whether a file may have changed since the last time; threads may share it.

    What its own writers changed is told at once, by the count; what others did, at the latest after
    LOOK_SECONDS. Where no count can be kept, as on a disk that is read-only, each call looks at the file.
    """

    def __init__(
        self,
        version: Callable[[], Version | None],
        count: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch a file.

        Args:
            version: looks at the file: what changes when it does; None where there is none.
            count: of the changes.
            clock: seconds.
        """
        self._look = version
        self._clock = clock
        try:
            self._count: ChangeCount | None = ChangeCount(count)
        except OSError:
            self._count = None
        self._counted = b""
        self._until = float("-inf")
        self._version: Version | None = None

    def version(self) -> Version | None:
        """Return the version of the file."""
        counted = b"" if self._count is None else self._count.read()
        if self._count is None or counted != self._counted or self._clock() >= self._until:
            until = self._clock() + LOOK_SECONDS  # from before the look on
            self._version = self._look()
            self._counted, self._until = counted, until  # last: another thread may come by
        return self._version
