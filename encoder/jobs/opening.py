"""The way to work that the options `--jobs` and `--ray` ask for, and a folder for what parts leave."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from encoder.jobs.jobs import IN_PROCESS, Jobs
from store.artifact import new_id
from store.home import Home
from store.locks import locked_directory


class NotSharedError(FileNotFoundError):
    """A worker does not see the files of the process that gives out the work."""

    def __init__(self, folder: Path, host: str) -> None:
        super().__init__(
            f"{folder} is not there on {host}: the home, and of one in object storage the folder of --cache, "
            "must lie on storage that every machine of the cluster mounts at the same path"
        )
        self.folder, self.host = folder, host


@contextmanager
def open_jobs(count: int = 1, ray: str | None = None) -> Iterator[Jobs]:
    """Yield workers, and end them afterwards.

    Args:
        count: processes of this machine; 1 works in this process, with all the threads of the libraries.
        ray: the address of a Ray cluster, or "auto" for the one of this machine; None uses none.

    Raises:
        ValueError: the count is below 1.
        RayMissingError, NoClusterError: there is no Ray, or no cluster.
    """
    if count < 1:
        raise ValueError(f"{count} jobs: there must be at least 1")
    if ray is None and count == 1:
        yield IN_PROCESS
        return
    with closing(_workers(count, ray)) as jobs:
        yield jobs


def _workers(count: int, ray: str | None) -> Jobs:
    if ray is not None:
        from encoder.jobs.cluster import RayCluster  # noqa: PLC0415  Ray, only where it is asked for

        return RayCluster(ray)
    from encoder.jobs.processes import LocalProcesses  # noqa: PLC0415

    return LocalProcesses(count)


@contextmanager
def shared_folder(home: Home) -> Iterator[Path]:
    """Yield an empty folder of a home, which workers see, and remove it afterwards.

    It is named and locked like that of a build. So one that a killed process left, in which there may be rows
    of people, is removed by the next reindex, and by a server within the time that it has to forget somebody.
    """
    home.indexes.mkdir(parents=True, exist_ok=True)
    with locked_directory(home.indexes.resolve() / f".spool-{new_id()}") as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def check_shared(folder: Path) -> None:
    """Check, on a worker, that it sees a folder of whoever gave it the work.  Raises: NotSharedError."""
    if not folder.is_dir():
        raise NotSharedError(folder, socket.gethostname())
