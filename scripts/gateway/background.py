"""A gateway that stays up after the command that started it, as the demo's does."""

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from scripts.gateway.process import envoy_path

_START_SECONDS = 60.0
_SAID = re.compile(r"gateway on (\S+) for ")


class GatewayStartError(RuntimeError):
    """A gateway in the background ended, or does not answer in time."""


@dataclass(frozen=True)
class BackgroundGateway:
    """A gateway in the background.

    Attributes:
        url: where this machine reaches it.
        pid: of its command.
    """

    url: str
    pid: int


def start_gateway(address: str, folder: Path) -> BackgroundGateway:
    """Start a gateway for a server at any free port; its log and gateway.json lie in a folder.

    Raises:
        EnvoyNotInstalledError: there is no Envoy.
        GatewayStartError: it does not answer; names its log.
    """
    envoy_path()
    log = folder / "gateway.log"
    command = [sys.executable, "-m", "scripts.cli", "gateway", "--address", address, "--port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := _SAID.search(log.read_text("utf-8", "replace")):
            gateway = BackgroundGateway(found[1], process.pid)
            _file(folder).write_text(json.dumps(asdict(gateway)) + "\n", "utf-8")
            return gateway
        time.sleep(0.05)
    process.terminate()
    raise GatewayStartError(f"the gateway did not start: see {log}")


def stop_gateway(folder: Path) -> None:
    """End the gateway that `start_gateway` started for a folder, where it still runs."""
    with suppress(FileNotFoundError, psutil.NoSuchProcess, psutil.TimeoutExpired):
        process = psutil.Process(json.loads(_file(folder).read_text("utf-8"))["pid"])
        if "gateway" in process.cmdline():  # not another process that got the number since
            process.terminate()
            process.wait(30)


def _file(folder: Path) -> Path:
    return folder / "gateway.json"
