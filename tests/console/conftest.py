import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from store.home import Home
from tests.conftest import NO_CHROMIUM
from tests.live_server import SOON, Client, copy_home, server

ROOT = Path(__file__).parents[2]
OpenConsole = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def open_console(tmp_path_factory: pytest.TempPathFactory) -> OpenConsole:
    """Starts a console as a process; yields where its pages are."""

    @contextmanager
    def started(address: str, *options: str, token: str = "") -> Iterator[str]:
        log = tmp_path_factory.mktemp("console") / "log"
        command = [
            sys.executable,
            "-m",
            "scripts.cli",
            "console",
            "--address",
            address,
            "--port",
            "0",
            *options,
        ]
        environment = os.environ | {"TRIPTYCH_TOKEN": token, "PYTHONPATH": os.pathsep.join(sys.path)}
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=environment)
        try:
            deadline = time.monotonic() + SOON
            while not (said := re.search(r"console on (\S+) for", log.read_text("utf-8"))):
                assert process.poll() is None, log.read_text("utf-8")
                assert time.monotonic() < deadline, "the console did not start in time"
                time.sleep(0.1)
            yield said[1]
        finally:
            process.terminate()
            process.wait(30)

    return started


@pytest.fixture(scope="module")
def live(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server whose home may be changed."""
    with server(copy_home(small_home, tmp_path_factory.mktemp("live") / "home")) as client:
        yield client


@pytest.fixture(scope="module")
def console(live: Client, open_console: OpenConsole) -> Iterator[str]:
    """A console that offers changes."""
    with open_console(live.address, "--write") as url:
        yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; the tests are skipped where there is none.

    Playwright keeps an event loop in this thread, so it ends with the file that needs it.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip(NO_CHROMIUM)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


def is_wrong(message: Any) -> bool:
    """Whether the browser complains; not of a console that a test has ended."""
    return message.type in ("error", "warning") and "ERR_CONNECTION_REFUSED" not in message.text


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page of a width and language; in the end there was no error, and no request elsewhere."""
    pages: list[tuple[Any, list[str]]] = []

    def opened(url: str, *, width: int = 1280, language: str = "en") -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, locale=language)
        page, wrong = context.new_page(), list[str]()
        page.set_default_timeout(SOON * 1000)
        page.on("console", lambda m: wrong.append(m.text) if is_wrong(m) else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        origin = "/".join(url.split("/")[:3])
        page.on(
            "request",
            lambda r: None if r.url.startswith((origin, "data:", "blob:")) else wrong.append(r.url),
        )
        page.goto(url)
        pages.append((page, wrong))
        return page

    yield opened
    for page, wrong in pages:
        page.context.close()
        assert wrong == []
