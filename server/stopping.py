"""SIGTERM and SIGINT: the first one ends a server in order, a second one or too much time ends it at once.

SIGHUP has it read its settings again.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

_START_SECONDS = 2.0  # that a start may take to end after a signal
_SPARE_SECONDS = 5.0  # beyond the grace of calls: for threads to end and files to close
log = logging.getLogger(__name__)


class StopSignals:
    """Obeys signals while the block runs; only the main thread may enter it.

    The first signal interrupts a start; after `serving`, it ends `wait`. A second one ends the process at
    once, and so does an end in order that takes too long. What was acknowledged is on disk by then; what is
    half done is undone or finished by the next start, as after a crash.
    """

    def __init__(self, clean_up: Callable[[], None], hung_up: Callable[[], None] | None = None) -> None:
        """Take what is called.

        Args:
            clean_up: before the process is ended at once.
            hung_up: at SIGHUP, on a thread of its own; None leaves that signal as it is.
        """
        self._clean_up = clean_up
        self._hung_up = hung_up
        self._first_signal = threading.Event()
        self._received = False
        self._starting = True
        self._seconds = _START_SECONDS
        # The main thread looks at signals only between two steps of Python; the socket has each at once.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._over = False
        self._listener = threading.Thread(target=self._listen, name="signals", daemon=True)

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        if self._hung_up is not None:
            signal.signal(signal.SIGHUP, lambda _number, _frame: None)  # the listener does it
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End listening; return whether the error is only that a signal interrupted the start."""
        self._over = True
        self._writer.send(b"0")  # ends the listener in the place of a signal
        self._listener.join()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        self._reader.close()
        self._writer.close()
        return self._received and self._starting

    def serving(self, grace_seconds: float) -> None:
        """End the start; an end in order may now take the grace of running calls, and a little more."""
        self._seconds = grace_seconds + _SPARE_SECONDS
        self._starting = False

    def wait(self) -> None:
        """Wait for the first signal."""
        self._first_signal.wait()

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        first, self._received = not self._received, True
        if first and self._starting:
            log.info("stopping before the start is complete")
            raise KeyboardInterrupt

    def _listen(self) -> None:
        while self._reader.recv(1)[0] == signal.SIGHUP:
            if self._hung_up is not None:
                self._hung_up()
        self._first_signal.set()
        if self._over:
            return
        end = time.monotonic() + self._seconds
        try:
            self._reader.settimeout(self._seconds)
            while self._reader.recv(1)[0] == signal.SIGHUP:
                self._reader.settimeout(max(0.001, end - time.monotonic()))
            reason = "a second signal came"
        except TimeoutError:
            reason = f"the end took longer than {self._seconds:.0f} s"
        if self._over:
            return
        log.warning(
            "%s: stopping at once; what still runs is cut off, and nothing acknowledged is lost", reason
        )
        self._clean_up()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
