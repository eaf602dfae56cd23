"""Requests that write: their rows, reasons to refuse a row, results, and what a transaction changed."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from store.imports import UNKNOWN_VIEW
from store.masking import Masker
from store.records import ItemRecord
from store.state import NO_TIME
from store.tables import MAX_ID_BYTES, MAX_TEXT_CHARS, MAX_WEIGHT, MAX_WHOLE, VIEWS
from store.writes.events import LogPosition, LogStanding

FIRST_TIME = -62_135_596_800_000_000  # microseconds: 0001-01-01
LAST_TIME = 253_402_300_799_999_999  # 9999-12-31
BAD_TIME = LAST_TIME + 1  # stands for any value that is no time
FloatArray = npt.NDArray[np.float32]
_BLANKS = " \t\r\n"


class BehaviorRow(NamedTuple):
    """A behaviour of a user; `ts` in microseconds since 1970, NO_TIME where it has none."""

    user_id: str
    item_id: str
    action: str = "interact"
    weight: float = 1.0
    ts: int = NO_TIME


class TextRow(NamedTuple):
    """A text of a user, about an item where `item_id` is not empty; `ts` as of a behaviour."""

    user_id: str
    text: str
    item_id: str = ""
    ts: int = NO_TIME


class FriendRow(NamedTuple):
    """A friendship of a user with another; `ts` as of a behaviour."""

    user_id: str
    friend_id: str
    relation: str = "friend"
    weight: float = 1.0
    ts: int = NO_TIME


class ItemRow(NamedTuple):
    """An item with all its columns; `attributes` is JSON text, `updated_at` in microseconds since 1970.

    `vector` is of (n,) finite float32, 1 to MAX_VECTOR_LENGTH and not all zero, or None.
    """

    item_id: str
    title: str | None = None
    text: str | None = None
    kind: str | None = None
    attributes: str | None = None
    available: bool = True
    updated_at: int = NO_TIME
    vector: FloatArray | None = None


class ImpressionRow(NamedTuple):
    """An item that was shown to a user; `ts` as of a behaviour, `position` from 0, `query_id` "" for none."""

    user_id: str
    item_id: str
    ts: int = NO_TIME
    position: int | None = None
    query_id: str = ""
    clicked: bool = False


class ConsentRow(NamedTuple):
    """What a user allows to be done with a view, H, T or S; None leaves it as it is."""

    user_id: str
    view: str
    use: bool | None = None
    share: bool | None = None


class Rejected(NamedTuple):
    """A refused row: its position in the request, and the reason, in the words of an import."""

    position: int
    reason: str


@dataclass(frozen=True)
class WriteResult:
    """The result of one request, in numbers of rows.

    Attributes:
        repeated: the request was written earlier, with this result.
        without_text: items that are available and have neither title nor text.
        masked: how much was masked in the texts of the request, by kind.
        standing: where the store stands in the log of an EventBatch; None of other requests.
    """

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: tuple[Rejected, ...] = ()
    repeated: bool = False
    without_text: int = 0
    masked: Mapping[str, int] = field(default_factory=dict)
    standing: LogStanding | None = None


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
    """Friendships to put."""

    rows: Sequence[FriendRow]


@dataclass(frozen=True)
class Impressions:
    """Impressions to append."""

    rows: Sequence[ImpressionRow]


@dataclass(frozen=True)
class ConsentChanges:
    """Consents to set."""

    rows: Sequence[ConsentRow]


@dataclass(frozen=True)
class Items:
    """Items to put."""

    rows: Sequence[ItemRow]


@dataclass(frozen=True)
class Deletion:
    """Items to delete."""

    item_ids: Sequence[str]


@dataclass(frozen=True)
class EventEntry:
    """One event of a log.

    Attributes:
        sequence: in its log.
        published: when the log took it, in microseconds since 1970, NO_TIME where that is not known.
        request: what it asks to be written, None where it cannot be written.
        reason: why not.
    """

    sequence: int
    published: int
    request: "Request | None"
    reason: str = ""


@dataclass(frozen=True)
class EventBatch:
    """Events of a log to write where the store stands at `after`; it stands at `through` then."""

    log: str
    after: LogPosition
    through: LogPosition
    entries: Sequence[EventEntry]


Content = Behaviors | Texts | Friends | Impressions | ConsentChanges | Items | Deletion | EventBatch


@dataclass(frozen=True)
class Request:
    """One request; with a `request_id` ("" for none) it is written once; equal contents have one `digest`.

    `masked` tells how much was masked in its texts, by kind.
    """

    content: Content
    request_id: str = ""
    digest: str = ""
    masked: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows."""
        match self.content:
            case Deletion(item_ids):
                return len(item_ids)
            case EventBatch():
                return sum(one.request.rows for one in self.content.entries if one.request is not None)
            case _:
                return len(self.content.rows)

    def masked_by(self, masker: Masker) -> "Request":
        """Return the request with its texts masked; nothing else of it is text of a person."""
        if masker and isinstance(self.content, EventBatch):
            return self._with_masked_entries(self.content, masker)
        if not masker or not isinstance(self.content, Texts):
            return self
        texts = [masker.mask(row.text) for row in self.content.rows]
        rows = [row._replace(text=one.text) for row, one in zip(self.content.rows, texts, strict=True)]
        masked = sum((Counter(one.counts) for one in texts), Counter[str]())
        return replace(self, content=Texts(rows), masked=masked)

    def _with_masked_entries(self, batch: EventBatch, masker: Masker) -> "Request":
        entries = [
            one if one.request is None else replace(one, request=one.request.masked_by(masker))
            for one in batch.entries
        ]
        return replace(self, content=replace(batch, entries=entries))


