"""Directories that a killed process left behind: hidden, never read, named by what made them and its pid."""

import os
from pathlib import Path


def abandoned(parent: Path, pattern: str) -> list[Path]:
    """Return the directories that match a pattern such as ".building-*" and whose process is gone.

    Their names end in -<pid>; one without a pid belongs to nobody who is still alive.
    """
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.glob(pattern) if path.is_dir() and not _alive(path))


def _alive(path: Path) -> bool:
    pid = path.name.rpartition("-")[2]
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but alive
        return True
    return True
