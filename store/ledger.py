"""The ledger of erasures: who must not come back from an export or a backup, by salted hash."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from store.artifact import DamagedArtifactError, sync


@dataclass(frozen=True)
class Erasure:
    """One person erased; times are UTC without a zone."""

    erased_at: datetime
    salt: str
    user_hash: str
    models: tuple[str, ...] = ()


def user_hash(salt: str, user_id: str) -> str:
    """Return the name under which a ledger and an audit log know a person."""
    return hashlib.sha256((salt + user_id).encode()).hexdigest()


def erased_among(user_ids: Iterable[str], erasures: Iterable[Erasure], since: datetime) -> set[str]:
    """Return those who were erased after a time: what was written by then may still hold them."""
    by_salt: dict[str, set[str]] = {}
    for one in erasures:
        if one.erased_at >= since:
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
