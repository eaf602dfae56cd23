"""triptych restore: a backup to a new home."""

import glob
import logging
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from scripts.backups.object_storage import BackupFolder
from scripts.backups.to_backup import KIND, link_tree, newest_backup
from scripts.terminal import HomeOption
from store.artifact import MANIFEST, DamagedArtifactError, artifacts, read_manifest, set_pointer, verify
from store.home import Home
from store.imports import import_folder
from store.ledger import (
    LEDGER,
    Erasure,
    erased_users,
    erasures_missing_from,
    merge_ledgers,
    read_ledger,
    write_ledger,
)
from store.locks import locked_directory, remove_abandoned
from store.objects import in_object_storage
from store.privacy import add_erasures, delete_user_rows, list_erasures
from store.store import Store
from store.writes import LogPosition, LogStanding, write_standing

_PARENTS = ("exports", "text_models", "models", "indexes")
log = logging.getLogger(__name__)


class NoBackupError(LookupError):
    """A path is no backup and holds none."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(f"{path} is no backup and holds none: name a directory that `triptych backup` wrote")
        self.path = path


class HomeInUseError(FileExistsError):
    """A restore would have to overwrite something."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}: restore to a directory that does not exist yet, or is empty")
        self.path = path


class IncompleteRestoreError(RuntimeError):
    """The store that was restored has not as many rows as the one that was backed up."""

    def __init__(self, wanted: dict[str, int], found: dict[str, int]) -> None:
        super().__init__(f"the restored store holds {found}, the backup {wanted}; there is no new home")
        self.found = found


def restore_command(
    home: HomeOption,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PLACE",
            help="A backup, or a folder of them: then the newest; or s3://bucket/folder.",
            show_default=False,
        ),
    ],
    ledger: Annotated[
        Path | None,
        typer.Option("--erasures", help="Also this ledger: erasures.json of the home that was backed up."),
    ] = None,
) -> None:
    """Make a new home from a backup; every byte is checked first, and nothing is ever overwritten.

    Who was erased after the backup stays erased: by the ledgers of all backups beside it, and by --erasures.
    The home appears whole, by one rename: one that fails or is killed leaves none, and can be run again.

    Example: triptych restore --from /mnt/backups --home demo2
    """
    place = Home(home)
    if in_object_storage(source):
        backup, manifest = _restore_from(source, place, ledger)
    else:
        backup = str(found := find_backup(Path(source)))
        manifest = restore(found, place, ledgers_of(found, ledger))
    rows = ", ".join(f"{count:,} {table}" for table, count in manifest["counts"].items())
    print(f"restored {backup} to {home}: {rows}")
    if manifest["current"]:
        print(f"index {manifest['current']} serves: triptych serve --home {home}")
    else:
        print(f"it holds no index: triptych train --home {home}, then triptych reindex --home {home}")


