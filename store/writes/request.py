"""What a request asks to be written, and what a transaction of several changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from store.records import Item
from store.writes.rows import BehaviorRow, FriendRow, ItemRow, TextRow


@dataclass(frozen=True)
class Behaviors:
    """Behaviours to append."""

    rows: Sequence[BehaviorRow]


@dataclass(frozen=True)
class Texts:
    """Texts to append."""

    rows: Sequence[TextRow]


@dataclass(frozen=True)
class Friends:
    """Ties to put."""

    rows: Sequence[FriendRow]


@dataclass(frozen=True)
class Items:
    """Items to put."""

    rows: Sequence[ItemRow]


@dataclass(frozen=True)
class Deletion:
    """Items to delete."""

    item_ids: Sequence[str]


Content = Behaviors | Texts | Friends | Items | Deletion


@dataclass(frozen=True)
class Request:
    """What to write; one with an id ("" for none) is written once, and `digest` tells equal ones."""

    content: Content
    request_id: str = ""
    digest: str = ""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.content.item_ids if isinstance(self.content, Deletion) else self.content.rows)


@dataclass(frozen=True)
class WrittenChange:
    """What a transaction changed, for those who keep something beside the store.

    `texts` are new and may lack a vector; `put` and `deleted` are items in the order of their requests;
    `users` are those of whom a row is new or other; `failed` is what kept the state of users from following.
    """

    texts: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    items: tuple[tuple[tuple[Item, ...], tuple[str, ...]], ...] = ()
    failed: Exception | None = None
