"""Throughput by h2load, a client in C that costs little beside the server."""

import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from scripts.bench.load import CallFailedError
from scripts.bench.serve.callers import ask
from scripts.bench.serve.work import Work

PROGRAM = "h2load"  # of Debian's nghttp2-client


class NoH2loadError(FileNotFoundError):
    """--h2load is given, and the program is not there."""

    def __init__(self) -> None:
        super().__init__(f"--h2load needs the program {PROGRAM} (Debian: nghttp2-client); leave it out")


def check_h2load() -> None:
    """Raises: NoH2loadError."""
    if shutil.which(PROGRAM) is None:
        raise NoH2loadError


def throughput_by_h2load(address: str, work: Work, callers: int, seconds: float) -> float:
    """Return answered calls per second of so many connections, one call at a time each.

    It sends the first request of the work again and again, for it takes only one. It counts HTTP 200, which a
    failed call has, too; so the same request is asked apart, before and after, and the bytes of the replies
    must be those of whole ones.

    Raises:
        NoH2loadError: it is not installed.
        CallFailedError: a call failed, or brought no whole reply.
    """
    check_h2load()
    first = Work(work.kind, work.method, work.requests[:1])
    (reply,) = ask(address, first, 1)
    with tempfile.TemporaryDirectory() as name:
        body = Path(name) / "body"
        body.write_bytes(b"\0" + struct.pack(">I", len(first.requests[0])) + first.requests[0])
        arguments = [PROGRAM, f"--duration={round(1000 * seconds)}ms", f"--clients={callers}",
                     "--max-concurrent-streams=1", f"--data={body}", f"http://{address}{work.method}",
                     "--header=content-type: application/grpc", "--header=te: trailers"]  # fmt: skip
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    ask(address, first, 1)
    well = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
    traffic = re.search(r"\((\d+)\) data", done.stdout)
    if done.returncode or well is None or traffic is None or int(well[2]) + int(well[3]):
        raise CallFailedError(address, f"{PROGRAM}: {(done.stderr or done.stdout).strip()[:500]}")
    answered = int(well[1])
    if int(traffic[1]) < answered * len(reply) * 0.98:
        raise CallFailedError(
            address, f"{PROGRAM} got {traffic[1]} bytes for {answered} replies of {len(reply)}"
        )
    return answered / seconds
