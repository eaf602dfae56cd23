"""What the command refuses, and to whom the pages answer."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from console import ConsoleConfig, OpenConsoleError, run_console
from scripts.console import background
from scripts.console.command import _filter
from tests.command_line import Run
from tests.console.conftest import ROOT, OpenConsole
from triptych_client import BadAddressError


def config(**fields: object) -> ConsoleConfig:
    return ConsoleConfig(address="127.0.0.1:1", read_filter=_filter, **fields)  # type: ignore[arg-type]


def test_other_machines_are_let_in_only_where_that_is_said() -> None:
    with pytest.raises(OpenConsoleError, match=r"0\.0\.0\.0 is reached from other machines.*--insecure"):
        run_console(config(host="0.0.0.0"))  # noqa: S104


def test_an_address_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(BadAddressError):
        run_console(ConsoleConfig(address="nowhere", read_filter=_filter))


def test_without_nicegui_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "find_spec", lambda _: None)
    code, _, err = run("console")
    assert (code, err.count("\n")) == (1, 1)
    assert "pip install 'triptych[console]'" in err


def test_conditions_are_read_as_the_command_line_reads_them() -> None:
    wanted = _filter(["film"], ["year>=1999"])
    assert wanted is not None
    assert wanted.kinds == ["film"]
    assert wanted.attributes[0].at_least == 1999
    assert _filter([], []) is None
    with pytest.raises(ValueError, match="no operator, write >="):
        _filter([], ["year=>1999"])


def test_without_a_browser_one_line_says_how_to_get_one(tmp_path: Path) -> None:
    """What needs one is skipped, however many tests that are."""
    (tmp_path / "test_pages.py").write_text(
        'pytest_plugins = ["tests.conftest", "tests.console.conftest"]\n'
        "def test_one(chromium): pass\n"
        "def test_two(chromium): pass\n"
    )
    (tmp_path / "bin").mkdir()
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml"]
    environment = os.environ | {"PATH": str(tmp_path / "bin")}
    done = subprocess.run(
        [*command, "--rootdir", ROOT, tmp_path], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if "Chromium" in line]
    assert said == ["2 tests are skipped, no Chromium here: apt-get install chromium"]


def test_names_of_other_machines_are_refused_and_no_page_is_framed(open_console: OpenConsole) -> None:
    with open_console("127.0.0.1:1") as url:
        with urllib.request.urlopen(f"{url}/items") as reply:  # noqa: S310
            assert reply.headers["x-frame-options"] == "DENY"
            assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        elsewhere = urllib.request.Request(f"{url}/items", headers={"host": "evil.example"})  # noqa: S310
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(elsewhere)  # noqa: S310
        assert refused.value.code == 400
