"""The page Models: figures of models side by side, with what differs between them."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from encoder.model_files import METRICS_FILE
from store.artifact import MANIFEST, artifacts, build, new_id, read_manifest
from store.home import Home
from tests.console.conftest import OpenConsole
from tests.console.test_pages import FITS, both_ways, shown
from tests.live_server import copy_home, server

Visit = Callable[..., Any]


def another_model(home: Home, change: Callable[[dict[str, Any]], None]) -> str:
    """Make a copy of the first model of which training would have measured something else."""
    first = home.models / artifacts(home.models)[0]
    with build(home.models, new_id()) as draft:
        shutil.copytree(first, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        metrics = json.loads((first / METRICS_FILE).read_text("utf-8"))
        change(metrics)
        (draft.path / METRICS_FILE).unlink()
        (draft.path / METRICS_FILE).write_text(json.dumps(metrics), "utf-8")
        draft.facts = {name: one for name, one in read_manifest(first).items() if name != "files"}
    return artifacts(home.models)[-1]


def better(metrics: dict[str, Any]) -> None:
    metrics["held_out"]["by_view"]["HTS"] |= {"recall": 0.875, "recall_ci95": [0.75, 0.9375]}
    metrics["trust"]["scale"] = 2.5


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with three models: one that serves, a better one, and one of an earlier version."""
    home = copy_home(small_home, tmp_path_factory.mktemp("models") / "home")
    another_model(home, better)
    another_model(home, lambda metrics: metrics.pop("held_out"))
    return home


@pytest.fixture(scope="module")
def pages(home: Home, open_console: OpenConsole) -> Iterator[str]:
    with server(home) as live, open_console(live.address) as url:
        yield url


@both_ways
def test_ticked_models_come_side_by_side_and_what_differs_is_marked(
    home: Home, pages: str, visit: Visit, language: str, width: int, then: int
) -> None:
    serves, newer, _ = artifacts(home.models)
    page = visit(f"{pages}/models", width=width, language=language)
    shown(page, "h1", "模型" if language == "zh-CN" else "Models")
    page.get_by_label(serves).check()
    page.get_by_label(newer).check()
    page.get_by_role(
        "button", name="比较勾选的模型" if language == "zh-CN" else "Compare the ticked ones"
    ).click()
    page.wait_for_url(f"**/models?model={newer}&model={serves}")
    shown(page, "#held-out .c-svg")
    assert page.locator("#held-out .c-key").all_inner_texts() == ["A", "B"]
    assert page.locator("#held-out .c-ours").count() == 1
    assert page.locator("#held-out tbody tr").last.locator("td").first.inner_text() == "0.875"
    differing = page.locator(".t-differs th").all_inner_texts()
    assert [one for one in differing if one.startswith("trust scale of H")]
    assert not [one for one in differing if one.startswith("gates")]
    assert page.evaluate(FITS)
    page.set_viewport_size({"width": then, "height": 900})
    page.wait_for_function(FITS)
    other = visit(page.url)  # its address says all of it
    shown(other, "#held-out .c-svg")
    assert other.locator(".t-choose input:checked").count() == 2


def test_one_model_alone_and_one_without_figures(home: Home, pages: str, visit: Visit) -> None:
    _, newer, bare = artifacts(home.models)
    page = visit(f"{pages}/models")
    page.get_by_role("link", name=newer).click()
    page.wait_for_url(f"**/models?model={newer}")
    shown(page, "#held-out .c-svg")
    assert page.locator(".t-differs").count() == 0
    page.goto(f"{pages}/models?model={bare}")
    shown(page, ".t-note", f"Training kept no figures of {bare}")
    assert page.locator("#held-out").count() == 0
    page.goto(f"{pages}/models?model={bare}&model={newer}")
    shown(page, ".t-note", f"Training kept no figures of {bare}")
    shown(page, "#held-out .c-svg")


def test_an_address_may_name_what_is_not_there_or_too_many(home: Home, pages: str, visit: Visit) -> None:
    page = visit(f"{pages}/models?model=%3Cb%3Enone%3C%2Fb%3E")
    shown(page, ".t-note", "There is no such model: <b>none</b>.")
    assert page.locator("#held-out").count() == 0


def test_without_a_model_it_says_which_command_makes_one(
    small_home: Home, tmp_path: Path, open_console: OpenConsole, visit: Visit
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    home.current_index.unlink()
    shutil.rmtree(home.models)
    with server(home) as live, open_console(live.address) as url:
        shown(visit(f"{url}/models"), ".t-note", "Run triptych train")
