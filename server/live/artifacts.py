"""Where the artifacts of the served home belong: in its directory, or in a bucket that others share."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from indexer.publish import IndexNotFoundError, index_before, previous_index, remove_index
from server.live.index_list import IndexList
from server.supervisor import Supervisor, Worker
from store.artifact import DamagedArtifactError, artifacts, read_pointer, set_pointer
from store.home import Home
from store.ledger import read_ledger
from store.objects import (
    CURRENT,
    HomeBucket,
    HomeDirectory,
    ObjectStorageError,
    add_needed,
)

if TYPE_CHECKING:
    from server.live.publisher import Publisher

_LOOK_SECONDS = 5.0  # between looks at the bucket
log = logging.getLogger(__name__)


class HomeArtifacts:
    """Artifacts that belong in the directory of the home.

    Attributes:
        home: the home.
        indexes: lists its indexes.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.indexes = IndexList(home)

    def serving(self) -> str:
        """Return the index that CURRENT names, "" for none; CURRENT is only read.

        Raises:
            DamagedArtifactError: it names what is not there.
        """
        if not self.home.current_index.exists():
            return ""
        return read_pointer(self.home.current_index, self.home.indexes).name

    def publishing(self, index_id: str) -> Callable[[], None]:
        """Have an index in the directory; return what makes it CURRENT.

        Raises:
            IndexNotFoundError: there is no such index.
        """
        return partial(set_pointer, self.home.current_index, index_id)

    def follow(self, index_id: str) -> None:
        """Have CURRENT of the directory name an index that serves: it does."""

    def previous(self) -> str:
        """Return the newest index older than CURRENT.  Raises: NoOlderIndexError."""
        return previous_index(self.home)

    def export_made(self, export_id: str) -> None:
        """Take an export to where it belongs."""

    def elsewhere(self) -> dict[str, str]:
        """Return the indexes that are not in the directory and do not serve, and the export of each."""
        return {}

    def remove(self, index_id: str) -> None:
        """Remove an index wherever it is."""
        if index_id in artifacts(self.home.indexes):
            remove_index(self.home, index_id)


