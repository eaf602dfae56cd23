"""Requests that were answered: a repeated one is told what became of it and is not written again."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Self

import duckdb
import pyarrow as pa

from store.store import Store
from store.writes.request import Rejected, Request, WriteResult

WINDOW = timedelta(hours=24)
MOST = 100_000  # ids remembered; about 30 MB of memory
_TIDY_EVERY = 10_000
# The newest of an id: one that was forgotten and came again may be there twice until it is tidied away.
_REPLY = """
    SELECT reply FROM data.requests WHERE request_id = $1 ORDER BY answered_at DESC, rowid DESC LIMIT 1"""
_REMEMBERED = """
    SELECT request_id, digest, answered_at FROM (
        SELECT *, rowid AS place FROM data.requests WHERE answered_at > $1::TIMESTAMP
        ORDER BY answered_at DESC, place DESC LIMIT $2)
    ORDER BY answered_at, place"""
_TIDY = """
    DELETE FROM data.requests WHERE answered_at <= $1::TIMESTAMP OR rowid NOT IN (
        SELECT rowid FROM data.requests ORDER BY answered_at DESC, rowid DESC LIMIT $2)"""
_SET_RIGHT = "UPDATE data.requests SET answered_at = $1::TIMESTAMP WHERE answered_at > $1::TIMESTAMP"


class RequestIdReusedError(ValueError):
    """A request has the id of an earlier one and says something else."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request id {request_id!r} was used before, for another request")
        self.request_id = request_id


class RememberedRequests:
    """The ids of the requests of the last 24 hours: memory, disk and the next start go by one rule.

    A request is remembered for 24 hours from its answer on, as long as no more than 100,000 others were
    answered since; repeated later, it is a new one. A time that is ahead of the clock, because the clock was
    set back, counts as the present.
    """

    def __init__(self, known: OrderedDict[str, tuple[str, datetime]]) -> None:
        self._known = known  # digest and time by id, oldest first
        self._until_tidy = 0  # nobody knows how many the process before had answered
        self._now = _now()

    @classmethod
    def load(cls, store: Store) -> Self:
        """Return what a store remembers."""
        with store.snapshot() as cursor:
            rows = cursor.execute(_REMEMBERED, [_now() - WINDOW, MOST]).fetchall()
        return cls(OrderedDict((request_id, (digest, at)) for request_id, digest, at in rows))

    def find(self, cursor: duckdb.DuckDBPyConnection, request: Request) -> WriteResult | None:
        """Return what became of the same request before, None where it is new.

        Raises:
            RequestIdReusedError: the id belongs to another request.
        """
        digest, at = self._known.get(request.request_id, ("", datetime.min))
        if _now() - at >= WINDOW:
            return None
        if digest != request.digest:
            raise RequestIdReusedError(request.request_id)
        (reply,) = cursor.execute(_REPLY, [request.request_id]).fetchall()[0]
        said = json.loads(reply)
        rejected = tuple(Rejected(*one) for one in said.pop("rejected"))
        return WriteResult(**said, rejected=rejected)

    def remember(
        self, cursor: duckdb.DuckDBPyConnection, told: Mapping[str, WriteResult], digests: Mapping[str, str]
    ) -> None:
        """Write down, by id, what became of new requests, in the transaction that writes them."""
        if not told:
            return
        self._now = _now()
        if self._known and next(reversed(self._known.values()))[1] > self._now:
            cursor.execute(_SET_RIGHT, [self._now])
        replies = [_as_json(written) for written in told.values()]
        names, marks = list(told), [digests[name] for name in told]
        cursor.register("told", pa.table({"request_id": names, "digest": marks, "reply": replies}))
        cursor.execute("INSERT INTO data.requests SELECT *, $1 FROM told", [self._now])
        cursor.unregister("told")
        self._until_tidy -= len(told)
        if self._until_tidy <= 0:
            self._until_tidy = _TIDY_EVERY
            cursor.execute(_TIDY, [self._now - WINDOW, MOST + _TIDY_EVERY])

    def keep(self, digests: Mapping[str, str]) -> None:
        """Know requests, by id, as `remember` wrote them down: their transaction is committed."""
        for request_id, (digest, at) in reversed(self._known.items()):
            if at <= self._now:
                break
            self._known[request_id] = (digest, self._now)
        for request_id, digest in digests.items():
            self._known.pop(request_id, None)  # one that comes again is the newest
            self._known[request_id] = (digest, self._now)
        while self._known and (
            len(self._known) > MOST or self._now - next(iter(self._known.values()))[1] >= WINDOW
        ):
            self._known.popitem(last=False)


def _as_json(written: WriteResult) -> str:
    counts = {"inserted": written.inserted, "updated": written.updated, "unchanged": written.unchanged}
    counts["without_text"] = written.without_text
    return json.dumps(counts | {"rejected": written.rejected})


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
