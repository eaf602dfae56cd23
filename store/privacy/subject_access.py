"""What is stored about a person: rows, rows that an import refused, and models trained on them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from store.artifact import DamagedArtifactError, artifacts, read_manifest, sync
from store.export import Export
from store.home import Home
from store.store import Store

_ROWS = {
    "behaviors": "SELECT to_json(t) FROM data.behaviors AS t WHERE user_id = $1 ORDER BY ts, item_id, action",
    "texts": "SELECT to_json(t) FROM data.texts AS t WHERE user_id = $1 ORDER BY ts, text, occurrence",
    "social": "SELECT to_json(t) FROM data.social AS t WHERE user_id = $1 ORDER BY friend_id, relation",
    "named_by": "SELECT to_json(t) FROM data.social AS t WHERE friend_id = $1 ORDER BY user_id, relation",
}
_BATCH = 1_000


def rows_about(store: Store, user_id: str) -> Iterator[tuple[str, list[str]]]:
    """Yield table and rows, as JSON objects, of what the store holds about a person, from one state of it."""
    with store.snapshot() as cursor:
        for table, sql in _ROWS.items():
            cursor.execute(sql, [user_id])
            while rows := cursor.fetchmany(_BATCH):
                yield table, [str(row[0]) for row in rows]


def rejects_about(folder: Path, user_id: str) -> list[str]:
    """Return the refused rows of imports that name a person, as JSON objects."""
    return [line for file in _reject_files(folder) for line in _lines(file) if _names(line, user_id)]


def remove_rejects(folder: Path, user_id: str) -> int:
    """Return how many refused rows of imports named a person and were removed."""
    removed = 0
    for file in _reject_files(folder):
        lines = _lines(file)
        kept = [line for line in lines if not _names(line, user_id)]
        if len(kept) == len(lines):
            continue
        removed += len(lines) - len(kept)
        draft = file.with_name(f".{file.name}")
        draft.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        sync(draft)
        draft.replace(file)
    return removed


def trained_on(home: Home, user_id: str) -> tuple[list[str], list[str]]:
    """Return the models whose export holds rows of a person, and those whose export is gone or damaged."""
    trained, unknown = [], []
    for model_id in artifacts(home.models):
        try:
            manifest = read_manifest(home.models / model_id)
            with Export.open(home.exports / manifest["export_id"], verify=False) as export:
                if export.names(user_id):
                    trained.append(model_id)
        except DamagedArtifactError:
            unknown.append(model_id)
    return trained, unknown


def _reject_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.jsonl"))


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text("utf-8").split("\n") if line]


def _names(line: str, user_id: str) -> bool:
    """Return whether a refused row names a person; one that did not parse does where the id stands alone."""
    row: dict[str, Any] = json.loads(line)
    values = row.get("values") or {}
    if user_id in (values.get("user_id"), values.get("friend_id")):
        return True
    return re.search(rf"(?<!\w){re.escape(user_id)}(?!\w)", row.get("line") or "") is not None
