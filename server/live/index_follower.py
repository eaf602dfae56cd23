"""What the workers of the item index and of the user index have in common."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from server.live.index_writer import IndexWriter
from server.query import NotReadyError, Retriever, Snapshot
from server.supervisor import Supervisor, Worker
from store.store import Store


class IndexFollower(Worker):
    """A worker that keeps an index of the snapshot that serves in step with the store.

    While another snapshot is published, both are kept in step, so that what a commit removes is not found
    any more, whichever of the two answers next.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        retriever: Retriever,
        supervisor: Supervisor | None = None,
        writer: IndexWriter | None = None,
    ) -> None:
        super().__init__(name, supervisor)
        self._writer = writer or IndexWriter()
        self._store = store
        self._retriever = retriever
        self._next: Snapshot | None = None  # the one that is being published

    @contextmanager
    def following(self, snapshot: Snapshot) -> Iterator[None]:
        """Keep a snapshot in step with the store from now on; the block makes it the one that serves.

        Commits from now on are put into it, too. Those before are found by comparing it with the store:
        before the block, so that nothing that was removed is in it when it begins to serve, and after it.
        """
        with self.wake:
            self._next = snapshot
        try:
            self._before_serving(snapshot)
            yield
            self._since_serving(snapshot)
        finally:
            with self.wake:
                self._next = None

    @abstractmethod
    def _before_serving(self, snapshot: Snapshot) -> None:
        """Remove from a snapshot what the store has not, and add what it lacks as far as there is time."""

    @abstractmethod
    def _since_serving(self, snapshot: Snapshot) -> None:
        """Add to a snapshot that serves what it lacks of the store, in the background."""

    def _serving(self) -> Snapshot | None:
        """Return the snapshot that serves, None before the first one does."""
        try:
            return self._retriever.snapshot
        except NotReadyError:
            return None

    def _snapshots(self) -> list[Snapshot]:
        """Return the snapshot that serves and the one that is being published; `wake` must be held."""
        present = [one for one in (self._serving(), self._next) if one is not None]
        return list({id(snapshot): snapshot for snapshot in present}.values())
