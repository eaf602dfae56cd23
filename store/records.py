"""What the store returns; plain data, no SQL and no protobuf."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Item:
    """One retrievable thing."""

    item_id: str
    title: str | None
    text: str | None
    kind: str | None
    attributes: dict[str, Any]
    available: bool
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class Event:
    """One visible (not held-out) behaviour of a user."""

    item_id: str
    action: str = "interact"
    weight: float = 1.0
    ts: datetime | None = None


@dataclass(frozen=True, slots=True)
class Friend:
    """One friend with the strength of the tie and the friend's visible history."""

    friend_id: str
    weight: float
    history: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class UserViews:
    """The three raw views of one user; a view that is absent is an empty tuple."""

    history: tuple[Event, ...] = ()
    texts: tuple[str, ...] = ()
    friends: tuple[Friend, ...] = field(default=())
