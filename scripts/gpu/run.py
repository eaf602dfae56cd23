"""The steps of `make gpu` one after another, within a time; one that fails does not stop the others."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}  # from FAISS and torch, which then work on the CPU


@dataclass(frozen=True)
class GpuStep:
    """A step: its name in the report, what `step` is called with, how long it may take, and on what."""

    name: str
    words: tuple[str, ...]
    seconds: float
    card: bool = True


STEPS = tuple(
    GpuStep(
        name,
        (sys.executable, "-m", "scripts.gpu.step", name.removesuffix(" on the CPU")),
        seconds,
        not name.endswith("CPU"),
    )
    for name, seconds in (
        ("tests", 100.0),
        ("parity", 90.0),
        ("exact", 60.0),
        ("builds", 40.0),
        ("text", 40.0),
        ("training", 30.0),
        ("training on the CPU", 50.0),
        ("builds on the CPU", 90.0),  # last: it is the one to lose
    )
)


def run_steps(steps: Sequence[GpuStep], seconds: float) -> dict[str, dict[str, Any]]:
    """Return for each step what it found, with `took`, or as `error` why it found nothing.

    A step that takes longer than it may, or than is left, is ended, with all that it started.
    """
    end, found = time.monotonic() + seconds, dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory(prefix="triptych-gpu-") as folder:
        for step in steps:
            began = time.monotonic()
            log.info("gpu: %s", step.name)
            try:
                found[step.name] = _run(step, Path(folder), min(step.seconds, end - began))
            except NothingFoundError as error:
                log.error("gpu: %s: %s", step.name, error)
                found[step.name] = {"error": str(error)}
            found[step.name]["took"] = time.monotonic() - began
    return found


class NothingFoundError(RuntimeError):
    """A step found nothing."""


def _run(step: GpuStep, folder: Path, seconds: float) -> dict[str, Any]:
    if seconds <= 0:
        raise NothingFoundError("no time was left")
    out, log_path = folder / f"{step.name}.json", folder / f"{step.name}.log"
    environment = os.environ | ({} if step.card else _HIDDEN)
    with log_path.open("w") as said:
        running = subprocess.Popen(
            [*step.words, str(out)], stdout=said, stderr=said, env=environment, start_new_session=True
        )
        try:
            code = running.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            raise NothingFoundError(f"it took longer than {seconds:.0f} s") from None
    if code:
        lines = log_path.read_text("utf-8", errors="replace").strip().splitlines()
        raise NothingFoundError(lines[-1] if lines else f"it ended with {code}")
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found
