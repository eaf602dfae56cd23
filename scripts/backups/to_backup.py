"""triptych backup: the data, the models and the index of a home as one immutable directory."""

import logging
import os
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from scripts.backups.object_storage import BackupFolder
from scripts.home_access import existing_home, fresh_export
from scripts.terminal import HomeOption
from store.artifact import (
    MANIFEST,
    DamagedArtifactError,
    NotPublishedError,
    artifacts,
    build,
    new_id,
    read_manifest,
    read_pointer,
    verify,
)
from store.home import Home
from store.locks import locked_directory, remove_abandoned
from store.objects import in_object_storage

KIND = "backup"
_STAGED = ".backing-up-"  # folders in the home, of links that are uploaded
log = logging.getLogger(__name__)


def backup_command(
    home: HomeOption,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="PLACE",
            help="Folder of backups, made where missing, or s3://bucket/folder.",
            show_default=False,
        ),
    ],
    without_index: Annotated[
        bool, typer.Option("--without-index", help="The data alone; train and reindex after a restore.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="Share no files with the backup before."),
    ] = False,
) -> None:
    """Copy the data and what serves to TO/<backup id>, checksummed; a running server goes on serving.

    In it: a fresh export, the index that serves, its model, the latest model, what these two need, the ledger
    of erasures and the audit log. Encoded texts are not: after a restore, the first start encodes them again.
    What has not changed since the newest backup in TO is shared with it by hard links, where the disk has
    these, and in object storage copied there, not sent; each backup is whole, and may be removed without the
    others.

    Example: triptych backup --home demo --to /mnt/backups
    """
    place = existing_home(home)
    if in_object_storage(to):
        _back_up_to(BackupFolder(to), place, with_index=not without_index, full=full)
        return
    with fresh_export(place) as export:
        directory = back_up(place, export.export_id, Path(to), with_index=not without_index, full=full)
    manifest = read_manifest(directory)
    serves = manifest["current"] or "none"
    print(f"backup {directory}: {_rows(manifest)}; index {serves}")
    if manifest["shared"]:
        print(f"shared with the backup before: {', '.join(manifest['shared'])}")
    print(f"to restore it: triptych restore --from {directory} --home NEW_HOME")


def _back_up_to(storage: BackupFolder, home: Home, *, with_index: bool, full: bool) -> None:
    """Upload a backup that is put together of links in the home.

    Raises:
        ObjectStorageError: there is no backup.
    """
    storage.backups()  # fails at once where the storage cannot be reached
    remove_abandoned(home.path, f"{_STAGED}*")
    with fresh_export(home) as export, locked_directory(home.path / f"{_STAGED}{secrets.token_hex(4)}") as at:
        try:
            backup = back_up(home, export.export_id, at / "backups", with_index=with_index, linked=True)
            copied = storage.upload(backup, full=full)
            manifest = read_manifest(backup)
        finally:
            shutil.rmtree(at, ignore_errors=True)
    url, files = f"{storage.url}/{backup.name}", len(manifest["files"])
    print(f"backup {url}: {_rows(manifest)}; index {manifest['current'] or 'none'}")
    print(f"sent {files - copied:,} of {files:,} files; the others are as in the backup before")
    print(f"to restore it: triptych restore --from {url} --home NEW_HOME")


def back_up(
    home: Home, export_id: str, to: Path, *, with_index: bool, full: bool = True, linked: bool = False
) -> Path:
    """Copy a home to a new backup, an export in place of the store, and return the backup's directory.

    Args:
        home: to be copied.
        export_id: of an export of it.
        to: the folder of backups.
        with_index: whether to copy models and index, too.
        full: whether to copy even what the newest backup there holds already.
        linked: whether to link the files of the home, which must be on the same disk, instead of copying.

    Raises:
        DamagedArtifactError: something to be copied is damaged; names the file, and there is no backup.
    """
    exported = verify(home.exports / export_id)
    current, latest = _pointers(home) if with_index else (None, None)
    parts = [home.exports / export_id, *_serving_parts(home, current, latest)]
    backup_id = new_id()
    earlier, shared = None if full else newest_backup(to), list[str]()
    log.info("backup %s of %s started: %d directories", backup_id, home.path, len(parts))
    with build(to, backup_id) as draft:
        copy = Home(draft.path)
        for part in tqdm(parts, desc="backup", unit="directory", disable=None):
            place, manifest = part.relative_to(home.path), verify(part)
            if earlier is not None and _is_in(earlier / place, manifest):
                link_tree(earlier / place, draft.path / place)
                shared.append(str(place))
            elif linked:
                link_tree(part, draft.path / place)
            else:
                verify(shutil.copytree(part, draft.path / place))
        for name in ("erasures", "audit_log"):
            if (file := getattr(home, name)).exists():
                shutil.copy2(file, getattr(copy, name))
        if latest:
            copy.latest_model.write_text(latest + "\n", "utf-8")
        if current:
            copy.current_index.write_text(current + "\n", "utf-8")
        draft.facts = {
            "kind": KIND,
            "created_at": datetime.now(UTC).isoformat(),
            "export_id": export_id,
            "counts": exported["counts"],
            "current": current,
            "latest_model": latest,
            "shared": shared,
        }
    log.info("backup %s done", backup_id)
    return to / backup_id


def newest_backup(folder: Path) -> Path | None:
    """Return the newest backup in a folder, None where there is none."""
    names = [name for name in artifacts(folder) if (folder / name / MANIFEST).is_file()]
    return folder / names[-1] if names else None


def _is_in(copied: Path, manifest: dict[str, Any]) -> bool:
    """Return whether a backup has the artifact of a manifest, every byte as it was written."""
    if not copied.is_dir():
        return False
    try:
        return verify(copied) == manifest
    except DamagedArtifactError as error:
        log.warning("%s: it is copied anew", error)
        return False


def link_tree(source: Path, target: Path) -> None:
    """Make a directory of hard links to the files of another; of copies where the disk has no links."""

    def link(file: str, to: str) -> None:
        try:
            os.link(file, to)
        except OSError:
            shutil.copy2(file, to)

    shutil.copytree(source, target, copy_function=link)


def _pointers(home: Home) -> tuple[str | None, str | None]:
    """Return the ids that CURRENT and models/LATEST name, None where nothing is published."""
    named: list[str | None] = []
    for pointer, parent in ((home.current_index, home.indexes), (home.latest_model, home.models)):
        try:
            named.append(read_pointer(pointer, parent).name)
        except NotPublishedError:
            named.append(None)
    return named[0], named[1]


def _serving_parts(home: Home, current: str | None, latest: str | None) -> list[Path]:
    """Return the directories of an index, of its model and the latest one, and of what the models need."""
    parts: list[Path] = []
    models = [latest] if latest else []
    if current:
        parts.append(home.indexes / current)
        models.append(verify(home.indexes / current)["model_id"])
    for model_id in dict.fromkeys(models):
        model = verify(home.models / model_id)
        parts += [home.models / model_id, home.text_models / model["text_model_id"]]
        if model["export_id"] in artifacts(home.exports):  # `evaluate` reads it, serving does not
            parts.append(home.exports / model["export_id"])
    return list(dict.fromkeys(parts))


def _rows(manifest: dict[str, Any]) -> str:
    return ", ".join(f"{count:,} {table}" for table, count in manifest["counts"].items())
