"""The page Evaluation: reports as charts, one alone or two over each other."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from server.access import TokenFile
from store.home import Home
from store.reports import keep_report
from tests.charts.reports import recall_of, report_with, whole_report
from tests.console.conftest import OpenConsole
from tests.console.test_pages import FITS, both_ways, shown
from tests.live_server import copy_home, flip, server
from triptych_client import CallError
from triptych_client import Client as ApiClient

Visit = Callable[..., Any]
CHARTS = ["others", "views", "by-history", "by-texts", "by-friends", "new-items", "robustness", "calibration"]


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copy_home(small_home, tmp_path_factory.mktemp("evaluated") / "home")


@pytest.fixture(scope="module")
def reports(home: Home) -> tuple[str, str]:
    """The ids of a report with every block, and of one of other people."""
    better = report_with(k={"20": recall_of(0.75)}, users=4)
    return keep_report(home, whole_report(), "").name, keep_report(home, better, "").name


@pytest.fixture(scope="module")
def pages(home: Home, reports: tuple[str, str], open_console: OpenConsole) -> Iterator[str]:
    with server(home) as live, open_console(live.address) as url:
        yield url


@both_ways
def test_a_report_is_chosen_and_another_laid_over_it(
    pages: str, reports: tuple[str, str], visit: Visit, language: str, width: int, then: int
) -> None:
    one, other = reports
    chinese = language == "zh-CN"
    page = visit(f"{pages}/evaluation", width=width, language=language)
    page.get_by_role("link", name=one).click()
    page.wait_for_url(f"**/evaluation?report={one}")
    shown(page, "#calibration .c-svg")
    assert page.locator(".c-chart").evaluate_all("all => all.map(one => one.id)") == CHARTS
    assert page.locator("#others tbody tr").first.locator("td").first.inner_text() == "0.500"
    page.locator("#by-history summary").click()
    shown(page, "#by-history caption", "NDCG@20")
    page.get_by_label("与之对比" if chinese else "Beside it").select_option(other)
    page.get_by_role("button", name="显示" if chinese else "Show", exact=True).click()
    page.wait_for_url(f"**/evaluation?report={one}&with={other}")
    shown(page, "#others .c-key", "B")
    assert page.locator("#others tbody tr").first.locator("td").last.inner_text() == "+0.250"
    assert page.locator("#by-history .c-dashed").count() > 0
    shown(page, ".t-failure", "数据行或用户不同" if chinese else "not of the same rows and people")
    assert page.evaluate(FITS)
    assert smallest_letters(page) >= 10
    page.set_viewport_size({"width": then, "height": 900})
    page.wait_for_function(FITS)
    assert smallest_letters(page) >= 10


def smallest_letters(page: Any) -> float:
    """Return the size of the smallest letters of all charts in pixels."""
    letters = "all => Math.min(...all.map(one => 12 * one.getBoundingClientRect().width / 360))"
    return float(page.locator(".c-svg").evaluate_all(letters))


@pytest.mark.parametrize("dark", [False, True])
def test_letters_and_marks_can_be_told_from_the_ground(
    pages: str, reports: tuple[str, str], visit: Visit, dark: bool
) -> None:
    page = visit(f"{pages}/evaluation?report={reports[0]}")
    page.context.add_cookies([{"name": "theme", "value": "dark" if dark else "light", "url": pages}])
    page.reload()
    shown(page, "#others .c-svg")
    ground = rgb(page, ".t-card", "backgroundColor")
    assert contrast(rgb(page, ".c-svg text.c-ours", "fill"), ground) > 7
    assert contrast(rgb(page, ".c-svg text.c-soft", "fill"), ground) > 4.5
    for mark in range(3):
        assert contrast(rgb(page, f".c-chart .c-{mark}", "color"), ground) > 3
    assert (luminance(ground) < 0.2) is dark


def test_the_address_of_a_report_that_is_gone_says_so(pages: str, visit: Visit) -> None:
    page = visit(f"{pages}/evaluation?report=..%2F..%2Fmodels")
    shown(page, ".t-failure", "There is no such report")
    assert page.get_by_label("Report").count() == 1


def test_without_a_report_it_says_which_command_makes_one(
    small_home: Home, tmp_path: Path, open_console: OpenConsole, visit: Visit
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as live, open_console(live.address) as url:
        page = visit(f"{url}/evaluation")
        shown(page, ".t-note", "Run triptych evaluate")
        damaged = keep_report(home, report_with(), "")
        flip(damaged / "manifest.json")
        page.reload()
        shown(page, ".t-table", "damaged")
        assert page.get_by_role("link", name=damaged.name).count() == 0


def test_a_token_that_may_only_ask_is_told_no_report(
    small_home: Home, tmp_path: Path, open_console: OpenConsole, visit: Visit
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    report = keep_report(home, report_with(), "").name
    _, asks = TokenFile(home.path / "tokens.json").create(("query",), datetime.now(UTC))
    with server(home) as live:
        with open_console(live.address, token=asks) as url:
            page = visit(f"{url}/evaluation?report={report}")
            shown(page, ".t-note", "tokens with the scope admin")
            assert page.locator(".c-svg").count() == 0
            shown(visit(f"{url}/models"), ".t-note", "tokens with the scope admin")
        with ApiClient(live.address, token=asks) as client:
            for call in (client.list_reports, client.list_models, lambda: client.get_report(report)):
                with pytest.raises(CallError) as refused:
                    call()
                assert refused.value.reason == "SCOPE_MISSING"


def rgb(page: Any, selector: str, what: str) -> tuple[float, float, float]:
    """Return a colour of an element as three shares."""
    said = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{what}")
    red, green, blue = (int(one) / 255 for one in said.partition("(")[2].rstrip(")").split(",")[:3])
    return red, green, blue


def luminance(colour: tuple[float, float, float]) -> float:
    """Return the relative luminance of WCAG 2."""
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """Return the contrast ratio of WCAG 2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
