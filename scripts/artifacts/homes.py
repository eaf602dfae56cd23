"""A home as a command works on it: a directory, and the bucket that its artifacts belong in, if any."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from scripts.home_access import existing_home, fresh_export, publish_index, server_of
from store.artifact import NotPublishedError, read_pointer, set_pointer
from store.export import Export, NoExportError
from store.home import Home
from store.ledger import read_ledger, write_ledger
from store.objects import (
    CURRENT,
    LATEST,
    ArtifactPlace,
    HomeBucket,
    HomeDirectory,
    LocalCopy,
    ObjectStorageError,
    Pointer,
    PointerVersion,
    add_needed,
    cache_folder,
    in_object_storage,
)
from triptych_client import Client

PlaceOption = Annotated[
    str,
    typer.Option(
        "--home",
        envvar="TRIPTYCH_HOME",
        metavar="PLACE",
        help="The home directory, or s3://bucket/home.",
        show_default=False,
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        envvar="TRIPTYCH_CACHE",
        help="Folder of local copies of homes in object storage; default: ~/.cache/triptych/homes.",
    ),
]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkingHome:
    """A home as a command works on it.

    Attributes:
        home: the directory: the home, or the local copy of one in a bucket.
        place: where its artifacts belong.
        fetch: brings an artifact and what it needs to the directory, by kind and id; returns where it is.
        owned: whether the live store is in the directory.
        before: what the pointers named when the command began; they are moved only from there.
    """

    home: Home
    place: ArtifactPlace
    fetch: Callable[[str, str], Path]
    owned: bool
    before: dict[Pointer, PointerVersion]

    @property
    def in_bucket(self) -> bool:
        """Whether the artifacts belong in a bucket."""
        return isinstance(self.place, HomeBucket)

    def named(self, pointer: Pointer) -> Path:
        """Fetch what a pointer names; return its directory.

        Raises:
            NotPublishedError: it names nothing yet.
            DamagedArtifactError: it names what is not there.
        """
        if not self.in_bucket:
            return read_pointer(self.home.path / pointer.name, self.home.path / pointer.kind)
        artifact_id = self.before[pointer].artifact_id
        if not artifact_id:
            raise NotPublishedError(f"{self.place.name}/{pointer.name}")
        return self.fetch(pointer.kind, artifact_id)

    def latest_model(self) -> Path | None:
        """Fetch the latest model, with its text model; return its directory, None where there is none yet.

        Raises:
            DamagedArtifactError: LATEST names what is not there.
        """
        try:
            return self.named(LATEST)
        except NotPublishedError:
            return None

    @contextmanager
    def export(self) -> Iterator[Export]:
        """Yield a fresh export of the live store, or the newest in the bucket, where another machine has it.

        Raises:
            NoExportError: there is none yet.
        """
        if self.owned:
            with fresh_export(self.home) as export:
                if isinstance(self.place, HomeBucket):
                    self.place.add_erasures(read_ledger(self.home.erasures))
                    self.place.add("exports", export.path)  # unless the server has
                yield export
            return
        ids = self.place.ids("exports")
        if not ids:
            raise NoExportError(f"{self.place.name}/exports")
        log.info("taking export %s, the newest one in %s", ids[-1], self.place.name)
        with Export.open(self.fetch("exports", ids[-1]), verify=False) as export:
            yield export

    def newest_export(self) -> AbstractContextManager[Export]:
        """Return the newest export: of the directory where the live store is there, else of the bucket.

        Raises:
            NoExportError: there is none yet.
        """
        return Export.latest(self.home.exports) if self.owned else self.export()

    def model_made(self, directory: Path) -> None:
        """Upload a model that was made in the directory, and what it needs, and name it in LATEST.

        Raises:
            PointerMovedError: another model was made meanwhile, and stays the latest.
        """
        if self.in_bucket:
            self._upload("models", directory.name)
            self.place.move_pointer(LATEST, directory.name, self.before[LATEST])

    def _upload(self, kind: str, artifact_id: str) -> None:
        try:
            add_needed(self.place, self.home, kind, artifact_id)
        except ObjectStorageError:
            again = f"triptych artifacts copy --from {self.home.path} --to {self.place.name} --no-pointers"
            log.error("%s/%s is complete, and is not uploaded; to do it later: %s", kind, artifact_id, again)
            raise

    def publish(self, index_id: str) -> None:
        """Make an index CURRENT, through the running server where there is one; upload it where that is due.

        Raises:
            PointerMovedError: another index was published meanwhile, and serves.
        """
        if not self.in_bucket:
            publish_index(self.home, index_id)
            return
        if index_id in HomeDirectory(self.home).ids("indexes"):
            self._upload("indexes", index_id)
        address = server_of(self.home) if self.owned else None
        if address is not None:
            with Client(address, connections=1) as client:
                client.publish_index(index_id)
            if self.place.pointer(CURRENT).artifact_id == index_id:
                return  # unless it was started before its settings named the bucket
        self.place.move_pointer(CURRENT, index_id, self.before[CURRENT])
        set_pointer(self.home.current_index, index_id)


@contextmanager
def working_home(named: str, cache: Path | None = None) -> Iterator[WorkingHome]:
    """Yield the home that --home names.

    Args:
        named: a directory, or the URL of a home in object storage.
        cache: the folder of local copies; None for that of this user.

    Raises:
        NoSuchHomeError: the directory holds no home.
        ObjectStorageError: the bucket cannot be reached.
    """
    if in_object_storage(named):
        with LocalCopy(named, cache or cache_folder()) as copy:
            before = {pointer: copy.bucket.pointer(pointer) for pointer in (CURRENT, LATEST)}
            write_ledger(copy.home.erasures, copy.bucket.ledger())
            yield WorkingHome(copy.home, copy.bucket, copy.fetch_needed, owned=False, before=before)
            copy.release()
            copy.tidy()
        return
    home = existing_home(Path(named))
    url = artifacts_url(home)
    if not url:
        yield directory_home(home)
        return
    here = HomeDirectory(home)
    bucket = HomeBucket(url)
    before = {pointer: bucket.pointer(pointer) for pointer in (CURRENT, LATEST)}
    if before[LATEST].artifact_id:
        bucket.fetch_needed("models", before[LATEST].artifact_id, home)
        set_pointer(home.latest_model, before[LATEST].artifact_id)

    def fetch(kind: str, artifact_id: str) -> Path:
        if artifact_id in here.ids(kind):
            return home.path / kind / artifact_id
        return bucket.fetch_needed(kind, artifact_id, home)

    yield WorkingHome(home, bucket, fetch, owned=True, before=before)


def directory_home(home: Home) -> WorkingHome:
    """Return a home in its directory, whatever its settings say of a bucket."""
    here = HomeDirectory(home)
    before = {pointer: here.pointer(pointer) for pointer in (CURRENT, LATEST)}
    return WorkingHome(home, here, lambda kind, one: home.path / kind / one, owned=True, before=before)


def artifacts_url(home: Home) -> str:
    """Return the URL that the settings of a home name for its artifacts, "" for none.

    Raises:
        WrongSettingError: a setting cannot be used.
    """
    from server.settings import SettingsSource

    return SettingsSource(home.path).load().artifacts
