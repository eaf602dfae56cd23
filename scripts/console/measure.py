"""How long each page of a console takes in a browser, as a table in Markdown.

Example: python -m scripts.console.measure http://127.0.0.1:8090 --user u00000008 --item item-00000162
--contains 00162 --heavy u00000011
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from scripts.console.browser import chromium

_LONGEST_MS = 60_000
_FRAMES = 60  # in which the map is dragged


@dataclass(frozen=True)
class PageVisit:
    """A page that is opened, or something that is done on one.

    Attributes:
        name: for people.
        path: of the page.
        shown: a selector of what is there when it is whole.
        act: does something on the page that is open; the time begins with it. None: with the page.
        then: a selector of what is there when that is done.
    """

    name: str
    path: str
    shown: str
    act: Callable[[Any], None] | None = None
    then: str = ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m scripts.console.measure", description=__doc__)
    parser.add_argument("url", help="where the console is")
    parser.add_argument("--user", required=True, help="a person as most are")
    parser.add_argument("--heavy", default="", help="a person who has many rows; else the same")
    parser.add_argument("--item", required=True, help="an item")
    parser.add_argument("--contains", required=True, help="a part of an id or title that few items have")
    parser.add_argument("--model", action="append", default=[], help="models to show side by side")
    parser.add_argument("--report", action="append", default=[], help="a report; with a second, both")
    parser.add_argument("--times", type=int, default=5, help="how often each page is opened")
    arguments = parser.parse_args()
    wanted = visits(arguments.user, arguments.heavy or arguments.user, arguments.item, arguments.contains)
    wanted += figure_visits(arguments.model, arguments.report)
    print(measured(arguments.url, wanted, arguments.times))


def visits(user: str, heavy: str, item: str, contains: str) -> list[PageVisit]:
    """Return every page, and what takes time on them."""
    user, heavy, item, contains = map(quote, (user, heavy, item, contains))

    def more(page: Any) -> None:
        page.get_by_label("How many").locator("> div").press("ArrowRight")

    return [
        PageVisit("Overview", "/", "main h2:has-text('Background work')"),
        PageVisit("Try: the form alone", "/try", ".t-filter"),
        PageVisit("Try: a person", f"/try?user={user}", ".t-results > li"),
        PageVisit("Try: two settings", f"/try?user={user}&compare=1&b.history=0", "[data-setting='2'] li"),
        PageVisit("Try: one who has many rows", f"/try?user={heavy}", ".t-results > li"),
        PageVisit("Try: compare every item", f"/try?user={user}&exact=1&k=200", ".t-results > li"),
        PageVisit("Try: a slider moves", f"/try?user={user}", ".t-results > li", more, "li:nth-child(11)"),
        PageVisit("Map", "/map", ".t-map[data-paint-ms]"),
        PageVisit(
            "Map: coloured by an attribute, with a person",
            f"/map?user={user}&colour=near",
            ".t-map[data-paint-ms]",
        ),
        PageVisit(
            "People: one who has many rows", f"/people?user={heavy}", "main h2:has-text('What is stored')"
        ),
        PageVisit(
            "People: a later page of rows", f"/people?user={heavy}&table=behaviors&from=50", "details[open]"
        ),
        PageVisit("Items: the first page", "/items", ".t-table tbody tr"),
        PageVisit("Items: a part of an id or title", f"/items?contains={contains}", ".t-table tbody tr"),
        PageVisit("Items: nothing is found", "/items?contains=no-such-title", "main .t-note"),
        PageVisit("Items: one kind, a later page", f"/items?kind=video&after={item}", ".t-table tbody tr"),
        PageVisit("Items: one of them", f"/items?item={item}", "main h2:has-text('Its audience')"),
        PageVisit("Indexes", "/indexes", ".t-table tbody tr"),
    ]


def figure_visits(models: Sequence[str], reports: Sequence[str]) -> list[PageVisit]:
    """Return the pages of what training and evaluation measured; without names the lists alone."""
    asked = "&".join(f"model={quote(one)}" for one in models)
    one_by_one = zip(("report", "with"), map(quote, reports), strict=False)
    overlaid = "&".join(f"{name}={report}" for name, report in one_by_one)
    row, chart = ".t-table tbody tr", ".c-chart .c-svg"
    wanted = [PageVisit("Models", "/models", row), PageVisit("Evaluation: the list", "/evaluation", row)]
    if models:
        wanted.append(PageVisit("Models: what training measured", f"/models?{asked}", chart))
    if reports:
        wanted.append(PageVisit("Evaluation: reports as charts", f"/evaluation?{overlaid}", chart))
    return wanted


def measured(url: str, wanted: Sequence[PageVisit], times: int) -> str:
    """Return a table of the median and the longest time of each, and how long the map takes to paint."""
    lines = ["| page | median s | longest s |", "|---|---|---|"]
    with chromium() as browser:
        for one in wanted:
            seconds = [_seconds(browser, url, one) for _ in range(times)]
            lines.append(f"| {one.name} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |")
        points, paints = _paints(browser, url)
    lines.append("")
    lines.append(
        f"The map of {points:,} points is painted in {statistics.median(paints):.0f} ms (median of "
        f"{len(paints)} frames while it is dragged; the longest {max(paints):.0f} ms)."
    )
    return "\n".join(lines)


def _seconds(browser: Any, url: str, one: PageVisit) -> float:
    """Open a page as somebody who was never here does; return the seconds until it is whole."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en")
    page = context.new_page()
    page.set_default_timeout(_LONGEST_MS)
    began = time.perf_counter()
    page.goto(url + one.path)
    page.locator(one.shown).first.wait_for()
    if one.act is not None:
        began = time.perf_counter()
        one.act(page)
        page.locator(one.then).first.wait_for()
    took = time.perf_counter() - began
    context.close()
    return took


def _paints(browser: Any, url: str) -> tuple[int, list[float]]:
    """Drag the map; return how many points it has, and the milliseconds that each frame took to paint."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(_LONGEST_MS)
    page.goto(f"{url}/map")
    page.locator(".t-map[data-paint-ms]").wait_for()
    paints = page.evaluate(
        """async (frames) => {
            const root = document.querySelector(".t-map"), took = [];
            for (let n = 0; n < frames; n++) {
                root.mapView.pan(n % 2 ? -7 : 9, 3);
                await new Promise(requestAnimationFrame);
                await new Promise(requestAnimationFrame);
                took.push(Number(root.dataset.paintMs));
            }
            return took;
        }""",
        _FRAMES,
    )
    points = int(page.locator(".t-map").get_attribute("data-points"))
    page.close()
    return points, paints


if __name__ == "__main__":
    main()
