"""A Milvus as a server of its own, for measurements and tests: milvus-lite, or the real one of a wheel."""

import importlib.metadata
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from scripts.bench.engines.program import EngineNotStartedError, free_port, listens, running_program

LITE, STANDALONE = "milvus-lite", "milvus"
_STANDALONE_SECONDS = 180.0
_STARTED = "Welcome to use Milvus"  # it says so once it is healthy


class RunningMilvus(NamedTuple):
    """A Milvus that was started: its URI, and its processes."""

    uri: str
    pids: tuple[int, ...]


@contextmanager
def milvus_lite(folder: Path) -> Iterator[RunningMilvus]:
    """Yield a milvus-lite that keeps its data in a folder.

    Raises:
        EngineNotStartedError: it is not installed, or does not start.
    """
    program = shutil.which(LITE, path=sysconfig.get_path("scripts"))
    if program is None:
        raise EngineNotStartedError(LITE, "it is not installed: pip install milvus-lite")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [program, "server", "--data-dir", str(folder / "data"), "--host", "127.0.0.1"]
    command += ["--port", str(port)]
    with running_program(LITE, command, folder / "log", lambda: listens(port)) as process:
        yield RunningMilvus(f"http://127.0.0.1:{port}", (process.pid,))


def has_standalone() -> bool:
    """Tell whether the wheel `milvus` is installed, which has the server with etcd inside."""
    try:
        importlib.metadata.version(STANDALONE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@contextmanager
def milvus_standalone(folder: Path, programs: Path | None = None) -> Iterator[RunningMilvus]:
    """Yield the server of the wheel `milvus`, which keeps its data in a folder.

    Args:
        folder: for its data and logs.
        programs: where the wheel unpacks 400 MB, once; None for the folder.

    Raises:
        EngineNotStartedError: it is not installed, or does not start.
    """
    if not has_standalone():
        raise EngineNotStartedError(STANDALONE, "it is not installed: pip install milvus")
    folder.mkdir(parents=True, exist_ok=True)
    if programs is not None:
        programs.mkdir(parents=True, exist_ok=True)
        (folder / "bin").symlink_to(programs.resolve())
    log, port = folder / "log", free_port()
    command = [sys.executable, "-u", "-c", f"from {STANDALONE} import main; main()"]
    command += ["--data", str(folder), "--proxy-port", str(port)]
    with running_program(
        STANDALONE, command, log, lambda: _STARTED in log.read_text("utf-8"), seconds=_STANDALONE_SECONDS
    ) as process:
        yield RunningMilvus(f"http://127.0.0.1:{port}", (process.pid,))
