"""The ledger of erasures: who must not come back from an export or a backup, by salted hash.

Which erasures an export or a backup does not know yet is told by its own ledger, which is that of the very
state that it copied: no clocks are compared, and nothing is assumed of homes that were copied or restored.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from store.artifact import DamagedArtifactError
from store.disk import sync

LEDGER = "erasures.json"  # of a home, and of an export
_CLOCKS = timedelta(hours=1)  # that may have disagreed when an export without a ledger was made


@dataclass(frozen=True)
class Erasure:
    """One person erased; times are UTC without a zone."""

    erased_at: datetime
    salt: str
    user_hash: str
    models: tuple[str, ...] = ()

    @property
    def name(self) -> tuple[datetime, str, str]:
        """What tells an erasure from all others; a store gives no time twice for one person."""
        return self.erased_at, self.salt, self.user_hash


def user_hash(salt: str, user_id: str) -> str:
    """Return the name under which a ledger and an audit log know a person."""
    return hashlib.sha256((salt + user_id).encode()).hexdigest()


def erasures_missing_from(
    export: Path, manifest: Mapping[str, Any], erasures: Iterable[Erasure]
) -> list[Erasure]:
    """Return the erasures that the rows of an export were copied without.

    An export of an earlier version carries no ledger. It tells only when it was made, so what was erased up
    to an hour before it counts as unknown to it, too.

    Raises:
        DamagedArtifactError: the ledger of the export is damaged.
    """
    if LEDGER not in manifest["files"]:
        return erasures_since(datetime.fromisoformat(manifest["created_at"]), erasures)
    known = {one.name for one in read_ledger(export / LEDGER)}
    return [one for one in erasures if one.name not in known]


def erasures_since(made: datetime, erasures: Iterable[Erasure]) -> list[Erasure]:
    """Return the erasures that what was made at a time, UTC, may not know."""
    earliest = made.replace(tzinfo=None) - _CLOCKS
    return [one for one in erasures if one.erased_at >= earliest]


def merge_ledgers(*ledgers: Iterable[Erasure]) -> list[Erasure]:
    """Return the erasures of several ledgers, each once, oldest first."""
    return [one for _, one in sorted({one.name: one for ledger in ledgers for one in ledger}.items())]


def erased_users(user_ids: Iterable[str], erasures: Iterable[Erasure]) -> set[str]:
    """Return those whom some erasures name."""
    by_salt: dict[str, set[str]] = {}
    for one in erasures:
        by_salt.setdefault(one.salt, set()).add(one.user_hash)
    if not by_salt:
        return set()
    return {
        user_id
        for user_id in user_ids
        if any(user_hash(salt, user_id) in hashes for salt, hashes in by_salt.items())
    }


def write_ledger(path: Path, erasures: Iterable[Erasure]) -> None:
    """Replace a ledger file: one durable rename."""
    entries = [asdict(one) | {"erased_at": one.erased_at.isoformat()} for one in erasures]
    draft = path.with_name(f".{path.name}.tmp")  # whoever owns the store writes it, so there is one writer
    draft.write_text(json.dumps({"erasures": entries}, indent=1) + "\n", "utf-8")
    sync(draft)
    draft.replace(path)
    sync(path.parent)


def read_ledger(path: Path) -> tuple[Erasure, ...]:
    """Return the erasures of a ledger file, none where there is no file.

    Raises:
        DamagedArtifactError: the file is not what was written.
    """
    try:
        entries = json.loads(path.read_text("utf-8"))["erasures"]
        return tuple(
            Erasure(
                datetime.fromisoformat(one["erased_at"]), one["salt"], one["user_hash"], tuple(one["models"])
            )
            for one in entries
        )
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedArtifactError(path, "is damaged: it is no ledger of erasures") from error


def read_erasures(cursor: duckdb.DuckDBPyConnection) -> list[Erasure]:
    """Return the ledger of the state that the cursor sees, oldest first."""
    rows = cursor.execute(
        "SELECT erased_at, salt, user_hash, models FROM data.erasures ORDER BY erased_at"
    ).fetchall()
    return [Erasure(at, salt, hashed, tuple(models)) for at, salt, hashed, models in rows]
