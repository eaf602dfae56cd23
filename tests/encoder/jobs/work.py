"""Functions that workers import by their names in tests of `encoder.jobs`."""

import os
import signal
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from threadpoolctl import threadpool_info


def doubled(number: int) -> int:
    return 2 * number


def fails_at(wanted: int, number: int) -> int:
    if number == wanted:
        raise KeyError(f"what {number} needs")
    return number


class AwkwardError(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fails_awkwardly(number: int) -> None:
    raise AwkwardError(number, number)


def always_dies(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def waits_for(folder: Path, number: int) -> int:
    """Say that a part has begun, and wait until a file allows it to end."""
    draft = folder / f"{number}.draft"
    draft.write_text(str(os.getpid()))
    draft.replace(folder / f"begun-{number}")
    while not (folder / f"end-{number}").exists():
        time.sleep(0.01)
    return number


def pools(number: int) -> tuple[list[int], str | None]:
    """Return the threads of each thread pool that numpy and FAISS have, and OMP_NUM_THREADS."""
    import faiss
    import numpy

    assert faiss
    assert numpy
    return [int(one["num_threads"]) for one in threadpool_info()], os.environ.get("OMP_NUM_THREADS")


def process_of(number: int) -> int:
    return os.getpid()


def stops_after(place: str, folder: Path, function: Callable[[Any], Any], part: Any) -> Any:
    """Call a function with a part; the first of all workers to come through a place waits there for ever.

    Its process id is then in the file "stopped" of the folder.
    """
    module, _, name = place.rpartition(".")
    owner = import_module(module)
    real = getattr(owner, name)

    def through(*values: Any, **options: Any) -> Any:
        result = real(*values, **options)
        mine = folder / f"{os.getpid()}.pid"
        mine.write_text(str(os.getpid()))
        try:
            (folder / "stopped").hardlink_to(mine)
        except FileExistsError:
            return result
        while True:
            time.sleep(1)

    with mock.patch.object(owner, name, through):
        return function(part)
