"""The cookbook, the quick start and what code other documents have run as they stand, on a smaller world."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.documents.pages import PageRun, blocks
from store.home import Home
from tests.live_server import copy_home

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in (ROOT / "docs" / "cookbook").glob("*.md") if path.stem != "index")
OTHERS = [
    ROOT / name
    for name in (
        "README.md",
        "README.zh.md",
        "clients/python/README.md",
        "docs/queries.md",
        "docs/writing.md",
    )
]
SERVE = "```sh\ntriptych serve --home demo-home &\n```\n"


@pytest.fixture(scope="module")
def served(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageRun]:
    """A folder with a demo's home and the server of it, as the cookbook's first page has it."""
    folder = tmp_path_factory.mktemp("cookbook")
    copy_home(small_home, folder / "demo-home")
    with PageRun(folder) as run:
        run.run(SERVE)
        yield run


@pytest.mark.parametrize("path", [*PAGES, *OTHERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_runs_as_it_stands(path: Path, served: PageRun) -> None:
    with PageRun(served.folder, dict(served.ports)) as run:
        printed = run.run(path.read_text("utf-8"))
    assert any(said for _, said in printed)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_shows_what_was_printed(path: Path) -> None:
    shown = [block.code for block in blocks(path.read_text("utf-8")) if block.language == "text"]
    assert shown
    assert all(code.strip() for code in shown), "run python -m scripts.documents outputs --home demo-home"


def test_the_first_page_names_every_other_one() -> None:
    named = re.findall(r"\]\(([\w-]+)\.md\)", (ROOT / "docs" / "cookbook" / "index.md").read_text("utf-8"))
    assert sorted(named) == sorted(path.stem for path in PAGES)
    assert len(PAGES) >= 7


def test_the_quick_start_runs_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "quick-start.md").read_text("utf-8")
    with PageRun(tmp_path) as run:
        printed = run.run(page)
    asked = [said for block, said in printed if "triptych query" in block.code]
    assert "views used: history, text" in asked[0]  # alice
    assert "views used: text" in asked[0]  # frank
    assert "views used: social" in asked[0]  # grace
