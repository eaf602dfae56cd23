"""Publishing an index and rolling back by clicks: a question says what changes, and no changes nothing."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from encoder.model_files import list_models
from store.artifact import MANIFEST, artifacts, build, new_id, read_manifest
from store.home import Home
from tests.console.conftest import OpenConsole
from tests.console.test_models_page import another_model, better
from tests.console.test_pages import shown
from tests.live_server import Client, copy_home, server, soon
from triptych_client import Client as ApiClient

Visit = Callable[..., Any]


def copy_of_index(home: Home, index_id: str, **facts: object) -> str:
    """Make a newer index of the same files, whose manifest says something else."""
    folder = home.indexes / index_id
    with build(home.indexes, new_id()) as draft:
        shutil.copytree(folder, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        kept = {name: one for name, one in read_manifest(folder).items() if name != "files"}
        draft.facts = kept | facts
    return artifacts(home.indexes)[-1]


def with_a_newer_index(small_home: Home, folder: Path) -> Home:
    home = copy_home(small_home, folder / "home")
    (first,) = artifacts(home.indexes)
    copy_of_index(home, first)
    return home


@pytest.fixture
def home(small_home: Home, tmp_path: Path) -> Home:
    """A home with a newer index than the one that serves."""
    return with_a_newer_index(small_home, tmp_path)


@pytest.fixture(scope="module")
def served(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server of such a home; whoever publishes the newer index rolls back."""
    with server(with_a_newer_index(small_home, tmp_path_factory.mktemp("published"))) as live:
        yield live


@pytest.fixture(scope="module")
def writing(served: Client, open_console: OpenConsole) -> Iterator[str]:
    """A console for it that offers changes."""
    with open_console(served.address, "--write") as url:
        yield url


@pytest.mark.parametrize("language", ["en", "zh-CN"])
@pytest.mark.parametrize("width", [1280, 390])
def test_an_index_is_published_and_rolled_back_after_a_question(
    served: Client, writing: str, visit: Visit, language: str, width: int
) -> None:
    home = served.home
    old, new = artifacts(home.indexes)
    (model,) = artifacts(home.models)
    words = {"Publish": "发布", "Roll back": "退回", "Yes, do it": "确定执行", "Leave it": "取消"}
    words |= {"Publish this index?": "发布此索引？", "Go back to the index before?": "退回到之前的索引？"}
    words |= {"Index": "索引", "Model": "模型", "Items": "物品", "yes": "是"}

    def say(english: str) -> str:
        return words[english] if language == "zh-CN" else english

    def click(english: str) -> None:
        page.get_by_role("button", name=say(english), exact=True).click()

    def asks(question: str, before: str, after: str) -> None:
        shown(page, ".q-dialog p", say(question))
        assert page.locator(".q-dialog .t-goes li").all_inner_texts() == [
            f"{say('Index')}: {before} → {after}",
            f"{say('Model')}: {model} → {model}",
            f"{say('Items')}: 150 → 150",
        ]

    with ApiClient(served.address) as api:
        page = visit(f"{writing}/indexes", language=language, width=width)
        shown(page, "tr", new)
        assert page.get_by_role("button", name=say("Roll back")).count() == 0  # nothing older than the first
        click("Publish")
        asks("Publish this index?", old, new)
        click("Leave it")
        page.locator(".q-dialog").wait_for(state="detached")
        assert api.status().index_id == old
        click("Publish")
        asks("Publish this index?", old, new)
        click("Yes, do it")
        soon(lambda: api.status().index_id == new)
        serves = page.locator("tbody tr").filter(has_text=new).filter(has_text=say("yes"))
        serves.wait_for()
        assert home.current_index.read_text().strip() == new
        click("Roll back")
        asks("Go back to the index before?", new, old)
        click("Yes, do it")
        soon(lambda: api.status().index_id == old)
        page.locator("tbody tr").filter(has_text=old).filter(has_text=say("yes")).wait_for()


def test_the_question_names_the_figures_of_models_that_differ(
    home: Home, open_console: OpenConsole, visit: Visit
) -> None:
    old, _ = artifacts(home.indexes)
    (serves,) = artifacts(home.models)
    model = another_model(home, better)
    new = copy_of_index(home, old, model_id=model)
    with server(home) as live, open_console(live.address, "--write") as url:
        page = visit(f"{url}/indexes")
        shown(page, "tr", new)
        page.get_by_role("button", name="Publish", exact=True).click()
        goes = shown(page, ".q-dialog .t-goes").locator("li").all_inner_texts()
        kept = list_models(home, 9)[-1].metrics["held_out"]["by_view"]["HTS"]
        low, high = kept["recall_ci95"]
        before = f"{kept['recall']:.3f} ({low:.3f}–{high:.3f})"
        text_model = list_models(home, 9)[-1].artifact.facts["text_model_id"]
        assert goes == [
            f"Index: {old} → {new}",
            f"Model: {serves} → {model}",
            "Items: 150 → 150",
            f"recall@20 when trained: {before} → 0.875 (0.750–0.938)",
            f"Language model: {text_model} → {text_model}",
        ]
        page.get_by_role("button", name="Leave it").click()


def test_an_index_that_cannot_be_published_says_why_and_the_one_before_serves_on(
    home: Home, open_console: OpenConsole, visit: Visit
) -> None:
    old, new = artifacts(home.indexes)
    with server(home) as live, open_console(live.address, "--write") as url, ApiClient(live.address) as api:
        page = visit(f"{url}/indexes")
        shown(page, "tr", new)
        (home.indexes / new / "vectors.safetensors").unlink()
        page.get_by_role("button", name="Publish", exact=True).click()
        page.get_by_role("button", name="Yes, do it").click()
        shown(page, ".q-notification", "is missing")
        assert api.status().index_id == old


def test_without_write_no_index_can_be_published(
    served: Client, open_console: OpenConsole, visit: Visit
) -> None:
    with open_console(served.address) as url:
        page = visit(f"{url}/indexes")
        shown(page, "tr", artifacts(served.home.indexes)[-1])
        page.wait_for_load_state("networkidle")
        assert page.get_by_role("button", name="Publish").count() == 0
        assert page.get_by_role("button", name="Roll back").count() == 0
