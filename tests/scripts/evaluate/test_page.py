"""The report as one HTML file: a chart for each block that is there, and nothing from elsewhere."""

import re
from typing import Any

from scripts.evaluate.page import charts, page_html

FIGURES = {"recall": 0.5, "recall_ci95": [0.4, 0.6], "ndcg": 0.3, "ndcg_ci95": [0.2, 0.4]}
NOBODY = {"recall": None, "recall_ci95": [None, None], "ndcg": None, "ndcg_ci95": [None, None]}


def report_with(**blocks: Any) -> dict[str, Any]:
    columns = {column: {"20": FIGURES} for column in ("H", "TS", "HTS")}
    return {
        "dataset": "<b>mine</b>",
        "split": "test",
        "model_id": "m",
        "index_id": "i",
        "users": 3,
        "views": "HTS",
        "k": {"20": FIGURES},
        "by_view": {"H": {"20": FIGURES}, "T": None, "HTS": {"20": FIGURES}},
        "cold_users": {"20": NOBODY},
        "cut": {"users": 3},
        "by_history": {"0": columns, "all": columns},
        "by_texts": None,
        "by_friends": None,
        "unseen_users": None,
        "new_items": None,
        "baselines": {"EASE": {"20": FIGURES}, "iALS": {"left_out": "not installed"}},
    } | blocks


def headings(report: dict[str, Any]) -> list[str]:
    return [heading for heading, _ in charts(report)]


def test_there_is_a_chart_for_each_block_that_is_there() -> None:
    always = ["Recall, beside others", "By view", "By history length, texts and friends"]
    assert headings(report_with()) == always
    heads = {"click": {"quantity": "probability", "calibration": [{"mean": 0.1, "rate": 0.2}]}}
    unchanged = {**FIGURES}
    changed = {"H": {"removed": {"50": FIGURES}, "noise": {"50": FIGURES}}}
    more = report_with(
        heads=heads,
        robustness={"unchanged": unchanged, "by_view": changed},
        new_items={"by_content": {"text": {"20": FIGURES}}, "chance": {"20": {"recall": 0.1}}},
    )
    assert headings(more) == [*always, "New items", "Robustness", "Calibration"]


def test_the_page_names_nothing_that_is_not_in_it_and_escapes_what_it_shows() -> None:
    page = page_html(report_with(), "<pre>tables</pre>")
    assert re.findall(r"""(?:src|href)=["'](?!#)[^"']*""", page) == []
    assert "url(http" not in page
    assert "@import" not in page
    assert "<b>mine</b>" not in page
    assert "EASE" in page
    assert page.count("<svg") == 3
