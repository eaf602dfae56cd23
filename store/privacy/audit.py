"""The audit log: who asked for what about a user, as JSON lines that only name users by a salted hash."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from store.database import single_value
from store.ledger import user_hash
from store.store import Store


def append_audit_line(path: Path, action: str, **facts: object) -> None:
    """Append a line of JSON to an audit log and bring it to disk."""
    line = json.dumps({"at": datetime.now(UTC).isoformat(), "action": action} | facts) + "\n"
    with path.open("ab+") as log:
        if log.tell():
            log.seek(-1, os.SEEK_END)
            if log.read(1) != b"\n":  # a crash cut the last line off; it stays, because its action was begun
                log.write(b"\n")
        log.write(line.encode())
        log.flush()
        os.fsync(log.fileno())


def pseudonym(store: Store, user_id: str) -> str:
    """Return the salted hash that stands for a user in the audit log."""
    with store.snapshot() as cursor:
        return user_hash(single_value(cursor, "SELECT salt FROM data.salt"), user_id)
