"""What follows a commit: text vectors and both indexes are brought up to the store."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

from server.live.index_writer import IndexWriter
from server.live.items import LiveItems
from server.live.texts import LiveTexts
from server.live.users import LiveUsers
from server.query import Retriever, Snapshot
from server.supervisor import Supervisor
from store.state import UserState, bring_up_to_date
from store.store import Store
from store.writes import WrittenChange


class CommitListener:
    """Passes commits on to the workers of items, users and texts, which run while the `with` block does."""

    def __init__(
        self,
        store: Store,
        state: UserState,
        retriever: Retriever,
        supervisor: Supervisor | None = None,
        writer: IndexWriter | None = None,
    ) -> None:
        self._store = store
        self._state = state
        self.items = LiveItems(store, retriever, supervisor, writer)
        self.users = LiveUsers(store, retriever, supervisor, writer)
        self.texts = LiveTexts(store, retriever, supervisor)
        self._running = ExitStack()

    def __enter__(self) -> Self:
        for worker in (self.items, self.users, self.texts):
            self._running.enter_context(worker)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def committed(self, change: WrittenChange) -> None:
        """Pass a transaction on.

        When this returns, no search finds the items that it removed, nor users by what they share no more.
        """
        if change.texts:
            self.texts.committed(change.texts)
        if change.items:
            self.items.committed(change.items)
        if change.consents:
            self.users.withdrawn({*change.consents, *self._store.followers(change.consents)})
        if change.users:
            self.users.changed(change.users)

    def erased(self, user_id: str, followers: Iterable[str] = ()) -> None:
        """Remove an erased user from the user index, and have those who had that friend encoded again."""
        self.users.erased(user_id)
        self.users.withdrawn(followers)

    def imported(self) -> None:
        """Bring the state of users up to an import, and items and texts in the background.

        Users are encoded by the next reindex, as an import may change most of them.
        """
        bring_up_to_date(self._store, self._state)
        self.items.compare()
        self.users.compare_restricted()
        self.texts.sweep()

    def catch_up(self) -> None:
        """Bring everything up to the store, whatever of its commits was not passed on."""
        self.imported()
        self.users.compare()

    @contextmanager
    def following(self, snapshot: Snapshot) -> Iterator[None]:
        """Keep the indexes of a snapshot in step with the store; the block makes it the one that serves."""
        with self.items.following(snapshot), self.users.following(snapshot):
            yield
