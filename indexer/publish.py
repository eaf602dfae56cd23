"""Publishing: load an index with its model, make it CURRENT, roll back, prune."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from encoder.runtime import Model
from indexer.index import Elsewhere, Index
from indexer.users import open_users
from store.artifact import DamagedArtifactError, artifacts, read_pointer, remove_artifact, set_pointer
from store.home import Home
from store.locks import locked


class IndexNotFoundError(LookupError):
    """No index has that id."""

    def __init__(self, index_id: str, known: Sequence[str]) -> None:
        super().__init__(f"there is no index {index_id!r}; there are: {', '.join(known) or 'none'}")
        self.index_id = index_id


class NoOlderIndexError(LookupError):
    """No index is older than the one that serves: a rollback is impossible."""


@dataclass(frozen=True)
class LoadedIndex:
    """An index, the model that made its vectors, and its user index; None for an index without one."""

    index: Index
    model: Model
    users: Index | None = None


def load_index(
    home: Home,
    index_id: str,
    *,
    threads: int | None = None,
    check: bool = True,
    elsewhere: Elsewhere | None = None,
) -> LoadedIndex:
    """Load an index, its model and its user index.

    Args:
        home: where they are.
        index_id: of the index.
        threads: of the model per call; None lets ONNX Runtime choose.
        check: compare the checksums of all their files first.
        elsewhere: opens what finds candidates in place of FAISS.

    Raises:
        IndexNotFoundError: no index has that id.
        DamagedArtifactError: a file of either is missing or damaged, or they do not belong together.
    """
    if index_id not in artifacts(home.indexes):
        raise IndexNotFoundError(index_id, artifacts(home.indexes))
    index = Index.load(home.indexes / index_id, check=check, elsewhere=elsewhere)
    if index.model_id not in artifacts(home.models):
        raise DamagedArtifactError(home.models / index.model_id, f"is missing and index {index_id} needs it")
    model = Model.load(home.models / index.model_id, threads=threads, check=check)
    if model.dim != index.dim:
        raise DamagedArtifactError(
            home.indexes / index_id, f"has dim {index.dim}, but its model {model.model_id} has {model.dim}"
        )
    return LoadedIndex(index, model, open_users(home.indexes / index_id, index.manifest))


def changing_current(home: Home) -> AbstractContextManager[None]:
    """Hold the lock of CURRENT while the block runs: to write it, or to load the index that it names."""
    return locked(home.current_lock, wait=True, make=True)


def publish(home: Home, index_id: str) -> LoadedIndex:
    """Make an index CURRENT after checking it and its model, and return it loaded.  Raises: as `load_index`.

    Only for a home without a running server, and within `changing_current`.
    """
    loaded = load_index(home, index_id)
    set_pointer(home.current_index, index_id)
    return loaded


def current_index(home: Home) -> Path:
    """Return the directory of the index that serves.

    Raises:
        NotPublishedError: there is no CURRENT yet.
        DamagedArtifactError: CURRENT names no index.
    """
    return read_pointer(home.current_index, home.indexes)


def previous_index(home: Home) -> str:
    """Return the id of the newest index older than the one that serves.

    Raises:
        NoOlderIndexError: there is none.
    """
    return index_before(current_index(home).name, artifacts(home.indexes))


def index_before(current: str, index_ids: Sequence[str]) -> str:
    """Return the newest of some indexes that is older than another.  Raises: NoOlderIndexError."""
    older = [index_id for index_id in index_ids if index_id < current]
    if not older:
        raise NoOlderIndexError(f"there is no index older than {current} to roll back to")
    return max(older)


def prune(home: Home, keep: int) -> list[str]:
    """Remove all but the newest `keep` indexes and the one that serves; return the ids removed."""
    removed = prunable(current_index(home).name, artifacts(home.indexes), keep)
    for index_id in removed:
        remove_index(home, index_id)
    return removed


def prunable(current: str, index_ids: Sequence[str], keep: int) -> list[str]:
    """Return those of some indexes, oldest first, that are not among the newest `keep` and do not serve."""
    return [index_id for index_id in index_ids[: max(0, len(index_ids) - keep)] if index_id != current]


def remove_index(home: Home, index_id: str) -> None:
    """Remove the directory of an index; it vanishes at once and whole, even if the removal is cut short."""
    remove_artifact(home.indexes / index_id)
