"""Requests that were answered: a repeated one is told what became of it and is not written again."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Self

import duckdb
import pyarrow as pa

from store.duck import Store
from store.requests import Request
from store.rows import Rejected, Written

WINDOW = timedelta(hours=24)
MOST = 100_000  # ids remembered, whatever their age; about 20 MB of memory
_TIDY_EVERY = 10_000
_REPLY = "SELECT reply FROM data.requests WHERE request_id = $1"


class RequestIdReusedError(ValueError):
    """A request has the id of an earlier one and says something else."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request id {request_id!r} was used before, for another request")
        self.request_id = request_id


class Answered:
    """The ids of the requests of the last 24 hours, or of the last 100,000 where there are more."""

    def __init__(self, digests: OrderedDict[str, str]) -> None:
        self._digests = digests
        self._until_tidy = _TIDY_EVERY

    @classmethod
    def load(cls, store: Store) -> Self:
        """Return what a store remembers."""
        with store.snapshot() as cursor:
            rows = cursor.execute(
                """
                FROM (SELECT request_id, digest, answered_at FROM data.requests WHERE answered_at > $1
                    ORDER BY answered_at DESC LIMIT $2) ORDER BY answered_at""",
                [_now() - WINDOW, MOST],
            ).fetchall()
        return cls(OrderedDict((request_id, digest) for request_id, digest, _ in rows))

    def find(self, cursor: duckdb.DuckDBPyConnection, request: Request) -> Written | None:
        """Return what became of the same request before, None where it is new.

        Raises:
            RequestIdReusedError: the id belongs to another request.
        """
        digest = self._digests.get(request.request_id)
        if digest is None:
            return None
        if digest != request.digest:
            raise RequestIdReusedError(request.request_id)
        (reply,) = cursor.execute(_REPLY, [request.request_id]).fetchall()[0]
        said = json.loads(reply)
        rejected = tuple(Rejected(*one) for one in said.pop("rejected"))
        return Written(**said, rejected=rejected)

    def remember(
        self, cursor: duckdb.DuckDBPyConnection, told: Mapping[str, Written], digests: Mapping[str, str]
    ) -> None:
        """Write down, by id, what became of new requests, in the transaction that writes them."""
        if not told:
            return
        replies = [_as_json(written) for written in told.values()]
        names, marks = list(told), [digests[name] for name in told]
        cursor.register("told", pa.table({"request_id": names, "digest": marks, "reply": replies}))
        cursor.execute("INSERT INTO data.requests SELECT *, $1 FROM told", [_now()])
        cursor.unregister("told")
        self._until_tidy -= len(told)
        if self._until_tidy <= 0:
            self._until_tidy = _TIDY_EVERY
            _tidy(cursor)

    def keep(self, digests: Mapping[str, str]) -> None:
        """Know requests, by id, from now on: their transaction is committed."""
        self._digests.update(digests)
        while len(self._digests) > MOST + _TIDY_EVERY:
            self._digests.popitem(last=False)


def _tidy(cursor: duckdb.DuckDBPyConnection) -> None:
    cursor.execute(
        """
        DELETE FROM data.requests WHERE answered_at <= $1::TIMESTAMP OR answered_at <= (
            SELECT answered_at FROM data.requests ORDER BY answered_at DESC LIMIT 1 OFFSET $2)""",
        [_now() - WINDOW, MOST + _TIDY_EVERY],
    )


def _as_json(written: Written) -> str:
    counts = {"inserted": written.inserted, "updated": written.updated, "unchanged": written.unchanged}
    counts["without_text"] = written.without_text
    return json.dumps(counts | {"rejected": written.rejected})


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
