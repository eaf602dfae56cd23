"""Whose vectors lie in the files of user indexes, whether a search finds them or not."""

from pathlib import Path

import pyarrow as pa

from indexer.files import MainPart, read_delta
from indexer.users import FOLDER
from store.artifact import artifacts


def stored_users(directory: Path) -> list[str]:
    """Return the ids behind the vectors in an index directory; none where it has no user index.

    Raises:
        OSError, ValueError: a file is missing or damaged.
    """
    if not (directory / FOLDER).is_dir():
        return []
    late = [change.item_id for change in read_delta(directory / FOLDER)[0]]
    ids: list[str] = MainPart.open(directory / FOLDER).ids.column.to_pylist()
    return ids + late


def indexes_with(parent: Path, user_id: str) -> tuple[str, ...]:
    """Return the indexes below a folder with a vector of a user; one that cannot be read counts as such."""
    return tuple(index_id for index_id in artifacts(parent) if _holds(parent / index_id / FOLDER, user_id))


def _holds(users: Path, user_id: str) -> bool:
    if not users.is_dir():
        return False
    try:
        if MainPart.open(users).ids.rows([user_id])[0] >= 0:
            return True
        return any(change.item_id == user_id for change in read_delta(users)[0])
    except (OSError, ValueError, KeyError, pa.ArrowInvalid):
        return True
