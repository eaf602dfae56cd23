"""What the documents tell people to type exists, and what they do day by day works."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from scripts.cli import app
from store.home import Home
from tests.command_line import Run
from tests.live_server import copy_home

ROOT = Path(__file__).parents[1]
AT_THE_TOP = ("README.md", "README.zh.md", "CONTRIBUTING.md", "deploy/README.md", "clients/python/README.md")
PAGES = [path for folder in (".", "cookbook") for path in sorted((ROOT / "docs" / folder).glob("*.md"))]
DOCUMENTS = [*(ROOT / name for name in AT_THE_TOP), *PAGES]
COMMAND = re.compile(r"^(?:    )?(triptych .+?)(?:\s+#.*| &)?$|`(triptych [^`…|]+)`", re.MULTILINE)
MAKE = re.compile(r"(?:^    |`)make (?!demo)([a-z-]+)", re.MULTILINE)
MESSAGES = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


def commands(document: Path) -> list[str]:
    found = (block or inline for block, inline in COMMAND.findall(document.read_text("utf-8")))
    return [line.split(" | ")[0].split(" > ")[0] for line in found]


EVERY = [(file.relative_to(ROOT), line) for file in DOCUMENTS for line in commands(file)]


def parse(words: list[str]) -> None:
    """Parse a command line without running it; values may be of the reader's own.

    Raises:
        Exception: there is no such command or option.
    """
    command, name = typer.main.get_command(app), "triptych"
    while (inside := getattr(command, "commands", None)) and words and not words[0].startswith("-"):
        assert words[0] in inside, f"there is no command {words[0]}"
        command, name, words = inside[words[0]], words[0], words[1:]
    try:
        command.make_context(name, list(words))
    except Exception as error:  # typer has a click of its own, whose classes are private
        if type(error).__name__ not in ("MissingParameter", "BadParameter", "Exit"):
            raise


@pytest.mark.parametrize(("document", "line"), EVERY, ids=[f"{file}: {line[:60]}" for file, line in EVERY])
def test_commands_and_options_of_the_documents_exist(document: Path, line: str) -> None:
    parse(shlex.split(line)[1:])


def test_the_documents_hold_commands_and_a_wrong_one_would_be_found() -> None:
    assert len(EVERY) > 60
    parse(["serve", "--port", "1"])
    for wrong in (["serve", "--prot", "1"], ["index", "lst"], ["import", "D", "--hmoe", "H"]):
        with pytest.raises(Exception, match=r"(?i)no such option|no command"):
            parse(wrong)


def test_words_of_make_in_the_documents_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {word for file in DOCUMENTS for word in MAKE.findall(file.read_text("utf-8"))}
    assert {"test", "check", "docs", "nightly"} <= named <= targets


def test_both_languages_of_the_readme_say_the_same() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh.md"))
    for part in (
        r"^    .+?(?:  +.*)?$",
        r"^```python\n.*?^```$",
        r"`triptych [^`]+`",
        r"`--[^`]+`",
        r"\]\(([^)]+)\)",
    ):
        flags = re.MULTILINE | (re.DOTALL if "python" in part else 0)
        ours, theirs = (re.findall(part, text, flags) for text in (english, chinese))
        assert len(ours) == len(theirs), part
    assert english.count("\n## ") == chinese.count("\n## ")
    assert len(english.splitlines()) <= 250
    first = "\n".join(english.splitlines()[:30])
    assert "make demo" in first
    assert "make test" in first
    assert "**query** (`server/query/retriever.py`)" in first


def test_messages_that_are_explained_are_messages_of_the_code() -> None:
    source = "".join(
        path.read_text("utf-8")
        for folder in ("server", "indexer", "encoder", "store", "scripts")
        for path in sorted((ROOT / folder).rglob("*.py"))
    )
    texts = re.sub(r'"\s*\n\s*f?"', "", source)  # strings that are written in several parts
    explained = MESSAGES.findall((ROOT / "docs" / "operations.md").read_text("utf-8"))
    assert len(explained) > 10
    for message in explained:
        for part in message.split(" … "):
            assert part.strip() in texts, message


def test_the_daily_commands_of_the_guides_work_in_order(small_home: Home, tmp_path: Path, run: Run) -> None:
    home = copy_home(small_home, tmp_path / "home")
    backups, restored = tmp_path / "backups", tmp_path / "restored"
    for line in (
        "triptych doctor --home H",
        "triptych token create --home H --scope query,ingest --expires 90d",
        "triptych token list --home H",
        "triptych export --home H",
        "triptych index list --home H",
        "triptych backup --home H --to BACKUPS",
        "triptych restore --from BACKUPS --home RESTORED",
        "triptych doctor --home RESTORED",
        "triptych reindex --home H --full",
        "triptych index rollback --home H",
        "triptych index prune --keep 1 --home H",
    ):
        places = {"H": home.path, "BACKUPS": backups, "RESTORED": restored}
        words = [places.get(word, word) for word in shlex.split(line)[1:]]
        code, _, err = run(*words)
        assert (code, err.count("Traceback")) == (0, 0), (line, err)
