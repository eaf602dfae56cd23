"""The site builds without a broken link, and needs no other server."""

import html.parser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: mkdocs ends with 1 where anything is to be warned of."""
    folder = tmp_path_factory.mktemp("site")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


class _Fetched(html.parser.HTMLParser):
    """Collects what a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        place = dict(attrs).get(FETCHED.get(tag, ""))
        if place and dict(attrs).get("rel") not in ("canonical", "next", "prev"):
            self.places.append(place)


def test_nothing_is_fetched_from_another_server(site: Path) -> None:
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")  # served from anywhere
    assert len(pages) > 60
    for page in pages:
        parser = _Fetched()
        parser.feed(page.read_text("utf-8"))
        assert [one for one in parser.places if re.match(r"(https?:)?//", one)] == [], page
        assert all(
            (page.parent / one.partition("?")[0].partition("#")[0]).exists()
            for one in parser.places
            if not one.startswith(("data:", "#"))
        ), page


def test_formulas_are_drawn_by_the_browser_itself(site: Path) -> None:
    concepts = (site / "concepts.html").read_text("utf-8")
    assert concepts.count("<math") > 20
    assert "arithmatex" not in concepts


def test_documents_outside_of_docs_and_decisions_are_pages(site: Path) -> None:
    for name in ("zh", "contributing", "deploy", "notebooks/first-steps", "decisions/index"):
        assert (site / f"{name}.html").exists(), name
    listed = (site / "decisions" / "index.html").read_text("utf-8")
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert f'href="{path.stem}.html"' in listed


def test_a_document_that_is_named_is_a_link(site: Path) -> None:
    concepts = (site / "concepts.html").read_text("utf-8")
    assert '<a href="decisions/0034-how-much-to-trust-each-view.html">docs/decisions/0034' in concepts
