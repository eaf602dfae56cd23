"""What people do on the pages, in a browser: both widths, both languages, the keyboard alone."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from server.access import TokenFile
from store.home import Home
from tests.command_line import Run
from tests.console.conftest import OpenConsole
from tests.live_server import SOON, Client, copy_home, server
from triptych_client import CallError, Consent, Item, Text
from triptych_client import Client as ApiClient

Visit = Callable[..., Any]
USER = "u00001"
PATHS = (
    "/",
    f"/try?user={USER}&where=year%3E%3D2000",
    f"/map?user={USER}&colour=year",
    f"/people?user={USER}",
    "/items",
    "/items?new=1",
    "/indexes",
)


def shown(page: Any, selector: str, text: str = "") -> Any:
    """Wait until something with a text is visible; return it."""
    found = page.locator(selector).filter(has_text=text).first
    found.wait_for(timeout=SOON * 1000)
    return found


# A page is loaded in a language at one width and then brought to the other.
both_ways = pytest.mark.parametrize(("language", "width", "then"), [("en", 1280, 390), ("zh-CN", 390, 1280)])
FITS = "document.documentElement.scrollWidth <= innerWidth"


@both_ways
def test_every_page_opens_in_both_languages_and_fits(
    console: str, visit: Visit, language: str, width: int, then: int
) -> None:
    for path in PATHS:
        page = visit(console + path, width=width, language=language)
        shown(page, "main h1")
        shown(page, "header nav", "用户" if language == "zh-CN" else "People")
        assert page.locator(".t-failure").count() == 0
        assert page.evaluate(FITS)
        page.set_viewport_size({"width": then, "height": 900})
        page.wait_for_function(FITS)
        page.context.close()  # one that stays open goes on asking


def test_try_answers_at_once_and_its_address_can_be_shared(console: str, visit: Visit) -> None:
    page = visit(f"{console}/try")
    shown(page, ".t-note", "Name a person")
    page.get_by_label("Person, by id").fill(USER)
    shown(page, ".t-results > li")
    assert page.locator(".t-results > li").count() == 10
    page.wait_for_url(f"**/try?user={USER}")
    page.locator(".t-filter summary").click()
    page.get_by_label("Conditions, one a line").fill("year>=")
    shown(page, ".t-failure")
    page.get_by_label("Conditions, one a line").fill("")
    page.locator(".t-result summary").first.click()
    shown(page, ".t-result details ul li")
    page.get_by_text("Compare with a second setting").click()
    shown(page, "[data-setting='2'] .t-results")
    other = visit(page.url)
    shown(other, "[data-setting='2'] .t-results")


def test_try_by_the_keyboard_alone(console: str, visit: Visit) -> None:
    page = visit(f"{console}/try")
    shown(page, ".t-note", "Name a person")

    def tab_to(matches: str) -> None:
        for _ in range(60):
            if page.evaluate(f"document.activeElement && document.activeElement.matches({matches!r})"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{matches} is not reached")

    tab_to("input[type=text], input:not([type])")
    page.keyboard.type(USER)
    shown(page, ".t-results > li")
    tab_to(".q-slider[aria-label='How many'] > div")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelectorAll('.t-results > li').length === 9")
    tab_to(".t-filter summary")
    page.keyboard.press("Enter")
    tab_to(".t-boxes .q-checkbox")
    page.keyboard.press("Space")
    page.wait_for_url("**kinds=**")
    tab_to("input[type=number]")
    page.keyboard.type("2015")
    page.wait_for_url("**where=year%3E%3D2015**")
    tab_to("textarea")
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.wait_for_function("!location.search.includes('where=')")
    shown(page, ".t-results > li")
    tab_to(".t-result summary")
    page.keyboard.press("Enter")
    shown(page, ".t-result details ul li")


def test_controls_and_lines_of_a_filter_say_the_same(console: str, visit: Visit) -> None:
    page = visit(f"{console}/try?user={USER}&kinds=video&where=topic%3Dchess%0Ayear%3E%3D2014")
    shown(page, ".t-results > li")
    box = page.locator(".t-boxes").filter(has_text="topic").locator(".q-checkbox").filter(has_text="chess")
    assert box.get_attribute("aria-checked") == "true"
    assert page.get_by_label("year from").input_value() == "2014"
    box.click()
    page.wait_for_function("!location.search.includes('chess')")
    lines = page.get_by_label("Conditions, one a line")
    assert lines.input_value() == "year>=2014"
    page.get_by_label("year to").fill("2020")
    page.wait_for_url("**year%3C%3D2020**")
    assert lines.input_value() == "year>=2014\nyear<=2020"
    page.locator(".t-boxes").first.locator(".q-checkbox").filter(has_text="video").click()
    page.wait_for_function("!location.search.includes('kinds')")


def test_the_map_shows_items_and_a_person_and_opens_an_item(console: str, visit: Visit) -> None:
    page = visit(f"{console}/map?user={USER}&colour=topic")
    shown(page, ".t-map[data-points='150']")
    shown(page, ".t-map-status", "150 items. The axes hold")
    shown(page, ".t-note", "of the vector lies in this plane")
    assert page.locator(".t-map-legend label").count() >= 2
    box = page.locator(".t-map canvas").bounding_box()
    x, y = page.evaluate("""() => {
        const map = document.querySelector('.t-map').mapView, { points } = map.state();
        return map.onScreen(points.places[0], points.places[1]);
    }""")
    page.mouse.move(box["x"] + x, box["y"] + y)
    shown(page, ".t-tip", "·")
    page.wait_for_function("document.querySelector('.t-tip').textContent.split('·').length === 3")  # a title
    page.locator(".t-map canvas").focus()
    before = page.evaluate("document.querySelector('.t-map').mapView.state().view.scale")
    page.keyboard.press("+")
    assert page.evaluate("document.querySelector('.t-map').mapView.state().view.scale") > before
    page.keyboard.press("0")
    page.mouse.move(5, 5)
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.wait_for_url("**/items?item=**")


def test_a_map_without_such_an_attribute_or_person_says_so(console: str, visit: Visit) -> None:
    shown(visit(f"{console}/map?colour=nothing"), ".t-failure", "no item has such an attribute")
    page = visit(f"{console}/map?user=nobody")
    shown(page, ".t-note", "Nothing is known of nobody")
    shown(page, ".t-map[data-points='150']")


def test_the_overview_tells_the_last_hour(console: str, visit: Visit, live: Client) -> None:
    for _ in range(30):
        live.query(user_id=USER)
    page = visit(console)
    shown(page, "h2", "The last hour")
    shown(page, ".t-minutes figcaption", "Calls a minute")
    page.wait_for_function("document.querySelector('main').textContent.includes('Retrieval/Query')")
    shown(page, "h2", "Processes")


def test_long_lists_of_a_person_have_pages(console: str, visit: Visit, live: Client) -> None:
    with ApiClient(live.address) as client:
        client.append_texts([Text("writer", f"text number {n}") for n in range(120)])
    page = visit(f"{console}/people?user=writer")
    shown(page, "summary", "texts: 120").click()
    page.get_by_role("link", name="Next page").click()
    shown(page, ".t-note", "Rows 51 to 100")
    page.get_by_role("link", name="Next page").click()
    shown(page, ".t-note", "Rows 101 to 120")
    assert page.get_by_role("link", name="Next page").count() == 0
    page.get_by_role("link", name="Previous page").click()
    shown(page, ".t-note", "Rows 51 to 100")


def test_two_indexes_answer_side_by_side(
    small_home: Home, tmp_path: Path, open_console: OpenConsole, visit: Visit, run: Run
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as live, open_console(live.address) as url:
        first = live.query(user_id=USER).index_id
        code, _, err = run("reindex", "--home", str(home.path), "--full")
        assert code == 0, err
        page = visit(f"{url}/try?user={USER}&compare=1&b.index={first}")
        shown(page, "[data-setting='2'] .t-results")
        shown(page, "[data-setting='2'] .t-note", f"Index {first}.")
        assert first not in page.locator("[data-setting='1'] .t-note").first.inner_text()


def test_an_anonymous_person_an_item_and_a_text(console: str, visit: Visit) -> None:
    page = visit(f"{console}/try?who=text&text=stars+and+telescopes")
    shown(page, ".t-results > li")
    item_id = page.locator(".t-name").first.get_attribute("href").partition("item=")[2]
    page.get_by_text("Anonymous person").click()
    page.get_by_label("Items of the history").fill(item_id)
    shown(page, ".t-note", "Views used: history")
    page.get_by_text("Item", exact=True).click()
    page.get_by_label("Item, by id").fill("nowhere")
    shown(page, ".t-failure", "no such item")


def test_a_language_is_remembered(console: str, visit: Visit) -> None:
    page = visit(f"{console}/try")
    page.get_by_role("button", name="中文").click()
    shown(page, "h1", "试一次查询")
    page.goto(f"{console}/items")
    shown(page, "h1", "物品")
    page.get_by_role("button", name="English").click()
    shown(page, "h1", "Items")


def test_an_item_is_put_found_and_deleted(console: str, visit: Visit) -> None:
    page = visit(f"{console}/items?new=1")
    page.get_by_label("Id", exact=True).fill("new <item>")
    page.get_by_label("Title", exact=True).fill("Blue in <b>Green</b>")
    page.get_by_role("button", name="Put").click()
    page.wait_for_url("**/items?item=**")
    shown(page, "h2", "Blue in <b>Green</b>")
    page.goto(f"{console}/items?contains=in+%3Cb%3Egreen")
    page.get_by_role("link", name="new <item>").click()
    page.get_by_role("button", name="Delete").click()
    shown(page, ".q-dialog .t-goes", "Blue in <b>Green</b>")
    page.get_by_role("button", name="Yes, do it").click()
    page.wait_for_url("**/items")


def test_a_person_is_shown_and_erased_after_a_question_that_names_what_goes(
    console: str, visit: Visit, live: Client
) -> None:
    page = visit(f"{console}/people?user=u00005")
    shown(page, "h2", "People like them")
    page.get_by_role("button", name="Erase this person").click()
    shown(page, ".q-dialog .t-goes li", ": ")
    page.get_by_role("button", name="Yes, do it").click()
    shown(page, ".q-notification", "Erased")
    page.goto(f"{console}/people?user=u00005")
    shown(page, ".t-note", "Nothing is stored of u00005")


def test_without_write_nothing_is_offered(live: Client, open_console: OpenConsole, visit: Visit) -> None:
    with open_console(live.address) as url:
        for path in (f"/people?user={USER}", "/items", "/items?new=1"):
            page = visit(url + path)
            shown(page, ".t-badge", "read-only")
            shown(page, "main h1")
            page.wait_for_load_state("networkidle")
            assert page.get_by_role("button", name="Erase this person").count() == 0
            assert page.get_by_role("button", name="Put").count() == 0
            assert page.locator("main .q-toggle").count() == 0


def test_a_token_that_may_only_ask_is_offered_no_more_and_refused_the_rest(
    small_home: Home, tmp_path: Path, open_console: OpenConsole, visit: Visit
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    now = datetime.now(UTC)
    tokens = TokenFile(home.path / "tokens.json")
    _, asks = tokens.create(("query",), now)
    _, expired = tokens.create(("query",), now, expires=(now - timedelta(days=1)).isoformat())
    with server(home) as live:
        with open_console(live.address, "--write", token=asks) as url:
            shown(visit(f"{url}/"), ".t-note", "tokens with the scope admin")
            shown(visit(f"{url}/try?user={USER}"), ".t-results > li")
            page = visit(f"{url}/people?user={USER}")
            shown(page, "h2", "People like them")
            assert page.get_by_text("What is stored").count() == 0
            assert page.get_by_role("button", name="Erase this person").count() == 0
            page = visit(f"{url}/items?new=1")
            shown(page, ".t-table")
            assert page.get_by_role("button", name="Put").count() == 0
        with ApiClient(live.address, token=asks) as client:
            for call in (
                lambda: client.put_items([Item("x")]),
                lambda: client.delete_items(["x"]),
                lambda: client.set_consent([Consent(USER, "H", use=False)]),
                lambda: client.erase_user(USER),
                lambda: client.export_user(USER),
                client.status,
                client.list_indexes,
                client.rollback_index,
                lambda: client.publish_index("x"),
            ):
                with pytest.raises(CallError) as refused:
                    call()
                assert refused.value.reason == "SCOPE_MISSING"
        with open_console(live.address, token=expired) as url:
            shown(visit(f"{url}/try?user={USER}"), ".t-failure", "The token has expired")
        with open_console(live.address) as url:
            shown(visit(f"{url}/try?user={USER}"), ".t-failure", "The server wants a token")


def test_a_home_where_nothing_is_published(
    small_home: Home, tmp_path: Path, open_console: OpenConsole, visit: Visit
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    home.current_index.unlink()
    with server(home) as live, open_console(live.address) as url:
        shown(visit(f"{url}/"), ".t-note", "Nothing is published yet")
        shown(visit(f"{url}/try?user={USER}"), ".t-failure", "Nothing is published yet")


def test_a_server_that_is_gone(open_console: OpenConsole, visit: Visit) -> None:
    with open_console("127.0.0.1:1") as url:
        shown(visit(f"{url}/try"), ".t-failure", "No server answers at 127.0.0.1:1")
