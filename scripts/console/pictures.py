"""Pictures of the console's pages for the documents, by a Chromium that is there.

Example: python -m scripts.console.pictures http://127.0.0.1:8090 --user u00008 --item film-0162
"""

import argparse
from pathlib import Path

from scripts.console.browser import chromium

_INTO = Path(__file__).resolve().parents[2] / "docs" / "images" / "console"
_HEIGHT = 860
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
            page.screenshot(path=into / f"{name}.png")
            context.close()


if __name__ == "__main__":
    main()