class BucketArtifacts(HomeArtifacts):
    """Artifacts that belong in a bucket; the directory holds a copy of what is used here.

    CURRENT in the bucket says which index serves, whoever moved it. While the bucket cannot be reached, the
    index that serves goes on serving, and nothing is published.

    Every method raises ObjectStorageError where the bucket cannot be reached, but `serving`.

    Attributes:
        bucket: the home in object storage.
    """

    def __init__(self, home: Home, url: str) -> None:
        """Take a home and the URL; nothing is asked yet.

        Raises:
            NoObjectStorageError: what reaches the URL is not installed.
            ValueError: fsspec knows no such protocol.
        """
        super().__init__(home)
        self.bucket = HomeBucket(url)
        self.indexes = IndexList(home, self.bucket)

    def serving(self) -> str:
        """Return the index that CURRENT in the bucket names, and have it here.

        Where the bucket cannot be reached, or what it names is damaged, it is the index that served last; a
        bucket without CURRENT gets the one of the directory.

        Raises:
            DamagedArtifactError: what the bucket names is damaged, and none has served here.
        """
        known = super().serving()
        try:
            before = self.bucket.pointer(CURRENT)
            if before.artifact_id:
                self.fetch(before.artifact_id)
                return before.artifact_id
            if known:
                add_needed(self.bucket, self.home, "indexes", known)
                self.bucket.move_pointer(CURRENT, known, before)
        except ObjectStorageError as error:
            log.warning("%s; starting with what is here: index %s", error, known or "none")
        except DamagedArtifactError as error:
            if not known:
                raise
            log.error("%s; starting with what is here: index %s", error, known)
        return known

    def named(self) -> str:
        """Return the index that CURRENT in the bucket names, "" for none."""
        return self.bucket.pointer(CURRENT).artifact_id

    def fetch(self, index_id: str) -> None:
        """Have an index of the bucket in the directory, with what it needs.

        Raises:
            DamagedArtifactError: it or what it needs is damaged or missing.
        """
        if index_id not in artifacts(self.home.indexes):
            self.bucket.fetch_needed("indexes", index_id, self.home)

    def publishing(self, index_id: str) -> Callable[[], None]:
        """Have an index here and in the bucket; return what makes it CURRENT in both.

        What is returned raises PointerMovedError where CURRENT in the bucket was moved in between.

        Raises:
            IndexNotFoundError: it is in neither.
        """
        before = self.bucket.pointer(CURRENT)
        if index_id in artifacts(self.home.indexes):
            add_needed(self.bucket, self.home, "indexes", index_id)
        else:
            known = self.bucket.ids("indexes")
            if index_id not in known:
                raise IndexNotFoundError(index_id, known)
            self.fetch(index_id)

        def make_current() -> None:
            self.bucket.move_pointer(CURRENT, index_id, before)
            self.follow(index_id)

        return make_current

    def follow(self, index_id: str) -> None:
        """Make CURRENT of the directory name what CURRENT in the bucket does."""
        if HomeDirectory(self.home).pointer(CURRENT).artifact_id != index_id:
            set_pointer(self.home.current_index, index_id)

    def previous(self) -> str:
        """Return the newest index in the bucket older than CURRENT there.  Raises: NoOlderIndexError."""
        return index_before(self.named(), self.bucket.ids("indexes"))

    def export_made(self, export_id: str) -> None:
        """Upload an export, and the ledger of erasures, which it does not show."""
        self.share_ledger()
        self.bucket.add("exports", self.home.exports / export_id)

    def share_ledger(self) -> None:
        """Have exports in the bucket hide all who were erased here."""
        self.bucket.add_erasures(read_ledger(self.home.erasures))

    def elsewhere(self) -> dict[str, str]:
        """Return the indexes in the bucket that are not here and not CURRENT, and the export of each."""
        others = {*self.bucket.ids("indexes")} - {self.named(), *artifacts(self.home.indexes)}
        return {one: self.bucket.manifest("indexes", one)["export_id"] for one in sorted(others)}

    def remove(self, index_id: str) -> None:
        """Remove an index in the bucket and here."""
        self.bucket.remove("indexes", index_id)
        super().remove(index_id)


def artifacts_of(home: Home, url: str) -> HomeArtifacts:
    """Return where the artifacts of a home belong: in its directory for "", else at a URL."""
    return BucketArtifacts(home, url) if url else HomeArtifacts(home)


class ArtifactFollower(Worker):
    """Serves what CURRENT in the bucket names, and takes the ledger of erasures there, every few seconds."""

    def __init__(
        self, publisher: "Publisher", shared: BucketArtifacts, supervisor: Supervisor | None
    ) -> None:
        """Take what publishes, and where to look."""
        super().__init__("artifacts", supervisor)
        self._publisher = publisher
        self._shared = shared
        self._ledger: tuple[float, int] | None = None  # of the file that the bucket has
        self._refused = ""
        self.look_at = time.monotonic()

    def look(self) -> None:
        """Look at the bucket once.

        Raises:
            ObjectStorageError: it cannot be reached; what serves goes on serving.
            DamagedArtifactError: what CURRENT names cannot serve; what serves goes on serving.
        """
        if (there := _stamp(self._shared.home)) != self._ledger:
            self._shared.share_ledger()
            self._ledger = there
        named = self._shared.named()
        if not named or named == self._publisher.index_id:
            self._refused = ""
            return
        if named == self._refused:
            raise DamagedArtifactError(
                f"{self._shared.bucket.name}/{CURRENT.name}", f"names {named}, refused"
            )
        try:
            self._shared.fetch(named)
            self._publisher.follow(self._shared)
        except DamagedArtifactError:
            self._refused = named
            raise

    def _has_work(self) -> bool:
        return self.look_at is not None and time.monotonic() >= self.look_at

    def _work(self) -> None:
        self.look_at = time.monotonic() + _LOOK_SECONDS
        self.look()

    def _catch_up(self) -> bool:
        self.look()
        return True


def _stamp(home: Home) -> tuple[float, int] | None:
    """Return what changes whenever the ledger file of a home does; None where there is none."""
    try:
        stat = home.erasures.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime, stat.st_ino
