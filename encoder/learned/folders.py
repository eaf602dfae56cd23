"""The folders of trainings: one training works in one, and what has ended leaves no checkpoint there."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from encoder.learned.config import CHECKPOINT_FILE
from store.locks import LockedError, locked

log = logging.getLogger(__name__)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder of checkpoints while the block runs; who trains the same there is waited for."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except LockedError:
            log.info("the same block is being trained in %s: waiting for that training", folder)
            stack.enter_context(locked(folder, wait=True))
        yield


def remove_checkpoints(parent: Path) -> None:
    """Remove the checkpoints of trainings that have ended; TensorBoard's files stay, and who works there."""
    for checkpoint in parent.glob(f"*/{CHECKPOINT_FILE}"):
        try:
            with locked(checkpoint.parent):
                checkpoint.unlink(missing_ok=True)
        except LockedError:
            log.info("the checkpoint in %s stays: another training works there", checkpoint.parent)
