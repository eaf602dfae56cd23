"""A benchmark that is told to end leaves no process behind."""

import signal
import subprocess
import sys

import psutil
import pytest

from tests.live_server import soon

# A further subcommand, which waits for a process that waits for another one.
PROGRAM = """
import subprocess, sys
from scripts.bench import app

@app.command("wait")
def wait() -> None:
    below = "import subprocess as s; one = s.Popen(['sleep', '600']); print(one.pid, flush=True); one.wait()"
    subprocess.Popen([sys.executable, "-c", below]).wait()

app(["wait"])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_it_started_ends_with_it(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        last = int(running.stdout.readline())
        (child,) = psutil.Process(running.pid).children()
        running.send_signal(number)
        assert running.wait(30) == 128 + number
    soon(lambda: not _runs(child.pid) and not _runs(last))


def test_what_nohup_ignores_stays_ignored() -> None:
    command = ["nohup", sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        last = int(running.stdout.readline())
        running.send_signal(signal.SIGHUP)
        running.send_signal(signal.SIGTERM)  # of two that wait the lower number is handled first
        assert running.wait(30) == 128 + signal.SIGTERM
    soon(lambda: not _runs(last))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
