"""Processes that stand still: they take connections and do not answer."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live_server import soon


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes while the context lasts.

    As it begins none of their threads runs any more: on busy processors the signal alone leaves one of them
    time to answer.
    """
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            soon(lambda pid=pid: all(state == "T" for state in _thread_states(pid)))
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _thread_states(pid: int) -> list[str]:
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return [stat[stat.rindex(")") + 2] for stat in stats]
