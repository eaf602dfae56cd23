"""What the site has besides the pages of docs/: hooks of mkdocs, named in mkdocs.yml.

Pages are added for the documents that lie elsewhere (CONTRIBUTING.md, README.zh.md, those of folders), for
the notebook, and for the list of decisions. A document that a page names becomes a link; formulas become
MathML, so that no page needs a script from another server.
"""

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts.documents.notebook import markdown_of, read

ROOT = Path(__file__).resolve().parents[2]
_ELSEWHERE = {
    "contributing.md": Path("CONTRIBUTING.md"),
    "zh.md": Path("README.zh.md"),
    "deploy.md": Path("deploy/README.md"),
    "what-runs-where.md": Path("deploy/kubernetes/machines/map.md"),
    "client.md": Path("clients/python/README.md"),
}
_MOVED = {
    "../../": "",
    "docs/": "",
    "README.zh.md": "zh.md",
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "deploy/README.md": "deploy.md",
    "kubernetes/machines/map.md": "what-runs-where.md",
    "deploy/kubernetes/machines/map.md": "what-runs-where.md",
}
_NAMED = re.compile(r"(?<![\w/\[`])(?<!\]\()(`?)docs/((?:decisions/)?\d{4}[\w-]*|[\w/-]+)(\.md)?\1(?![\w/`])")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_CODE = re.compile(r"(^```.*?^```$|^ {4}[^\n]*$)", re.MULTILINE | re.DOTALL)
_DECISIONS = "Decisions"  # the part of the navigation that is filled in here
_TITLE = re.compile(r"^# (\d+) · (.+)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every decision in the navigation."""
    entries = [{f"{number} {title}": f"decisions/{path.name}"} for number, title, path in decisions()]
    inner = [part for outer in config.nav or [] for parts in outer.values() for part in parts]
    for part in inner:
        if isinstance(part, dict) and _DECISIONS in part:
            part[_DECISIONS].extend(entries)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files below docs/."""
    for name, source in _ELSEWHERE.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, name, content=_relinked(text)))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, page, content=markdown_of(read(path))))
    files.append(File.generated(config, "decisions/index.md", content=_list_of_decisions()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn the name of a document, such as docs/results.md or docs/decisions/0034, into a link to it."""

    def link(found: re.Match[str]) -> str:
        matches = sorted((ROOT / "docs").glob(f"{found[2]}*.md"))
        if not matches or (len(matches) > 1 and not found[2][-1].isdigit()):
            return found[0]
        target = matches[0].relative_to(ROOT / "docs").as_posix()
        place = posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")
        return f"[{found[0].strip('`')}]({place})"

    parts = _CODE.split(markdown)  # code at odd places
    return "".join(part if n % 2 else _NAMED.sub(link, part) for n, part in enumerate(parts))


def on_page_content(html: str, **_: Any) -> str:
    """Turn the formulas of a page into MathML, which browsers draw themselves."""
    return _FORMULA.sub(_mathml, html)


def decisions() -> list[tuple[str, str, Path]]:
    """Return number, title and file of every decision, in order."""
    found = []
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        title = _TITLE.search(path.read_text("utf-8"))
        found.append((title[1], title[2], path) if title else (path.stem[:4], path.stem[5:], path))
    return found


def _list_of_decisions() -> str:
    lines = [f"- [{number} · {title}]({path.name})" for number, title, path in decisions()]
    introduction = "Why things are as they are: context, choice, consequence, and what was not kept."
    return "\n".join(["# Decisions", "", introduction, "", *lines, ""])


def _relinked(text: str) -> str:
    """Return a document of the repository's root with its links as they are from docs/."""
    for old, new in _MOVED.items():
        text = text.replace(f"]({old}", f"]({new}")
    return text


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found[2] == "[" else "inline"
    return convert(html.unescape(found[3]).strip(), display=display)
