"""An import of a large packed file in a process of its own: how long it takes and how much memory."""

import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WORDS = 20_000
_PEOPLE = 200_000
_ITEMS = 50_000
_WORDS_OF_A_REVIEW = 55
_TEXTS = 9_973  # no divisor of another number: pairs of item and text do not repeat soon
_FIRST_DAY = 1_500_000_000_000  # ms since 1970
_LOOK_SECONDS = 0.05
_GIB = 1 << 30


class ImportFailedError(RuntimeError):
    """The import that was measured failed."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the import ended with exit code {code}: its output says why")
        self.code = code


class TooMuchMemoryError(RuntimeError):
    """The import that was measured took more memory than it may."""

    def __init__(self, peak: float, most: int) -> None:
        super().__init__(f"the import took {peak:,.0f} MiB of memory at its peak, more than {most:,}")
        self.peak, self.most = peak, most


def check_memory(figures: dict[str, Any], most: int) -> None:
    """Check that an import took at most so many MiB.  Raises: TooMuchMemoryError."""
    if figures["peak MiB"] > most:
        raise TooMuchMemoryError(figures["peak MiB"], most)


def measure_import(folder: Path, gib: float, seed: int) -> dict[str, Any]:
    """Write reviews and products as Amazon's of 2023, packed, import them, and return the figures.

    Args:
        folder: an empty one; files and home stay in it.
        gib: of the reviews before they are packed.
        seed: of all that is drawn.

    Raises:
        ImportFailedError: the import failed.
    """
    source, home = folder / "reviews", folder / "home"
    source.mkdir()
    reviews = source / "reviews.jsonl.gz"
    rows, size = _write_reviews(reviews, int(gib * _GIB), seed)
    (source / "products.jsonl").write_text("".join(_products()), "utf-8")
    command = [sys.executable, "-m", "scripts.cli", "import", str(source), "--format", "amazon-reviews"]
    started = time.monotonic()
    process = subprocess.Popen([*command, "--home", str(home)])
    peak, ended = 0.0, False
    while not ended:
        peak = max(peak, _peak_mib(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        ended = pid == process.pid
        time.sleep(0.0 if ended else _LOOK_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ImportFailedError(process.returncode)
    return {
        "reviews": rows,
        "GiB unpacked": size / _GIB,
        "GiB packed": reviews.stat().st_size / _GIB,
        "seconds": time.monotonic() - started,
        "CPU seconds": usage.ru_utime + usage.ru_stime,
        "peak MiB": peak,
        "store GiB": (home / "views.duckdb").stat().st_size / _GIB,
    }


def _peak_mib(pid: int) -> float:
    """Return the most memory that a process has had since its program began.

    The kernel's `ru_maxrss` also counts what its parent had when it was forked.
    """
    said = Path(f"/proc/{pid}/status").read_text("utf-8")
    line = next((line for line in said.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")  # it ended
    return int(line.split()[1]) / 1024


def _write_reviews(path: Path, size: int, seed: int) -> tuple[int, int]:
    """Write reviews until they have so many bytes; return their number and the bytes."""
    draw = random.Random(seed)  # noqa: S311
    words = [f"{draw.choice('bcdfglmnprst')}{draw.randrange(10**6):x}" for _ in range(_WORDS)]
    texts = [" ".join(draw.choices(words, k=draw.randint(5, 2 * _WORDS_OF_A_REVIEW))) for _ in range(_TEXTS)]
    rows = written = 0
    with gzip.open(path, "wb", compresslevel=1) as file:
        while written < size:
            item, user = int(_ITEMS * draw.random() ** 3), int(_PEOPLE * draw.random())
            line = (
                f'{{"rating": {1 + rows % 5}.0, "title": "No. {rows}", '
                f'"text": "{texts[rows % _TEXTS]} {rows:x}", '
                f'"images": [], "asin": "B{item:09}", "parent_asin": "P{item:09}", "user_id": "A{user:027}", '
                f'"timestamp": {_FIRST_DAY + 997 * rows}, "helpful_vote": 0, "verified_purchase": true}}\n'
            )
            written += file.write(line.encode())
            rows += 1
    return rows, written


def _products() -> Iterator[str]:
    for at in range(_ITEMS):
        yield json.dumps({"parent_asin": f"P{at:09}", "title": f"No. {at}", "main_category": "All"}) + "\n"
