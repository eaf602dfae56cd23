"""A benchmark that is told to end takes its callers and servers along."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ending_together() -> Iterator[None]:
    """While the block runs, SIGTERM and SIGHUP kill every process started below this one, and then end it.

    It ends with exit code 128 and the signal's number. The others are killed at once and not asked: what they
    work on is synthetic, and who ends a benchmark wants the processors back. A signal that is ignored, as
    SIGHUP is by `nohup`, stays so.
    """
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    sys.exit(128 + number)
