"""The ledger of erasures: which users must not come back from an export or a backup, by salted hash.

The ledger is a table of the store; each home, export and backup holds a copy as a file. The copy in an export
is of the same snapshot as its rows, so an erasure that it lacks is one that its rows do not reflect. No
clocks are compared, and homes may be copied and restored.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.artifact import DamagedArtifactError
from store.disk import replace_file

if TYPE_CHECKING:
    import duckdb

LEDGER = "erasures.json"  # name of the file in a home and in an export
_CLOCK_SKEW = timedelta(hours=1)  # between clocks, at most, when an export without a ledger was made


@dataclass(frozen=True)
class Erasure:
    """The erasure of one user; `erased_at` is UTC without a zone, `models` were trained on the user."""

    erased_at: datetime
    salt: str
    user_hash: str
    models: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[datetime, str, str]:
        """What tells an erasure from all others: a store gives no time twice to one user."""
        return self.erased_at, self.salt, self.user_hash


def user_hash(salt: str, user_id: str) -> str:
    """Return the sha256, hexadecimal, under which a ledger and an audit log know a user."""
    return hashlib.sha256((salt + user_id).encode()).hexdigest()


def erasures_missing_from(
    export: Path, manifest: Mapping[str, Any], erasures: Iterable[Erasure]
) -> list[Erasure]:
    """Return the erasures that are missing from the ledger of an export: its rows may hold these users.

    An export of an earlier version has no ledger. By the time in its manifest, what was erased later or up to
    an hour before counts as missing.

    Raises:
        DamagedArtifactError: the ledger of the export is damaged.
    """
    if LEDGER not in manifest["files"]:
        return erasures_since(datetime.fromisoformat(manifest["created_at"]), erasures)
    known = {one.identity for one in read_ledger(export / LEDGER)}
    return [one for one in erasures if one.identity not in known]


def erasures_since(made: datetime, erasures: Iterable[Erasure]) -> list[Erasure]:
    """Return the erasures after a time (UTC), and those up to an hour before: clocks may have disagreed."""
    earliest = made.replace(tzinfo=None) - _CLOCK_SKEW
    return [one for one in erasures if one.erased_at >= earliest]


def merge_ledgers(*ledgers: Iterable[Erasure]) -> list[Erasure]:
    """Merge ledgers: each erasure once, oldest first."""
    return [one for _, one in sorted({one.identity: one for ledger in ledgers for one in ledger}.items())]


def erased_users(user_ids: Iterable[str], erasures: Iterable[Erasure]) -> set[str]:
    """Return those of some users that the erasures name."""
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


def erasures_of(user_ids: Iterable[str], erasures: Iterable[Erasure]) -> list[Erasure]:
    """Return those of some erasures that name one of some users."""
    known, some = list(erasures), list(user_ids)
    hashes = {salt: {user_hash(salt, one) for one in some} for salt in {one.salt for one in known}}
    return [one for one in known if one.user_hash in hashes[one.salt]]


def write_ledger(path: Path, erasures: Iterable[Erasure]) -> None:
    """Replace a ledger file, durably.

    Raises:
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more; the file is as it was.
    """
    replace_file(path, dump_ledger(erasures).decode())


def dump_ledger(erasures: Iterable[Erasure]) -> bytes:
    """Return what is in a ledger file."""
    entries = [asdict(one) | {"erased_at": one.erased_at.isoformat()} for one in erasures]
    return (json.dumps({"erasures": entries}, indent=1) + "\n").encode()


def read_ledger(path: Path) -> tuple[Erasure, ...]:
    """Read a ledger file; a missing file has no erasures.

    Raises:
        DamagedArtifactError: the file is not what was written.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return ()
    return parse_ledger(raw, path)


def parse_ledger(raw: bytes, path: Path | str) -> tuple[Erasure, ...]:
    """Parse what is in the ledger file at a path or URL.

    Raises:
        DamagedArtifactError: it is not what was written.
    """
    try:
        return tuple(
            Erasure(
                datetime.fromisoformat(one["erased_at"]), one["salt"], one["user_hash"], tuple(one["models"])
            )
            for one in json.loads(raw)["erasures"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedArtifactError(path, "is damaged: it is no ledger of erasures") from error


def read_erasures(cursor: "duckdb.DuckDBPyConnection") -> list[Erasure]:
    """Read the ledger of the store that a cursor sees, oldest erasure first."""
    rows = cursor.execute(
        "SELECT erased_at, salt, user_hash, models FROM data.erasures ORDER BY erased_at"
    ).fetchall()
    return [Erasure(at, salt, hashed, tuple(models)) for at, salt, hashed, models in rows]
