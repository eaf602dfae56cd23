"""Small reports with every block that `triptych evaluate` may write."""

from typing import Any

FIGURES = {"recall": 0.5, "recall_ci95": [0.4, 0.6], "ndcg": 0.3, "ndcg_ci95": [0.2, 0.4]}
NOBODY = {"recall": None, "recall_ci95": [None, None], "ndcg": None, "ndcg_ci95": [None, None]}
GAIN = {"recall": {"mean": 0.01, "ci95": [-0.01, 0.03]}, "ndcg": {"mean": 0.0, "ci95": [-0.1, 0.1]}}


def recall_of(recall: float) -> dict[str, Any]:
    """Figures with a recall."""
    return FIGURES | {"recall": recall, "recall_ci95": [recall - 0.05, recall + 0.05]}


def report_with(**blocks: Any) -> dict[str, Any]:
    """A report with the blocks that each has, and others in their place."""
    columns = {column: {"20": FIGURES} for column in ("H", "TS", "HTS")}
    return {
        "dataset": "<b>mine</b>",
        "split": "test",
        "model_id": "m",
        "index_id": "i",
        "users": 3,
        "views": "HTS",
        "views_in_data": {"H": True, "T": True, "S": True},
        "k": {"20": FIGURES},
        "by_view": {"H": {"20": FIGURES}, "T": None, "HTS": {"20": FIGURES}},
        "cold_users": {"20": NOBODY},
        "matching_degree": {"H": 0.9, "T": 0.7, "S": None},
        "cut": {"users": 3},
        "by_history": {"0": columns, "all": columns},
        "by_texts": None,
        "by_friends": None,
        "unseen_users": None,
        "new_items": None,
        "baselines": {"EASE": {"20": FIGURES, "gain": GAIN}, "iALS": {"left_out": "not installed"}},
        "seconds": {"load": 1.0, "rank": 2.0},
    } | blocks


def whole_report() -> dict[str, Any]:
    """A report with every block."""
    tenths = [{"mean": 0.1, "rate": 0.2, "count": 9.0}, {"mean": 0.3, "rate": 0.25, "count": 9.0}]
    changed = {"50": recall_of(0.4), "100": recall_of(0.1)}
    return report_with(
        by_texts={"0": {column: {"20": FIGURES} for column in ("T", "HS", "HTS")}},
        by_friends={"all": {column: {"20": FIGURES} for column in ("S", "HT", "HTS")}},
        heads={"click": {"task": "click", "quantity": "probability", "calibration": tenths}},
        robustness={"unchanged": FIGURES, "by_view": {"H": {"removed": changed, "noise": changed}}},
        new_items={
            "items": 5,
            "users": 2,
            "by_content": {"text": {"20": FIGURES}, "text+attributes": {"20": FIGURES, "gain": GAIN}},
            "chance": {"20": {"recall": 0.1}},
        },
        unseen_users={"users": 2, "20": NOBODY},
    )
