"""Evaluation reports of a home: whole or not there, checksummed, the newest kept, in their folder alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from store import reports
from store.artifact import DamagedArtifactError, artifacts, verify
from store.home import Home
from store.listing import list_artifacts
from store.reports import ReportNotFoundError, ReportTooLargeError, keep_report, read_report
from tests.charts.reports import report_with


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def kept(home: Home, **blocks: Any) -> str:
    return keep_report(home, report_with(**blocks), "<p>page</p>").name


def test_a_report_is_an_artifact_whose_manifest_tells_its_main_figures(home: Home) -> None:
    report_id = kept(home, robustness={"unchanged": {}})
    facts = verify(home.reports / report_id)
    assert facts["kind"] == "report"
    assert (facts["dataset"], facts["split"], facts["users"], facts["views"]) == (
        "<b>mine</b>",
        "test",
        3,
        "HTS",
    )
    assert (facts["recall@20"], facts["recall@20_ci95"], facts["ndcg@20"]) == (0.5, [0.4, 0.6], 0.3)
    assert (facts["baselines"], facts["robustness"]) == (["EASE"], True)
    assert json.loads(read_report(home, report_id)) == report_with(robustness={"unchanged": {}})
    assert (home.reports / report_id / "report.html").read_text() == "<p>page</p>"


def test_what_fails_leaves_nothing(home: Home) -> None:
    with pytest.raises(TypeError):
        kept(home, model_id=object())
    assert artifacts(home.reports) == []
    assert [path.name for path in home.reports.iterdir()] == []


def test_the_newest_are_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST_REPORTS", 3)
    (home.reports / "notes.txt").parent.mkdir(parents=True)
    (home.reports / "notes.txt").write_text("mine")
    made = [kept(home) for _ in range(5)]
    assert artifacts(home.reports) == made[2:]
    assert sorted(path.name for path in home.reports.iterdir()) == [*made[2:], "notes.txt"]


@pytest.mark.parametrize(
    "report_id", ["../models", "..", ".", "", "/etc", "a/b", "\0", "20260101T000000000000-aaaa"]
)
def test_an_id_that_is_none_reads_nothing(home: Home, report_id: str) -> None:
    kept(home)
    (home.path / "models").mkdir()
    with pytest.raises(ReportNotFoundError):
        read_report(home, report_id)


def test_a_home_without_reports_has_none(home: Home) -> None:
    assert list_artifacts(home.reports, 10) == []
    with pytest.raises(ReportNotFoundError):
        read_report(home, "x")


def test_a_damaged_report_is_refused_and_named(home: Home) -> None:
    report_id = kept(home)
    path = home.reports / report_id / "report.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(DamagedArtifactError, match=r"report\.json: is damaged"):
        read_report(home, report_id)
    path.unlink()
    with pytest.raises(DamagedArtifactError, match="is missing"):
        read_report(home, report_id)
    (home.reports / report_id / "manifest.json").write_text("{}")
    with pytest.raises(DamagedArtifactError, match="manifest"):
        read_report(home, report_id)
    assert [one.damaged for one in list_artifacts(home.reports, 10)] == [True]


def test_a_report_that_no_reply_holds_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    report_id = kept(home)
    monkeypatch.setattr(reports, "MOST_BYTES", 100)
    with pytest.raises(
        ReportTooLargeError, match=r"more than the 100 of a reply: read reports/.*report\.json"
    ):
        read_report(home, report_id)
