"""Pictures of the console's pages for the documents, by a Chromium that is there.

Example: python -m scripts.console.pictures http://127.0.0.1:8090 --user u00008 --item film-0162
"""

import argparse
from pathlib import Path
from typing import Any

from scripts.console.browser import chromium

_INTO = Path(__file__).resolve().parents[2] / "docs" / "images" / "console"
_HEIGHT = 860
_CHARTS = {"evaluation": "#views", "models": "#held-out"}  # what is shown of a long page
_WHOLE = {"/try": ".t-results", "/map": ".t-map[data-paint-ms]"}  # what is there when a page is whole


def main() -> None:
    """Write the pictures, a PNG each."""
    parser = argparse.ArgumentParser(prog="python -m scripts.console.pictures", description=__doc__)
    parser.add_argument("url", help="where the console is")
    parser.add_argument("--user", required=True, help="a person who is shown")
    parser.add_argument("--item", required=True, help="an item that is shown")
    parser.add_argument("--into", type=Path, default=_INTO, help="the folder of the pictures")
    arguments = parser.parse_args()
    take_pictures(arguments.url, arguments.user, arguments.item, arguments.into)


def take_pictures(url: str, user: str, item: str, into: Path) -> None:
    """Write a PNG for each of some pages, light and dark, wide and narrow, in both languages.

    Raises:
        ChromiumMissingError: there is none.
    """
    into.mkdir(parents=True, exist_ok=True)
    shots = {
        "overview": ("/", 1280, "en", "light"),
        "try": (f"/try?user={user}", 1280, "en", "light"),
        "try-filter": (f"/try?user={user}&where=year%3E%3D2016%0Atopic%3Dfilm", 1280, "en", "light"),
        "map": (f"/map?user={user}&colour=topic", 1280, "en", "light"),
        "map-zh": (f"/map?user={user}&colour=year", 1280, "zh-CN", "dark"),
        "try-compared-zh": (f"/try?user={user}&compare=1&b.history=0", 1280, "zh-CN", "dark"),
        "people": (f"/people?user={user}", 1280, "en", "light"),
        "item-narrow": (f"/items?item={item}", 390, "en", "light"),
    }
    with chromium() as browser:
        shots |= _compared(browser, url)
        for name, (path, width, language, looks) in shots.items():
            context = browser.new_context(
                viewport={"width": width, "height": _HEIGHT},
                locale=language,
                color_scheme="dark" if looks == "dark" else "light",
            )
            page = context.new_page()
            page.goto(url + path, wait_until="networkidle")
            page.locator("main h1").wait_for()
            for begin, wanted in _WHOLE.items():
                if path.startswith(begin):
                    page.locator(wanted).first.wait_for()
            if name in _CHARTS:
                page.evaluate("one => document.querySelector(one).scrollIntoView()", _CHARTS[name])
            page.screenshot(path=into / f"{name}.png")
            context.close()


def _compared(browser: Any, url: str) -> dict[str, tuple[str, int, str, str]]:
    """Return the pages of the newest two reports and models side by side, of those that there are."""
    page, shots = browser.new_page(), dict[str, tuple[str, int, str, str]]()
    for name, path, second, looks in (
        ("evaluation", "/evaluation", "&with=", "light"),
        ("models", "/models", "&model=", "dark"),
    ):
        page.goto(url + path, wait_until="networkidle")
        links = page.locator(f"main a[href^='{path}?']")
        found = links.evaluate_all("all => all.map(one => one.getAttribute('href'))")
        if found:
            other = second + found[1].partition("=")[2] if len(found) > 1 else ""
            shots[name] = (found[0] + other, 1280, "en", looks)
        else:
            print(f"{name}: nothing is there to be shown, so there is no picture")
    page.close()
    return shots


if __name__ == "__main__":
    main()
