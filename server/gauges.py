"""What the numbers of a process are read from that change without a call: queues, indexes, workers."""

from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version as _version
from pathlib import Path

from server.live import CommitListener, GroupCommit, Publisher
from server.query import NotReadyError, Retriever, Snapshot
from server.supervisor import Worker
from server.telemetry import Figures
from server.wire import Admission
from store.artifact import made_at
from store.home import Home


def watch_calls(figures: Figures, admission: Admission) -> None:
    """Tell how many calls of each kind run or wait."""
    for kind, pool in admission.pools.items():
        figures.cells("calls_admitted_most", kind)[0] = pool.most
    now = [(figures.cells("calls_admitted", kind), pool) for kind, pool in admission.pools.items()]

    def look() -> None:
        for cells, pool in now:
            cells[0] = pool.admitted

    figures.sample(look)


def watch_queries(figures: Figures, retriever: Retriever) -> None:
    """Tell of the user vectors that are kept, and of the index that this process answers from."""
    kept, made = (figures.cells("user_vector_lookups", one) for one in ("yes", "no"))
    users, nbytes = figures.cells("user_vectors"), figures.cells("user_vector_bytes")
    serving, built = figures.cells("process_serving"), figures.cells("process_index_built_timestamp_seconds")

    def look() -> None:
        counts = retriever.user_vectors.counts()
        kept[0], made[0], users[0], nbytes[0] = counts.hits, counts.misses, counts.users, counts.nbytes
        snapshot = _serving(retriever)
        serving[0] = snapshot is not None
        built[0] = _built(snapshot.index.index_id) if snapshot is not None else 0.0

    figures.sample(look)


def watch_log(figures: Figures, entries: Callable[[], int]) -> None:
    """Tell how far the change log is, or has been followed, which `entries` returns."""
    cells = figures.cells("process_log_entries")

    def look() -> None:
        cells[0] = entries()

    figures.sample(look)


def watch_index(figures: Figures, home: Home, retriever: Retriever, publisher: Publisher) -> None:
    """Tell of the index that serves.

    Args:
        figures: of the process.
        home: of the index.
        retriever: answers from it.
        publisher: counts the indexes that have served.
    """
    items, changed, without_vector, users, nbytes, built, generation = (
        figures.cells(f"index_{name}")
        for name in (
            "items",
            "items_changed",
            "items_without_vector",
            "users",
            "bytes",
            "built_timestamp_seconds",
            "generation",
        )
    )
    size_of = lru_cache(1)(lambda index_id: _size(home.indexes / index_id))
    version = _version("triptych")

    def look() -> None:
        snapshot = _serving(retriever)
        generation[0] = publisher.published
        if snapshot is None:
            figures.tell(version=version, index_id="", model_id="", text_model_id="")
            return
        index = snapshot.index
        items[0], changed[0] = len(index), len(index.delta.state.popularity)
        without_vector[0] = index.without_vector
        users[0] = len(snapshot.users) if snapshot.users is not None else 0
        nbytes[0], built[0] = size_of(index.index_id), _built(index.index_id)
        figures.tell(
            version=version,
            index_id=index.index_id,
            model_id=snapshot.model.model_id,
            text_model_id=snapshot.encoder.text_model_id,
        )

    figures.sample(look)


def watch_live_work(figures: Figures, commit: GroupCommit, listener: CommitListener) -> None:
    """Tell of transactions and what they wrote, and of the workers that write and that follow."""
    requests, rows = figures.histogram("transaction_requests"), figures.counter("rows_written")

    def counted(of_requests: int, of_rows: int) -> None:
        requests(of_requests)
        rows(of_rows)

    commit.counted = counted
    for worker in (commit, listener.texts, listener.items, listener.users):
        watch_worker(figures, worker)


def watch_worker(figures: Figures, worker: Worker) -> None:
    """Tell what waits for a background worker, and whether it fails."""
    waiting, lag, failing, failures = (
        figures.cells(name, worker.name)
        for name in ("waiting", "lag_seconds", "worker_failing", "worker_failures")
    )

    def look() -> None:
        state = worker.state()
        failing[0], failures[0] = state.failing, state.failures
        waiting[0], lag[0] = worker.backlog()

    figures.sample(look)


def _serving(retriever: Retriever) -> Snapshot | None:
    try:
        return retriever.snapshot
    except NotReadyError:
        return None


def _built(index_id: str) -> float:
    """Return when an index was built, in seconds since 1970; 0 where its id does not say."""
    try:
        return made_at(index_id).timestamp()
    except ValueError:
        return 0.0


def _size(directory: Path) -> int:
    """Return the size of the files in a directory; 0 where it is gone."""
    try:
        return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    except FileNotFoundError:
        return 0
