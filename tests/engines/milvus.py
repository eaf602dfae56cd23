"""A Milvus server (milvus-lite, from a wheel) in a process of its own, which tests start and stop."""

import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SECONDS = 60.0


@contextmanager
def milvus_server(folder: Path) -> Iterator[str]:
    """Yield the address of a Milvus that keeps its data in a folder."""
    program = shutil.which("milvus-lite", path=sysconfig.get_path("scripts"))
    assert program is not None, "milvus-lite of the extra dev is not installed"
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = int(one.getsockname()[1])
    command = [
        program,
        "server",
        "--data-dir",
        str(folder / "data"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + _SECONDS
        while True:
            assert server.poll() is None, (folder / "log").read_text()[-2_000:]
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except OSError:
                assert time.monotonic() < until, (folder / "log").read_text()[-2_000:]
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
