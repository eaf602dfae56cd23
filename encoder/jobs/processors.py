"""How many processors this process may use, a container's quota included."""

import math
import os
from pathlib import Path

_V2 = Path("/sys/fs/cgroup/cpu.max")
_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def usable_processors(v2: Path = _V2, v1: tuple[Path, Path] = _V1) -> int:
    """Return the number of processors, at least 1: those that are allowed, or the quota, rounded up.

    Args:
        v2: the file of a version 2 control group with quota and period.
        v1: those of a version 1 control group, quota and period apart.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(v2, v1)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(v2: Path, v1: tuple[Path, Path]) -> float | None:
    """Return the processors that the control group allows, None where it sets no limit."""
    try:
        words = v2.read_text("utf-8").split()
    except OSError:
        try:
            words = [file.read_text("utf-8").strip() for file in v1]
        except OSError:
            return None
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # "max", or nothing that a kernel writes
        return None
    return quota / period if quota > 0 and period > 0 else None
