"""What Ingest does beside single writes: erasing people, telling what is stored about them, whole imports."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from encoder.text.cache import TextCache
from encoder.text.source import text_model_dims
from indexer.building.users import indexes_with
from server.live.texts import CommitListener
from server.live.writer import GroupCommit
from store.artifact import artifacts
from store.home import Home
from store.imports.files import AmbiguousFilesError, NothingToImportError, UnknownFormatError
from store.imports.readers import MissingColumnError
from store.imports.rejects import ImportRejectedError
from store.imports.run import ImportOptions, ImportReport, UnusableColumnError, import_folder
from store.imports.text_files import UnknownEncodingError, UnreadableFileError
from store.imports.time_columns import AmbiguousTimesError, UnknownTimesError
from store.privacy.audit import record
from store.privacy.erase import Unfinished, erase, erasures, finish, name_of, unfinished
from store.privacy.ledger import write_ledger
from store.privacy.subject_access import rejects_about, remove_rejects, rows_about, trained_on
from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
from store.store import Store

IMPORT_ERRORS = (
    AmbiguousFilesError,
    AmbiguousTimesError,
    ImportRejectedError,
    MissingColumnError,
    NotADirectoryError,
    NothingToImportError,
    UnknownEncodingError,
    UnknownFormatError,
    UnknownTimesError,
    UnreadableFileError,
    UnusableColumnError,
)
log = logging.getLogger(__name__)


class NotThisMachineError(PermissionError):
    """A call that names files of the server's machine came from another one."""

    def __init__(self, peer: str) -> None:
        super().__init__(f"only callers on the server's own machine may import a folder, not {peer}")
        self.peer = peer


@dataclass(frozen=True)
class Erased:
    """What an erasure removed, by kind; models that still know the person, or may; indexes on disk, too."""

    removed: dict[str, int]
    models: tuple[str, ...]
    unknown_models: tuple[str, ...]
    indexes: tuple[str, ...]


class Ingest:
    """The writes that concern more than rows; each runs alone, between the transactions of others."""

    def __init__(
        self,
        home: Home,
        store: Store,
        state: UserState,
        cache: TextCache,
        commit: GroupCommit,
        after: CommitListener,
    ) -> None:
        self._home = home
        self._store = store
        self._state = state
        self._cache = cache
        self._after = after
        self.commit = commit

    def resume(self) -> None:
        """Finish the erasures that a crash interrupted; the ledger file is that of the store afterwards."""
        for rest in unfinished(self._store):
            log.info("finishing an erasure that was interrupted")
            self._finish(rest, "", resumed=True)
        write_ledger(self._home.erasures, erasures(self._store))

    def erase(self, user_id: str, peer: str) -> Erased:
        """Return what was removed of a person, durably, when nothing is left."""
        models, unknown = trained_on(self._home, user_id)

        def run() -> Erased:
            rest = erase(self._store, self._state, user_id, models, unknown)
            self._after.erased(user_id)
            return self._finish(rest, peer, resumed=False)

        return self.commit.alone(run)

    def export(self, user_id: str, peer: str) -> Iterator[tuple[str, list[str]]]:
        """Yield table and rows, as JSON objects, of all that is stored about a person."""
        record(self._home.audit_log, "export_user", user=name_of(self._store, user_id), peer=peer)
        yield from rows_about(self._store, user_id)
        rejects = rejects_about(self._home.rejects, user_id)
        if rejects:
            yield "rejects", rejects
        models, unknown = trained_on(self._home, user_id)
        for model_id in models:
            yield "models", [f'{{"model_id": "{model_id}", "trained_on": true}}']
        for model_id in unknown:
            yield "models", [f'{{"model_id": "{model_id}", "trained_on": null}}']
        for index_id in indexes_with(self._home.indexes, user_id):
            yield "indexes", [f'{{"index_id": "{index_id}"}}']

    def import_folder(self, path: Path, options: ImportOptions) -> ImportReport:
        """Return what became of a folder's tables, when queries see them.  Raises: any of IMPORT_ERRORS."""

        def run() -> ImportReport:
            dims = text_model_dims(self._home.text_models)
            return import_folder(
                self._store, path, rejects=self._home.rejects, options=replace(options, dims=dims)
            )

        def follow() -> None:
            bring_up_to_date(self._store, self._state)
            self._after.imported()

        return self.commit.alone(run, follow)

    def _finish(self, rest: Unfinished, peer: str, *, resumed: bool) -> Erased:
        """Remove what lies outside the store, write it down, then forget who it was."""
        write_ledger(
            self._home.erasures, erasures(self._store)
        )  # first: who reads exports sees it with the fence
        digests = [bytes.fromhex(digest) for digest in rest.digests]
        text_models = [one for one in artifacts(self._home.text_models) if one != self._home.text_cache.name]
        vectors = sum(self._cache.discard(text_model_id, digests) for text_model_id in text_models)
        refused = remove_rejects(self._home.rejects, rest.user_id)
        removed = rest.removed | {"text_vectors": vectors, "rejects": refused}
        indexes = indexes_with(self._home.indexes, rest.user_id)
        record(
            self._home.audit_log,
            "erase_user",
            user=name_of(self._store, rest.user_id),
            peer=peer,
            removed=removed,
            models=rest.models,
            unknown_models=rest.unknown_models,
            indexes=indexes,
            resumed=resumed,
        )
        finish(self._store, rest.user_id)
        self._reflect()
        return Erased(removed, rest.models, rest.unknown_models, indexes)

    def _reflect(self) -> None:
        bring_up_to_date(self._store, self._state)