@dataclass(frozen=True)
class WrittenChange:
    """What a transaction changed, for all that is kept beside the store.

    Attributes:
        texts: new texts, which may lack a vector.
        users: users with a new or changed row.
        consents: those of them whose consents changed.
        items: for each request that changed items, those that were put and the ids that were deleted.
        failed: the error because of which the state does not reflect the transaction yet.
    """

    texts: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    consents: tuple[str, ...] = ()
    items: tuple[tuple[tuple[ItemRecord, ...], tuple[str, ...]], ...] = ()
    failed: Exception | None = None


def refusal_of_behavior(row: BehaviorRow, items: Container[str]) -> str | None:
    """Return the reason to refuse a behaviour, or None; duplicates are not looked for."""
    user_id, item_id, action, weight, ts = row
    if not user_id:
        return "empty_user_id"
    if not item_id:
        return "empty_item_id"
    if _too_long(user_id) or _too_long(item_id):
        return "id_too_long"
    if _too_long(action):
        return "word_too_long"
    return (
        _invalid_weight_reason(weight)
        or invalid_time_reason(ts)
        or (None if item_id in items else "unknown_item")
    )


def refusal_of_text(row: TextRow, items: Container[str]) -> str | None:
    """Return the reason to refuse a text, or None."""
    user_id, text, item_id, ts = row
    if not user_id:
        return "empty_user_id"
    if _too_long(user_id) or _too_long(item_id):
        return "id_too_long"
    if not text.strip(_BLANKS):
        return "empty_text"
    if len(text) > MAX_TEXT_CHARS:
        return "text_too_long"
    return invalid_time_reason(ts) or ("unknown_item" if item_id and item_id not in items else None)


def refusal_of_friend(row: FriendRow) -> str | None:
    """Return the reason to refuse a friendship, or None; duplicates are not looked for."""
    user_id, friend_id, relation, weight, ts = row
    if not user_id:
        return "empty_user_id"
    if not friend_id:
        return "empty_friend_id"
    if _too_long(user_id) or _too_long(friend_id):
        return "id_too_long"
    if _too_long(relation):
        return "word_too_long"
    return (
        _invalid_weight_reason(weight)
        or invalid_time_reason(ts)
        or ("self_friend" if friend_id == user_id else None)
    )


def refusal_of_impression(row: ImpressionRow, items: Container[str]) -> str | None:
    """Return the reason to refuse an impression, or None."""
    user_id, item_id, ts, position, query_id, _ = row
    if not user_id:
        return "empty_user_id"
    if not item_id:
        return "empty_item_id"
    if _too_long(user_id) or _too_long(item_id) or _too_long(query_id):
        return "id_too_long"
    if position is not None and not 0 <= position <= MAX_WHOLE:
        return "bad_position"
    return (
        invalid_time_reason(ts)
        or ("no_ts_or_query_id" if ts == NO_TIME and not query_id else None)
        or (None if item_id in items else "unknown_item")
    )


def refusal_of_consent(row: ConsentRow) -> str | None:
    """Return the reason to refuse a consent, or None."""
    if not row.user_id:
        return "empty_user_id"
    if _too_long(row.user_id):
        return "id_too_long"
    return None if row.view in VIEWS else UNKNOWN_VIEW


def _too_long(name: str) -> bool:
    return len(name) > MAX_ID_BYTES // 4 and len(name.encode()) > MAX_ID_BYTES


def _invalid_weight_reason(weight: float) -> str | None:
    if not isfinite(weight):
        return "weight_not_a_number"
    if weight < 0:
        return "negative_weight"
    return "weight_too_large" if weight > MAX_WEIGHT else None


def invalid_time_reason(ts: int) -> str | None:
    """Return the reason to refuse a time in microseconds, or None."""
    return None if ts == NO_TIME or FIRST_TIME <= ts <= LAST_TIME else "unparsable_time"
