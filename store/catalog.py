"""Items as they are stored, found by id, title or kind, for people to look at."""

from dataclasses import dataclass
from datetime import datetime

from store.store import Store

MAX_BYTES = 4_000_000  # of the items that one search returns; the first is returned whatever its size

_FIND = """
    SELECT item_id, title, {long}, kind, available, updated_at FROM data.items
    WHERE item_id > $after {conditions} ORDER BY item_id LIMIT $limit"""
_NAMED = "AND item_id IN (SELECT unnest($item_ids))"
_OF_KIND = "AND kind IN (SELECT unnest($kinds))"
_CONTAINING = "AND (contains(lower(item_id), lower($contains)) OR contains(lower(title), lower($contains)))"


@dataclass(frozen=True)
class ItemSearch:
    """Which items are wanted, all conditions together.

    Attributes:
        item_ids: only these, where any are named.
        contains: only items whose id or title contains this, in any case; "" for all.
        kinds: only items of one of these, where any are named.
        after: only items whose id comes after this one.
        limit: at most so many.
        brief: without text and attributes.
        available: only items that are available.
    """

    item_ids: tuple[str, ...] = ()
    contains: str = ""
    kinds: tuple[str, ...] = ()
    after: str = ""
    limit: int = 100
    brief: bool = False
    available: bool = False


@dataclass(frozen=True)
class StoredItem:
    """An item as it is stored: `attributes` is JSON as it was written, `updated_at` UTC without a zone."""

    item_id: str
    title: str | None
    text: str | None
    attributes: str | None
    kind: str | None
    available: bool
    updated_at: datetime | None


def find_items(store: Store, search: ItemSearch) -> tuple[list[StoredItem], bool]:
    """Return items in the order of their ids, and whether others follow: the limit, or 4 MB, is reached."""
    given: dict[str, object] = {"after": search.after, "limit": search.limit + 1}
    conditions = []
    for name, condition in (("item_ids", _NAMED), ("kinds", _OF_KIND), ("contains", _CONTAINING)):
        if value := getattr(search, name):
            given[name] = list(value) if isinstance(value, tuple) else value
            conditions.append(condition)
    if search.available:
        conditions.append("AND available")
    long = "NULL, NULL" if search.brief else "text, attributes::VARCHAR"
    found, size = list[StoredItem](), 0
    with store.snapshot() as cursor:
        rows = cursor.execute(_FIND.format(long=long, conditions=" ".join(conditions)), given)
        while row := rows.fetchone():
            item = StoredItem(*row)
            size += sum(len(value.encode()) for value in row[:5] if value)
            if len(found) == search.limit or (found and size > MAX_BYTES):
                return found, True
            found.append(item)
    return found, False
