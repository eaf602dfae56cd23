"""triptych restore: a backup to a new home."""

import logging
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from scripts.backup import KIND
from scripts.leftovers import abandoned
from scripts.session import HomeOption
from store.artifact import MANIFEST, DamagedArtifactError, artifacts, point, verify
from store.duck import Store
from store.home import Home
from store.importing import import_folder

_PARENTS = ("exports", "text_models", "models", "indexes")
log = logging.getLogger(__name__)


class NoBackupError(LookupError):
    """There is no backup in a directory."""

    def __init__(self, path: Path) -> None:
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
        Path,
        typer.Option("--from", help="A backup, or a folder of them: then the newest.", show_default=False),
    ],
) -> None:
    """Make a new home from a backup; every byte is checked first, and nothing is ever overwritten.

    The home appears whole, by one rename: one that fails or is killed leaves none, and can be run again.

    Example: triptych restore --from /mnt/backups --home demo2
    """
    backup = find_backup(source)
    manifest = restore(backup, Home(home))
    rows = ", ".join(f"{count:,} {table}" for table, count in manifest["counts"].items())
    print(f"restored {backup} to {home}: {rows}")
    if manifest["current"]:
        print(f"index {manifest['current']} serves: triptych serve --home {home}")
    else:
        print(f"it holds no index: triptych train --home {home}, then triptych reindex --home {home}")


def find_backup(path: Path) -> Path:
    """Return the backup that a path is, or the newest below it.  Raises: NoBackupError."""
    if (path / MANIFEST).is_file():
        return path
    below = [path / name for name in artifacts(path) if (path / name / MANIFEST).is_file()]
    if not below:
        raise NoBackupError(path)
    return below[-1]


def restore(backup: Path, home: Home) -> dict[str, Any]:
    """Return the manifest of a backup after making a home of it.

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
    for left in abandoned(target.parent, f"{prefix}*"):
        log.info("removing what a killed restore left in %s", left)
        shutil.rmtree(left)
    draft = target.parent / f"{prefix}{os.getpid()}"
    draft.mkdir()
    try:
        _fill(Home(draft), backup, manifest)
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


def _fill(draft: Home, backup: Path, manifest: dict[str, Any]) -> None:
    """Bring everything of a backup into a new home, the pointers last."""
    saved = Home(backup)
    pairs = [(getattr(saved, name), getattr(draft, name)) for name in _PARENTS]
    parts = [(old / name, new / name) for old, new in pairs for name in artifacts(old)]
    for old, new in tqdm(parts, desc="restore", unit="directory", disable=None):
        shutil.copytree(old, new)
        verify(new)
    exported = draft.exports / manifest["export_id"]
    with Store.open(draft.database) as store:
        import_folder(store, exported, rejects=draft.rejects, file_format="parquet", strict=True)
        found = {table: rows for table, rows in store.counts().items() if table in manifest["counts"]}
    if found != manifest["counts"]:
        raise IncompleteRestoreError(manifest["counts"], found)
    if manifest["latest_model"]:
        point(draft.latest_model, manifest["latest_model"])
    if manifest["current"]:
        point(draft.current_index, manifest["current"])
