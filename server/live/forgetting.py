"""Vectors of erased people leave the disk: a new index serves in time, and those with them are removed."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from indexer.without_erased import erased_in
from server.live.artifacts import HomeArtifacts
from server.live.publisher import Publisher
from server.supervisor import Supervisor, Worker
from store.artifact import DamagedArtifactError, artifacts, made_at
from store.database import utc_now
from store.export import create_export
from store.home import Home
from store.ledger import Erasure, erasures_since
from store.locks import abandoned, remove_abandoned
from store.privacy import append_audit_line, list_erasures
from store.store import Store

_LOOKS = 8  # in the time that there is: the work begins after half of it, so that failures can be made up for
_ASK_SECONDS = 0.2  # whether the server stops, while the new index is built
_NICENESS = 10
_LEFT_BEHIND = (".spool-*", ".building-*", ".pruned-*")  # by builds and removals that were killed
log = logging.getLogger(__name__)


class BuildFailedError(RuntimeError):
    """The process that builds an index without erased people ended without one."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the index without erased people was not built: exit code {code}; the log says why")
        self.code = code


class Forgetting(Worker):
    """Removes vectors of erased people from the disk within a time after their erasure.

    All that are erased in that time go in one step, after half of it: an index is built from the store as it
    is then, and published; every other index that holds one of them is removed, those included to which a
    rollback would go. Where it fails, it is repeated.
    """

    def __init__(
        self,
        home: Home,
        store: Store,
        publisher: Publisher,
        within: timedelta,
        supervisor: Supervisor | None = None,
        now: Callable[[], datetime] = utc_now,
        shared: HomeArtifacts | None = None,
    ) -> None:
        """Take what to look through.

        Args:
            home: whose indexes.
            store: with the ledger of erasures.
            publisher: publishes the new index.
            within: the time from an erasure to the removal; zero for never.
            supervisor: of health and Status.
            now: the time, UTC without a zone.
            shared: where artifacts belong; by default in the directory of the home.
        """
        super().__init__("forgetting", supervisor)
        self._home = home
        self._store = store
        self._publisher = publisher
        self._within = within
        self._now = now
        self._artifacts = shared or HomeArtifacts(home)
        self._pause_s = within.total_seconds() / _LOOKS
        self.look_at = time.monotonic() if within else None

    def look(self) -> list[str]:
        """Look whether it is time, and if so, have the vectors of all erased people removed.

        Returns:
            the indexes that were removed.

        Raises:
            BuildFailedError, and as `Publisher.publish`: the directories stay for now.
        """
        ledger = list_erasures(self._store)
        due = [one for one in ledger if self._now() - one.erased_at >= self._within / 2]
        if not due:
            return []
        self._sweep(due)
        held, others = self._held(ledger), self._held_elsewhere(due)
        if not others and not any(one in due for erasures in held.values() for one in erasures):
            return []
        current = self._publisher.index_id
        if current in held:
            published = self._publisher.publish_in_place_of(current, self._build())
            log.info("index %s serves, without people who were erased", published.snapshot.index.index_id)
            held = self._held(ledger)
        removed = [one for one in [*others, *held] if one != self._publisher.index_id]
        for index_id in removed:
            self._artifacts.remove(index_id)
        append_audit_line(self._home.audit_log, "remove_indexes", indexes=removed)
        log.info("removed indexes that held vectors of erased people: %s", ", ".join(removed) or "none")
        return removed

    def _held(self, ledger: list[Erasure]) -> dict[str, list[Erasure]]:
        """Return the indexes that hold vectors of erased people, and their erasures; of a damaged one all."""
        found = {}
        for index_id in artifacts(self._home.indexes):
            try:
                found[index_id] = erased_in(self._home, index_id, ledger)
            except (DamagedArtifactError, OSError, ValueError) as error:
                log.warning("index %s may hold vectors of erased people: %s", index_id, error)
                found[index_id] = ledger
        return {index_id: erasures for index_id, erasures in found.items() if erasures}

    def _held_elsewhere(self, due: list[Erasure]) -> list[str]:
        """Return the indexes that are not here and were made from exports of before one of some erasures."""
        made = {one: made_at(export_id) for one, export_id in self._artifacts.elsewhere().items()}
        return [index_id for index_id, at in made.items() if erasures_since(at, due)]

    def _sweep(self, due: list[Erasure]) -> None:
        """Remove what killed builds left before one of some erasures; it may hold the person's vector."""
        last = max(one.erased_at for one in due)
        for pattern in _LEFT_BEHIND:
            left = abandoned(self._home.indexes, pattern)
            if any(_changed_at(path) <= last for path in left):
                remove_abandoned(self._home.indexes, pattern)

    def _build(self) -> str:
        """Build an index of the store as it is now, in a process of its own, and return its id.

        Raises:
            BuildFailedError: it was not built.
        """
        export_id = create_export(self._store, self._home.exports)
        command = [sys.executable, "-m", "indexer.without_erased", str(self._home.path), export_id]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
            while True:
                try:
                    said, _ = process.communicate(timeout=_ASK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if self.stopping:
                        process.kill()
        if process.returncode:
            raise BuildFailedError(process.returncode)
        return said.strip()

    def backlog(self) -> tuple[int, float]:
        """Return how much waits, and for how many seconds: nothing, as this looks by the clock."""
        return 0, 0.0

    def _has_work(self) -> bool:
        return self.look_at is not None and time.monotonic() >= self.look_at

    def _work(self) -> None:
        self.look_at = time.monotonic() + self._pause_s
        self.look()

    def _catch_up(self) -> bool:
        self.look()
        return True


def _changed_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(tzinfo=None)
