"""Records that the store returns: plain data, importable without DuckDB and protobuf."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from store.attributes import parse_attributes


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """One item; `attributes` is the parsed JSON object, `updated_at` UTC without a zone.

    `vector` is an embedding that the caller brought, of 1 to 8,192 finite numbers that are not all zero, and
    of any norm, as it was written; the vectors of a store have one length. None where it has none. The store
    returns an array of float32, of four bytes a number.
    """

    item_id: str
    title: str | None
    text: str | None
    kind: str | None
    attributes: dict[str, Any]
    available: bool
    updated_at: datetime | None
    vector: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One visible (not held-out) behaviour of a user; `ts` is UTC without a zone."""

    item_id: str
    action: str = "interact"
    weight: float = 1.0
    ts: datetime | None = None


@dataclass(frozen=True, slots=True)
class Friend:
    """One friend: the weight of the friendship, and the visible history of the friend."""

    friend_id: str
    weight: float
    history: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class UserViews:
    """The three raw views of one user; a view that is absent is an empty tuple."""

    history: tuple[Event, ...] = ()
    texts: tuple[str, ...] = ()
    friends: tuple[Friend, ...] = field(default=())


def item_of_row(row: Sequence[Any]) -> ItemRecord:
    """Make an item of a row of the table `items`, its columns in the order of the table.

    Raises:
        BadAttributesError: its attributes cannot be used.
    """
    item_id, title, text, kind, attributes, available, updated_at, vector = row
    numbers = None if vector is None else array("f", vector)
    return ItemRecord(
        item_id, title, text, kind, parse_attributes(attributes), available, updated_at, numbers
    )
