"""Build checkpoints: what a reindex has finished, so that a killed one goes on from there."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from store.artifact import sha256
from store.disk import sync
from store.locks import LockedError, locked, remove_abandoned

log = logging.getLogger(__name__)

_PREFIX = ".spool-"
_DONE = "done.json"


class ReindexRunsError(RuntimeError):
    """Another process builds the same index."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another reindex works in {folder}: wait for it, or stop it and run this again")
        self.folder = folder


@contextmanager
def open_checkpoint(parent: Path, key: str) -> Iterator[Path]:
    """Yield the folder of the build with a key, as an earlier run left it; keep it if the block raises.

    The folders of other builds that no process works in are removed.

    Raises:
        ReindexRunsError: another process works in it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"{_PREFIX}{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    with ExitStack() as stack:
        with locked(parent, wait=True):  # nobody sweeps a folder before it is held
            folder.mkdir(exist_ok=True)
            try:
                stack.enter_context(locked(folder))
            except LockedError as error:
                raise ReindexRunsError(folder) from error
        remove_abandoned(parent, f"{_PREFIX}*")
        yield folder
        shutil.rmtree(folder)


def checkpointed(folder: Path, stage: str, names: Sequence[str], write: Callable[[], None]) -> dict[str, str]:
    """Write the files of a stage, unless an earlier run did and they are whole; return their sha256 by name.

    Args:
        folder: of the build.
        stage: its name.
        names: files in the folder.
        write: writes them.
    """
    done = folder / f"{stage}.{_DONE}"
    if done.exists():
        digests: dict[str, str] = json.loads(done.read_text("utf-8"))
        if all((folder / name).exists() and sha256(folder / name) == digests[name] for name in digests):
            log.info("reindex: %s of an earlier run go on", stage)
            return digests
    write()
    for name in names:
        sync(folder / name)
    digests = {name: sha256(folder / name) for name in names}
    draft = folder / f"{stage}.tmp"
    draft.write_text(json.dumps(digests), "utf-8")
    sync(draft)
    draft.replace(done)
    return digests
