"""The settings of a running server, some of which SIGHUP changes."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from server.config import ServerConfig, options

log = logging.getLogger(__name__)


class Rereading:
    """Knows the settings that hold, and tells who listens of new ones; threads may share it.

    Attributes:
        config: the settings that hold.
    """

    def __init__(self, config: ServerConfig, load: Callable[[], ServerConfig] | None = None) -> None:
        """Begin with some settings.

        Args:
            config: the settings.
            load: reads them again; None where nothing can.
        """
        self.config = config
        self._load = load
        self._listeners: list[Callable[[ServerConfig], None]] = []
        self._lock = threading.Lock()

    def listen(self, listener: Callable[[ServerConfig], None]) -> None:
        """Call a function with the settings now, and whenever they were read again."""
        with self._lock:
            self._listeners.append(listener)
            listener(self.config)

    def reread(self) -> None:
        """Read the settings again; where they cannot be used, all stay as they are, and the log says why."""
        if self._load is None:
            return
        try:
            self.change(self._load())
        except (OSError, ValueError) as error:
            log.error("the settings stay as they are: %s", error)
        else:
            log.info("settings read again")

    def change(self, wanted: ServerConfig) -> None:
        """Take from new settings what can change while a server runs; the log names what did and what not.

        Whoever listens is told in any case: files that the settings name may have changed.

        Raises:
            OSError, ValueError: one who listens cannot use them; those before have the old ones again.
        """
        with self._lock:
            new, fixed = dict[str, Any](), list[str]()
            for one in options():
                value = getattr(wanted, one.attribute)
                if value == getattr(self.config, one.attribute):
                    continue
                if one.reread:
                    new[one.attribute] = value
                else:
                    fixed.append(f"[{one.table}] {one.key}")
            self._tell(replace(self.config, **new))
        if new:
            log.info("changed: %s", ", ".join(new))
        if fixed:
            log.warning("only a restart changes %s", ", ".join(fixed))

    def _tell(self, config: ServerConfig) -> None:
        told: list[Callable[[ServerConfig], None]] = []
        try:
            for listener in self._listeners:
                told.append(listener)
                listener(config)
        except (OSError, ValueError):
            for listener in told[:-1]:
                listener(self.config)
            raise
        self.config = config


def set_log_level(config: ServerConfig) -> None:
    """Have the process log what the settings say."""
    logging.getLogger().setLevel(config.log_level.upper())
