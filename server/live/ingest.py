"""Erasures, exports of users and imports of folders: the calls of Ingest that concern more than rows."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from encoder.text import TextCache, text_model_dims
from indexer.building import indexes_with
from server.live.commits import CommitListener
from server.live.writer import GroupCommit
from store.artifact import artifacts
from store.attribute_summary import CatalogSummary, summarise_attributes
from store.catalog import ItemSearch, StoredItem, find_items
from store.home import Home
from store.imports import (
    AmbiguousFilesError,
    AmbiguousTimesError,
    ImportOptions,
    ImportRejectedError,
    ImportReport,
    MissingColumnError,
    NothingToImportError,
    UnknownEncodingError,
    UnknownFormatError,
    UnknownTimesError,
    UnreadableFileError,
    UnusableColumnError,
    import_folder,
    rejects_about,
    remove_rejects,
)
from store.ledger import write_ledger
from store.locks import remove_abandoned
from store.masking import UNMASKED, Masker, Masking
from store.privacy import (
    RowPart,
    UnfinishedErasure,
    append_audit_line,
    erase_user,
    finish_erasure,
    list_erasures,
    pseudonym,
    rows_about,
    trained_on,
    unfinished_erasures,
)
from store.state import UserState, bring_up_to_date
from store.store import Store
from store.writes import LogStanding, Request, WriteResult, read_standing

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
_SUMMARY_SECONDS = 10.0  # that what was counted of attributes is told again
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Erased:
    """What an erasure removed, and what may still know the user.

    Attributes:
        removed: numbers of rows, vectors of texts and rejects, by kind.
        models: trained on rows of the user.
        unknown_models: whose export is missing or damaged, so that nobody can tell.
        indexes: directories that hold the user's vector, or may; no search finds it.
    """

    removed: dict[str, int]
    models: tuple[str, ...]
    unknown_models: tuple[str, ...]
    indexes: tuple[str, ...]


class Ingest:
    """The calls of Ingest that concern more than rows.

    Erasures and imports run on the thread that writes, between transactions, when nothing else does.

    Attributes:
        commit: writes rows.
    """

    def __init__(
        self,
        home: Home,
        store: Store,
        state: UserState,
        cache: TextCache,
        commit: GroupCommit,
        listener: CommitListener,
        masking: Masking = UNMASKED,
    ) -> None:
        self._home = home
        self._store = store
        self._state = state
        self._cache = cache
        self._listener = listener
        self._masking = masking
        self._masker = Masker(masking)
        self._summarising = threading.Lock()
        self._summarised = 0.0
        self._summary: CatalogSummary | None = None
        self.commit = commit

    def resume(self) -> None:
        """Finish the erasures that a crash interrupted, and write the ledger file from the store."""
        for rest in unfinished_erasures(self._store):
            log.info("finishing an erasure that was interrupted")
            self._finish(rest, "", resumed=True)
        write_ledger(self._home.erasures, list_erasures(self._store))

    def write(self, request: Request) -> Future[WriteResult]:
        """Have a request written, its texts masked.  Raises: StoppingError."""
        return self.commit.submit(request.masked_by(self._masker))

    @property
    def home_id(self) -> str:
        """Of the store that is written."""
        return self._store.home_id

    def standing(self, log_name: str) -> LogStanding:
        """Return where the store stands in a log of events."""
        with self._store.snapshot() as cursor:
            return read_standing(cursor, log_name)

    def commit_number(self) -> int:
        """Return the commit from which on the state reflects all that was acknowledged.

        Where the state could not follow the store, that is the one by which it will have caught up.
        """
        return self._state.commit + self.commit.is_listener_behind

    def erase(self, user_id: str, peer: str) -> Erased:
        """Erase all that is stored about a user; durable when this returns.

        Args:
            user_id: of a user who may be unknown.
            peer: address of the caller, for the audit log.

        Raises:
            StoppingError, AbandonedError, NoTurnError: nothing was erased.
        """
        models, unknown = trained_on(self._home, user_id)

        def run() -> Erased:
            followers = self._store.followers([user_id])
            rest = erase_user(self._store, self._state, user_id, models, unknown)
            self._listener.erased(user_id, followers)
            return self._finish(rest, peer, resumed=False)

        return self.commit.alone(run)

    def export(
        self, user_id: str, peer: str, part: RowPart | None = None
    ) -> Iterator[tuple[str, list[str], int | None]]:
        """Yield tables with rows, as JSON objects, of all that is stored about a user; write an audit line.

        With a part, each table comes once, with the number of all of its rows.
        """
        append_audit_line(
            self._home.audit_log, "export_user", user=pseudonym(self._store, user_id), peer=peer
        )
        yield from rows_about(self._store, user_id, part)
        for table, rows in self._beside_store(user_id, part):
            wanted = rows if part is None else rows[part.offset :][: part.limit]
            if rows:
                yield table, wanted, None if part is None else len(rows)

    def _beside_store(self, user_id: str, part: RowPart | None) -> Iterator[tuple[str, list[str]]]:
        """Yield what is kept about a user outside the store, of the tables that are wanted."""
        home, table = self._home, "" if part is None else part.table
        if table in ("", "rejects"):
            yield "rejects", rejects_about(home.rejects, user_id)
        if table in ("", "models"):
            models, unknown = trained_on(home, user_id)
            said = [(model_id, "true") for model_id in models] + [(model_id, "null") for model_id in unknown]
            yield "models", [f'{{"model_id": "{one}", "trained_on": {trained}}}' for one, trained in said]
        if table in ("", "indexes"):
            found = indexes_with(home.indexes, user_id)
            yield "indexes", [f'{{"index_id": "{index_id}"}}' for index_id in found]

    def list_attributes(self) -> CatalogSummary:
        """Return the kinds and attributes of the available items, as they were at most ten seconds ago."""
        with self._summarising:
            if time.monotonic() - self._summarised >= _SUMMARY_SECONDS or self._summary is None:
                self._summary = summarise_attributes(self._store)
                self._summarised = time.monotonic()
            return self._summary

    def find_items(self, search: ItemSearch) -> tuple[list[StoredItem], bool]:
        """Return items by a search, in the order of their ids, and whether others follow."""
        return find_items(self._store, search)

    def import_folder(self, path: Path, options: ImportOptions) -> ImportReport:
        """Import the tables of a folder in one transaction; the server's masking is added to the options'.

        When this returns, queries use the imported rows of users; items follow, and texts once encoded.

        Raises:
            any of IMPORT_ERRORS: nothing was imported.
            StoppingError, AbandonedError, NoTurnError: nothing was imported.
        """

        def run() -> ImportReport:
            dims = text_model_dims(self._home.text_models)
            masking = options.masking.joined(self._masking)
            wanted = replace(options, dims=dims, masking=masking)
            return import_folder(self._store, path, rejects=self._home.rejects, options=wanted)

        return self.commit.alone(run, self._listener.imported)

    def _finish(self, rest: UnfinishedErasure, peer: str, *, resumed: bool) -> Erased:
        """Remove what lies outside the store, note the erasure in the audit log, and remove the id at last.

        Until then the id is in the store, so that the next start can do all this again after a crash.
        """
        # First: whoever opens an export from now on reads the ledger, which hides the user in it.
        write_ledger(self._home.erasures, list_erasures(self._store))
        digests = [bytes.fromhex(digest) for digest in rest.digests]
        text_models = set(artifacts(self._home.text_models)) - {self._home.text_cache.name}
        vectors = sum(self._cache.discard(text_model_id, digests) for text_model_id in text_models)
        rejects = remove_rejects(self._home.rejects, rest.user_id)
        if self._home.imports.is_dir():
            remove_abandoned(self._home.imports, "*")  # files of other layouts, half converted
        removed = rest.removed | {"text_vectors": vectors, "rejects": rejects}
        indexes = indexes_with(self._home.indexes, rest.user_id)
        append_audit_line(
            self._home.audit_log,
            "erase_user",
            user=pseudonym(self._store, rest.user_id),
            peer=peer,
            removed=removed,
            models=rest.models,
            unknown_models=rest.unknown_models,
            indexes=indexes,
            resumed=resumed,
        )
        finish_erasure(self._store, rest.user_id)
        bring_up_to_date(self._store, self._state)
        return Erased(removed, rest.models, rest.unknown_models, indexes)
