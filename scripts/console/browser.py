"""A Chromium that is there, for programs that look at the pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ChromiumMissingError(RuntimeError):
    """There is no browser to look with."""

    def __init__(self) -> None:
        super().__init__("no Chromium here: apt-get install chromium")


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser of Playwright's while the block runs.

    Raises:
        ChromiumMissingError: there is none.
    """
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise ChromiumMissingError
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
