"""Who asked for what about a person: lines that are only ever added, and never say who the person was."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path


def record(path: Path, action: str, **facts: object) -> None:
    """Add a line of JSON to an audit log; it is on disk when this returns."""
    line = json.dumps({"at": datetime.now(UTC).isoformat(), "action": action} | facts) + "\n"
    with path.open("ab+") as log:
        if log.tell():
            log.seek(-1, os.SEEK_END)
            if log.read(1) != b"\n":  # the last line was cut off by a crash; it is kept, for it was begun
                log.write(b"\n")
        log.write(line.encode())
        log.flush()
        os.fsync(log.fileno())
