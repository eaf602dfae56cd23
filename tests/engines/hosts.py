"""Three hosts on one machine: network namespaces on a bridge where these are allowed, else addresses."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from scripts.bench.engines.valkey_cluster import NodeHost

_NET = "10.77.0"
_BRIDGE = "triptych-hosts"


@dataclass(frozen=True)
class Host(NodeHost):
    """A host, whose network can be cut where it has one of its own."""

    def cut_off_from(self, others: "Sequence[Host]") -> None:
        """Drop what the others send here: they hear this host, and are not heard."""
        for other in others:
            _ip("-n", other.prefix[3], "route", "add", "blackhole", f"{self.address}/32")

    def heal(self, others: "Sequence[Host]") -> None:
        """Let the others be heard again."""
        for other in others:
            _ip("-n", other.prefix[3], "route", "del", "blackhole", f"{self.address}/32")


@contextmanager
def three_hosts() -> Iterator[list[Host]]:
    """Yield three hosts, which this process reaches as well."""
    if os.geteuid() != 0 or shutil.which("ip") is None or not _made():
        yield [Host(f"127.0.0.{number}", (), False) for number in (2, 3, 4)]
        return
    names = [f"triptych-{number}" for number in (1, 2, 3)]
    try:
        for number, name in enumerate(names, start=1):
            _ip("netns", "add", name)
            _ip("link", "add", f"tri{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", f"tri{number}", "master", _BRIDGE, "up")
            _ip("-n", name, "addr", "add", f"{_NET}.{number}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", name, "link", "set", device, "up")
        yield [
            Host(f"{_NET}.{number}", ("ip", "netns", "exec", name), True)
            for number, name in enumerate(names, start=1)
        ]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", _BRIDGE], check=False, capture_output=True)


def _made() -> bool:
    """Make the bridge; return whether that is allowed."""
    try:
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{_NET}.254/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
    except subprocess.CalledProcessError:
        return False
    return True


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
