"""Events of a log: batches that are written with the position up to which the log was read.

A batch names the position that it follows. It is written where the store stands there, in one transaction
with its own end as the new position; otherwise nothing is. So whoever repeats a batch, reads the log twice or
races another reader writes each event once.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

import duckdb

from store.database import utc_now
from store.ledger import Erasure, read_erasures, user_hash

ERASED = "erased"  # the person of a row was erased after the log took the event
REQUEST_ID_REUSED = "request_id_reused"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)
_COLUMNS = "epoch, sequence, events, inserted, updated, unchanged, rejected"
_READ = f"SELECT {_COLUMNS}, refusals FROM data.logs WHERE log = $1"
_REPLACE = "INSERT INTO data.logs VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
_Row = TypeVar("_Row")


class LogPosition(NamedTuple):
    """How far a log was read: its epoch, which tells apart logs of one name, and the last sequence."""

    epoch: str = ""
    sequence: int = 0


class RefusedEvent(NamedTuple):
    """A row of an event that was not written, or, without a position, the whole event."""

    sequence: int
    reason: str
    position: int | None = None


@dataclass(frozen=True)
class LogStanding:
    """Where a store stands in a log.

    Attributes:
        position: of the last event that was read.
        events, inserted, updated, unchanged, rejected: sums of all batches so far.
        refusals: of the last batch.
    """

    position: LogPosition = field(default_factory=LogPosition)
    events: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    refusals: tuple[RefusedEvent, ...] = ()


def read_standing(cursor: duckdb.DuckDBPyConnection, log: str) -> LogStanding:
    """Read where the store stands in a log; in one that it does not know, before its beginning."""
    rows = cursor.execute(_READ, [log]).fetchall()
    if not rows:
        return LogStanding()
    epoch, sequence, events, inserted, updated, unchanged, rejected, refusals = rows[0]
    refused = tuple(RefusedEvent(*one) for one in json.loads(refusals))
    position = LogPosition(epoch, sequence)
    return LogStanding(position, events, inserted, updated, unchanged, rejected, refused)


def write_standing(cursor: duckdb.DuckDBPyConnection, log: str, standing: LogStanding) -> None:
    """Write where the store stands in a log, in the transaction that writes the rows."""
    sums = standing.events, standing.inserted, standing.updated, standing.unchanged, standing.rejected
    cursor.execute("DELETE FROM data.logs WHERE log = $1", [log])
    cursor.execute(_REPLACE, [log, *standing.position, *sums, json.dumps(standing.refusals), utc_now()])


@dataclass
class ErasedSince:
    """Tells whose erasure is later than an event, by the ledger of the store.

    Whoever was erased and writes again is known by events that the log took after the erasure.
    """

    _ledger: Sequence[Erasure]
    _last: dict[str, int] = field(default_factory=dict)  # microseconds of the last erasure, by user

    @classmethod
    def read(cls, cursor: duckdb.DuckDBPyConnection, published: Iterable[int]) -> "ErasedSince":
        """Read the erasures after the earliest of some times, in microseconds since 1970."""
        earliest = min(published, default=None)
        if earliest is None:
            return cls(())
        since = _EPOCH + timedelta(microseconds=earliest)
        return cls([one for one in read_erasures(cursor) if one.erased_at >= since])

    def __bool__(self) -> bool:
        return bool(self._ledger)

    def names(self, user_id: str, published: int) -> bool:
        """Return whether a user was erased at a time or later."""
        if user_id not in self._last:
            hashes = {salt: user_hash(salt, user_id) for salt in {one.salt for one in self._ledger}}
            times = [one.erased_at for one in self._ledger if one.user_hash == hashes[one.salt]]
            last = max(times, default=None)
            self._last[user_id] = -1 if last is None else (last - _EPOCH) // timedelta(microseconds=1)
        return self._last[user_id] >= published


def add_batch(
    before: LogStanding,
    through: LogPosition,
    events: int,
    counts: Mapping[str, int],
    refusals: Sequence[RefusedEvent],
) -> LogStanding:
    """Return where a store stands after a batch; `counts` are inserted, updated and unchanged rows."""
    return replace(
        before,
        position=through,
        events=before.events + events,
        inserted=before.inserted + counts["inserted"],
        updated=before.updated + counts["updated"],
        unchanged=before.unchanged + counts["unchanged"],
        rejected=before.rejected + len(refusals),
        refusals=tuple(sorted(refusals, key=lambda one: (one.sequence, one.position or 0))),
    )
