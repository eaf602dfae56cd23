"""What a reader of a home in object storage keeps on its disk: checked artifacts, within a bound."""

import hashlib
import logging
import os
import re
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from store.artifact import (
    DamagedArtifactError,
    NotPublishedError,
    read_manifest,
    remove_artifact,
    verify,
)
from store.disk import replace_file
from store.home import Home
from store.locks import LockedError, in_use, locked, remove_abandoned
from store.objects.bucket import HomeBucket
from store.objects.places import CURRENT, KINDS, LEFT_BEHIND, HomeDirectory, needed, needs_of
from store.objects.storage import ObjectStorageError

CACHE_BYTES = 50 << 30
_EVICTING = ".evicting"
_UNFINISHED_SECONDS = 86_400.0  # after which a fetch that was cut off is not gone on with
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServingIndex:
    """The index that serves.

    Attributes:
        index_id: its id.
        confirmed: whether the bucket said so just now; False: it cannot be reached, and this is what it said
            last.
    """

    index_id: str
    confirmed: bool


def cache_folder() -> Path:
    """Return the folder, one per user of the machine, of local copies of homes in object storage."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "triptych" / "homes"


class LocalCopy:
    """A home in object storage as a directory with those of its artifacts that are used here.

    What was handed out stays on the disk until `release` or `close`, whatever other processes do. Beyond the
    bound, what was used least recently is removed, and so is what is not in the bucket any more.
    Not for threads: one at a time.

    Attributes:
        bucket: the home in object storage.
        home: the directory, laid out as a home without a live store; only this user may enter it.
    """

    def __init__(self, url: str, cache: Path, max_bytes: int = CACHE_BYTES) -> None:
        """Make the directory; the bucket is not asked yet.

        Args:
            url: of the home.
            cache: the folder of local copies, which other processes may use at the same time.
            max_bytes: of all artifacts in that folder, but those in use; one more may be there while it is
                fetched.

        Raises:
            NoObjectStorageError: what reaches the URL is not installed.
            ValueError: fsspec knows no such protocol.
        """
        self.bucket = HomeBucket(url)
        self._cache, self._max_bytes = cache, max_bytes
        cache.mkdir(parents=True, exist_ok=True)
        readable = re.sub(r"[^\w.-]+", "-", self.bucket.name)[-60:]
        unique = hashlib.sha256(self.bucket.name.encode()).hexdigest()[:12]
        self.home = Home(cache / f"{readable}-{unique}")
        self.home.path.mkdir(mode=0o700, exist_ok=True)
        self._held: dict[tuple[str, str], ExitStack] = {}
        self._reachable = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything that was handed out."""
        self._let_go(self._held.keys())

    def serving(self) -> ServingIndex:
        """Return the index that serves, by the bucket, or by what it said last where it cannot be reached.

        Raises:
            NotPublishedError: none serves yet.
            ObjectStorageError: the bucket cannot be reached and never could.
        """
        try:
            named = self.bucket.pointer(CURRENT).artifact_id
        except ObjectStorageError as error:
            known = HomeDirectory(self.home).pointer(CURRENT).artifact_id
            if not known:
                raise
            if self._reachable:
                log.warning("%s; going on with the copy of index %s", error, known)
            self._reachable = False
            return ServingIndex(known, confirmed=False)
        if not self._reachable:
            log.info("%s can be reached again", self.bucket.name)
        self._reachable = True
        if not named:
            raise NotPublishedError(f"{self.bucket.name}/{CURRENT.name}")
        if HomeDirectory(self.home).pointer(CURRENT).artifact_id != named:
            replace_file(self.home.current_index, f"{named}\n")
        return ServingIndex(named, confirmed=True)

    def fetch(self, kind: str, artifact_id: str) -> Path:
        """Return the directory of an artifact here, fetched where it is missing; it is checked once.

        A copy that is here is used without asking the bucket; one that is damaged is fetched anew.

        Raises:
            DamagedArtifactError: it is damaged or missing in the bucket, or the copy is, and is in use.
            ObjectStorageError: it is not here, and the bucket cannot be reached.
            DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        """
        path, key = self.home.path / kind / artifact_id, (kind, artifact_id)
        while key not in self._held:
            fetched = not path.is_dir()
            if fetched:
                path.parent.mkdir(parents=True, exist_ok=True)
                _mark(path).touch()
                self.bucket.fetch(kind, artifact_id, self.home)
            with ExitStack() as stack:
                try:
                    stack.enter_context(in_use(path))
                except FileNotFoundError:  # removed just now, as it had not been used for long
                    continue
                if not fetched:
                    try:
                        verify(path)
                    except DamagedArtifactError as error:
                        log.warning("the copy here is fetched anew: %s", error)
                        stack.close()
                        if not self._remove(path):
                            raise
                        continue
                self._held[key] = stack.pop_all()
            if fetched:
                self.tidy()
        os.utime(path)
        return path

    def fetch_index(self, index_id: str) -> Path:
        """Fetch an index, its model and its text model; return the index's directory.  Raises: as `fetch`."""
        return self.fetch_needed("indexes", index_id)

    def fetch_needed(self, kind: str, artifact_id: str) -> Path:
        """Fetch an artifact and what it needs; return its directory.  Raises: as `fetch`."""
        directory = self.fetch(kind, artifact_id)
        for one_kind, one in needs_of(kind, read_manifest(directory)):
            self.fetch_needed(one_kind, one)
        return directory

    def release(self, *, but: Collection[str] = ()) -> None:
        """Let go of everything that the indexes `but` do not need; it may be removed then."""
        here = HomeDirectory(self.home)
        self._let_go(
            self._held.keys() - {one for index_id in but for one in needed(here, "indexes", index_id)}
        )

    def tidy(self) -> None:
        """Remove what the bucket does not have any more, and what was used least recently beyond the bound.

        Nothing that any process uses is removed, nor what was made here and is not in the bucket yet.
        """
        for kind in KINDS:
            try:
                there = set(self.bucket.ids(kind))
            except ObjectStorageError:
                break
            for artifact_id in HomeDirectory(self.home).ids(kind):
                path = self.home.path / kind / artifact_id
                if artifact_id in there:
                    _mark(path).touch()
                elif _mark(path).exists():
                    self._remove(path)
        kept = [
            home.path / kind / one
            for home in map(Home, self._cache.iterdir())
            for kind in KINDS
            for one in HomeDirectory(home).ids(kind)
            if _mark(home.path / kind / one).exists()
        ]
        sizes = {path: _size(path) for path in kept}
        surplus = sum(sizes.values()) - self._max_bytes
        for path in sorted(kept, key=_used_at):
            if surplus <= 0:
                break
            surplus -= sizes[path] if self._remove(path) else 0
        self._sweep()

    def _sweep(self) -> None:
        for kind in KINDS:
            parent = self.home.path / kind
            for pattern in LEFT_BEHIND if parent.is_dir() else ():
                newest = max((_used_at(one) for one in parent.glob(pattern)), default=time.time())
                if newest < time.time() - _UNFINISHED_SECONDS:
                    remove_abandoned(parent, pattern)

    def _remove(self, path: Path) -> bool:
        """Remove an artifact here unless a process uses it; return whether it is gone."""
        with locked(self._cache / _EVICTING, wait=True, make=True):  # so it is this one that is locked next
            try:
                remove_artifact(path)
                _mark(path).unlink(missing_ok=True)
            except FileNotFoundError:
                return True
            except LockedError:
                return False
        log.info("removed the copy of %s/%s", path.parent.name, path.name)
        return True

    def _let_go(self, keys: Collection[tuple[str, str]]) -> None:
        for key in list(keys):
            self._held.pop(key).close()


def _mark(path: Path) -> Path:
    """Return the file that says of an artifact that the bucket had it, so that it may be removed here."""
    return path.with_name(f".in-bucket-{path.name}")


def _size(directory: Path) -> int:
    try:
        return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    except FileNotFoundError:  # removed by another process meanwhile
        return 0


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # removed by another process meanwhile
        return 0.0
