"""The way to work that the options `--jobs` and `--ray` ask for."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from encoder.jobs.jobs import IN_PROCESS, Jobs


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