def _restore_from(url: str, home: Home, ledger: Path | None) -> tuple[str, dict[str, Any]]:
    """Restore from object storage; return the URL of the backup and its manifest.

    Raises:
        NoBackupError: there is none.
        ObjectStorageError, DamagedArtifactError, HomeInUseError: nothing is restored.
    """
    target = home.path.resolve()
    _check_free(target)
    storage = BackupFolder(url)
    if storage.is_backup():
        parent, _, backup_id = storage.url.rpartition("/")
        storage = BackupFolder(parent)
    elif ids := storage.backups():
        backup_id = ids[-1]
    else:
        raise NoBackupError(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".downloading-{target.name}-"
    remove_abandoned(target.parent, f"{glob.escape(prefix)}*")
    with locked_directory(target.parent / f"{prefix}{secrets.token_hex(4)}") as folder:
        try:
            files = storage.download_ledgers(folder)
            known = merge_ledgers(*map(read_ledger, files), ledgers_of(None, ledger))
            backup = storage.download(backup_id, folder)
            return f"{storage.url}/{backup_id}", restore(backup, home, known, linked=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def find_backup(path: Path) -> Path:
    """Return the backup that a path is, or the newest below it.  Raises: NoBackupError."""
    if (path / MANIFEST).is_file():
        return path
    newest = newest_backup(path)
    if newest is None:
        raise NoBackupError(path)
    return newest


def ledgers_of(backup: Path | None, also: Path | None = None) -> list[Erasure]:
    """Return the erasures that a backup, if any, and those beside it know, and those of one more ledger file.

    Raises:
        FileNotFoundError: that file is not there.
        DamagedArtifactError: a ledger is damaged.
    """
    if also is not None and not also.is_file():
        raise FileNotFoundError(f"{also} is no ledger of erasures: there is no such file")
    beside = [] if backup is None else [backup.parent / name for name in artifacts(backup.parent)]
    files = [Home(folder).erasures for folder in beside] + ([also] if also else [])
    return merge_ledgers(*map(read_ledger, files))


def restore(
    backup: Path, home: Home, ledger: Sequence[Erasure] = (), *, linked: bool = False
) -> dict[str, Any]:
    """Make a home of a backup without users erased since; return the backup's manifest.

    Args:
        backup: its directory.
        home: to be made.
        ledger: erasures since.
        linked: whether the home may share the files of the backup, which is about to be removed.

    Raises:
        HomeInUseError: the home holds something.
        DamagedArtifactError: the backup is damaged or is none; names the file.
    """
    target = home.path.resolve()
    _check_free(target)
    log.info("checking backup %s", backup)
    manifest = verify(backup)
    if manifest.get("kind") != KIND:
        raise DamagedArtifactError(backup, f"is a {manifest.get('kind')!r}, not a backup")
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".restoring-{target.name}-"
    remove_abandoned(target.parent, f"{glob.escape(prefix)}*")
    with locked_directory(target.parent / f"{prefix}{secrets.token_hex(4)}") as draft:
        try:
            _fill(Home(draft), backup, manifest, ledger, linked=linked)
            os.sync()  # the rename must not reach the disk before what it names
            draft.rename(target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    log.info("restored %s to %s", backup, target)
    return manifest


def _check_free(target: Path) -> None:
    if target.is_mount():
        raise HomeInUseError(target, "is a mount point, which no rename can replace")
    if not target.exists():
        return
    if not target.is_dir():
        raise HomeInUseError(target, "is a file")
    if any(target.iterdir()):
        raise HomeInUseError(target, "is not empty")


def _fill(
    draft: Home, backup: Path, manifest: dict[str, Any], ledger: Sequence[Erasure], *, linked: bool
) -> None:
    """Copy everything of a backup into a new home, the pointers last."""
    saved = Home(backup)
    pairs = [(getattr(saved, name), getattr(draft, name)) for name in _PARENTS]
    parts = [(old / name, new / name) for old, new in pairs for name in artifacts(old)]
    for old, new in tqdm(parts, desc="restore", unit="directory", disable=None):
        if linked:
            link_tree(old, new)
        else:
            shutil.copytree(old, new)
            verify(new)
    exported = draft.exports / manifest["export_id"]
    with Store.open(draft.database) as store:
        import_folder(store, exported, rejects=draft.rejects, file_format="parquet", strict=True)
        found = {table: rows for table, rows in store.counts().items() if table in manifest["counts"]}
        _erase_again(store, merge_ledgers(ledger, read_ledger(exported / LEDGER)), exported)
        write_ledger(draft.erasures, list_erasures(store))
        _set_positions(store, read_manifest(exported).get("logs", {}))
    if found != manifest["counts"]:
        raise IncompleteRestoreError(manifest["counts"], found)
    if Home(backup).audit_log.exists():
        shutil.copy2(Home(backup).audit_log, draft.audit_log)
    if manifest["latest_model"]:
        set_pointer(draft.latest_model, manifest["latest_model"])
    if manifest["current"]:
        set_pointer(draft.current_index, manifest["current"])


def _set_positions(store: Store, logs: Mapping[str, tuple[str, int]]) -> None:
    """Let a store stand in each log where it stood at its export; one of before schema 5 names none."""
    with store.writing(set()) as cursor:
        for log_name, position in logs.items():
            write_standing(cursor, log_name, LogStanding(LogPosition(*position)))


def _erase_again(store: Store, ledger: Sequence[Erasure], exported: Path) -> None:
    """Write a ledger into a store, and remove the users whose erasure an export does not know."""
    add_erasures(store, ledger)
    unknown = erasures_missing_from(exported, read_manifest(exported), ledger)
    again = erased_users(store.user_ids(), unknown)
    if again:
        removed: dict[str, int] = {}
        with store.writing() as cursor:
            delete_user_rows(cursor, again, removed)
        log.info("%d people were erased since the backup: removed %s again", len(again), removed)
