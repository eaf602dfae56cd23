"""Every sentence has a Chinese one, with the same places; the browser's language is followed."""

import ast
import re
from pathlib import Path

import pytest

from console.chinese import CHINESE
from console.words import Words, language_of
from server.telemetry.alerts import RULES

ROOT = Path(__file__).parents[2]


def sentences() -> set[str]:
    """What the pages say: the first argument of each call of `say`, where it is written there."""
    return {
        node.args[0].value
        for folder in ("console", "charts")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", getattr(node.func, "attr", "")) == "say"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def test_every_sentence_has_a_chinese_one() -> None:
    assert len(sentences()) > 80
    assert sorted(sentences() - set(CHINESE)) == []


def test_the_places_of_both_are_the_same() -> None:
    places = re.compile(r"\{(\w+)\}")
    assert [e for e, c in CHINESE.items() if sorted(places.findall(e)) != sorted(places.findall(c))] == []


def test_what_the_server_says_of_alerts_has_a_chinese_form() -> None:
    said = {rule.name for rule in RULES} | {rule.advice for rule in RULES}
    assert sorted(said - set(CHINESE)) == []


@pytest.mark.parametrize(
    ("cookie", "accepted", "language"),
    [
        (None, "", "en"),
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, "fr-FR, zh;q=0.5", "zh"),
        (None, "fr", "en"),
        ("en", "zh-CN", "en"),
        ("zh", "en", "zh"),
        ("xx'); alert(1)", "zh", "zh"),
    ],
)
def test_the_language_is_the_chosen_one_or_the_browsers(
    cookie: str | None, accepted: str, language: str
) -> None:
    assert language_of(cookie, accepted) == language


def test_a_sentence_without_a_translation_stays_english() -> None:
    assert Words("zh")("no such sentence {x}", x=1) == "no such sentence 1"
    assert Words("zh")("People") == "用户"
    assert Words("en")("People") == "People"
