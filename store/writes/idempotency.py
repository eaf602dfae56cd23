"""Idempotency: a request with an id is written once; repeated, it gets the result of the first time."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Self

import duckdb
import pyarrow as pa

from store.database import utc_now
from store.store import Store
from store.writes.request import Rejected, Request, WriteResult

WINDOW = timedelta(hours=24)
MOST_SINCE = 100_000  # other ids answered since, with which an id is still remembered; 30 MB of memory
_TIDY_EVERY = 10_000  # ids between deletions of old rows
# The newest: an id that was forgotten and came again may have two rows until the old one is deleted.
_RESULT = """
    SELECT reply FROM data.requests WHERE request_id = $1 ORDER BY answered_at DESC, rowid DESC LIMIT 1"""
_REMEMBERED = """
    SELECT request_id, digest, answered_at FROM (
        SELECT *, rowid AS place FROM data.requests WHERE answered_at > $1::TIMESTAMP
        ORDER BY answered_at DESC, place DESC LIMIT $2)
    ORDER BY answered_at, place"""
_DELETE_OLD = """
    DELETE FROM data.requests WHERE answered_at <= $1::TIMESTAMP OR rowid NOT IN (
        SELECT rowid FROM data.requests ORDER BY answered_at DESC, rowid DESC LIMIT $2)"""
_CORRECT_TIMES = "UPDATE data.requests SET answered_at = $1::TIMESTAMP WHERE answered_at > $1::TIMESTAMP"


class RequestIdReusedError(ValueError):
    """A request has the id of an earlier one and other content."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request id {request_id!r} was used before, for another request")
        self.request_id = request_id


class RememberedRequests:
    """The ids of answered requests, by one rule in memory, on disk and after a restart.

    An id is remembered until 24 hours after its answer, but not once more than MOST_SINCE other ids were
    answered after it: at a high rate that is sooner. A request with a forgotten id is a new one. Ages go by
    the wall clock. Where it was set back, the next new id corrects later times to the present, so no id is
    remembered for ever; without a new id, those of the future stay.
    """

    def __init__(self, known: OrderedDict[str, tuple[str, datetime]]) -> None:
        self._known = known  # (digest, time of the answer) by id, oldest first
        self._until_tidy = 0  # at once: the process before may have been about to delete old rows
        self._now = utc_now()

    @classmethod
    def load(cls, store: Store) -> Self:
        """Read the remembered ids of a store."""
        with store.snapshot() as cursor:
            rows = cursor.execute(_REMEMBERED, [utc_now() - WINDOW, MOST_SINCE + 1]).fetchall()
        return cls(OrderedDict((request_id, (digest, at)) for request_id, digest, at in rows))

    def find(self, cursor: duckdb.DuckDBPyConnection, request: Request) -> WriteResult | None:
        """Look up the result of the same request, None where it is new.

        Raises:
            RequestIdReusedError: the id belongs to a request with another digest.
        """
        digest, answered_at = self._known.get(request.request_id, ("", datetime.min))
        if utc_now() - answered_at >= WINDOW:
            return None
        if digest != request.digest:
            raise RequestIdReusedError(request.request_id)
        (reply,) = cursor.execute(_RESULT, [request.request_id]).fetchall()[0]
        fields = json.loads(reply)
        rejected = tuple(Rejected(*one) for one in fields.pop("rejected"))
        return WriteResult(**fields, rejected=rejected)

    def insert(
        self,
        cursor: duckdb.DuckDBPyConnection,
        results: Mapping[str, WriteResult],
        digests: Mapping[str, str],
    ) -> None:
        """Insert the results of new requests, by id, in the transaction that writes their rows."""
        if not results:
            return
        self._now = utc_now()
        if self._known and next(reversed(self._known.values()))[1] > self._now:
            cursor.execute(_CORRECT_TIMES, [self._now])
        table = pa.table(
            {
                "request_id": list(results),
                "digest": [digests[request_id] for request_id in results],
                "reply": [_as_json(result) for result in results.values()],
            }
        )
        cursor.register("new_requests", table)
        cursor.execute("INSERT INTO data.requests SELECT *, $1 FROM new_requests", [self._now])
        cursor.unregister("new_requests")
        self._until_tidy -= len(results)
        if self._until_tidy <= 0:
            self._until_tidy = _TIDY_EVERY
            cursor.execute(_DELETE_OLD, [self._now - WINDOW, MOST_SINCE + 1 + _TIDY_EVERY])

    def remember(self, digests: Mapping[str, str]) -> None:
        """Remember the requests, by id, that `insert` inserted: their transaction is committed."""
        for request_id, (digest, answered_at) in reversed(self._known.items()):
            if answered_at <= self._now:
                break
            self._known[request_id] = (digest, self._now)
        for request_id, digest in digests.items():
            self._known.pop(request_id, None)  # an id that comes again moves to the end
            self._known[request_id] = (digest, self._now)
        while self._known and (
            len(self._known) > MOST_SINCE + 1 or self._now - next(iter(self._known.values()))[1] >= WINDOW
        ):
            self._known.popitem(last=False)


def _as_json(result: WriteResult) -> str:
    counts = {"inserted": result.inserted, "updated": result.updated, "unchanged": result.unchanged}
    counts["without_text"] = result.without_text
    return json.dumps(counts | {"rejected": result.rejected, "masked": dict(result.masked)})
