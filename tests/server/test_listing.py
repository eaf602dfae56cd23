"""ListIndexes, ListModels, ListReports, GetReport: newest first, and what is damaged hides no other."""

import json
import shutil
from pathlib import Path

import grpc
import pytest

from encoder.model_files import METRICS_FILE, list_models
from store.home import Home
from store.listing import list_artifacts
from store.reports import keep_report
from tests.charts.reports import NOBODY, report_with
from tests.live_server import copy_home, flip, refusal, server
from triptych_client import CallError, Client
from triptych_client.pb.v1 import triptych_pb2 as pb


def test_indexes_are_listed_newest_first(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    (first,) = [path.name for path in home.indexes.iterdir() if not path.name.startswith(".")]
    broken = home.indexes / "29990101T000000000000-abcd"
    shutil.copytree(home.indexes / first, broken)
    (broken / "manifest.json").unlink()
    (broken / "manifest.json").write_text("{}")
    listed = list_artifacts(home.indexes, 10)
    assert [one.artifact_id for one in listed] == [broken.name, first]
    assert [one.damaged for one in listed] == [True, False]
    assert listed[1].facts["items"] == 150
    assert listed[1].nbytes > 1_000
    assert [one.artifact_id for one in list_artifacts(home.indexes, 1)] == [broken.name]
    with server(home) as client:
        damaged, serves = client.admin.ListIndexes(pb.ListIndexesRequest(), timeout=60).indexes
        assert (damaged.damaged, damaged.serving, damaged.items) == (True, False, 0)
        assert (serves.index_id, serves.serving, serves.items, serves.dim) == (first, True, 150, 32)
        assert serves.created.seconds > 0
        too_many = pb.ListIndexesRequest(limit=1_001)
        assert refusal(lambda: client.admin.ListIndexes(too_many, timeout=60)).reason == "INVALID_REQUEST"


def test_models_are_listed_with_what_training_chose_and_measured(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    (first,) = [one.artifact.artifact_id for one in list_models(home, 10)]
    broken = home.models / "29990101T000000000000-abcd"
    shutil.copytree(home.models / first, broken)
    flip(broken / METRICS_FILE)
    kept = json.loads((home.models / first / METRICS_FILE).read_text("utf-8"))["held_out"]
    with server(home) as client, Client(client.address) as api:
        damaged, model = api.list_models()
        assert (damaged.model_id, damaged.damaged, damaged.dim) == (broken.name, True, 0)
        assert (model.model_id, model.damaged, model.serving) == (first, False, True)
        assert (model.users, model.items, model.dim) == (200, 150, 32)
        assert model.bytes > 1_000
        assert model.created.seconds > 0
        assert model.training_seconds > 0
        assert model.settings["dim"]
        assert model.settings["gates"].count(",") == 2
        assert (model.held_out.rows, model.held_out.users) == (kept["rows"], kept["users"])
        assert [one.views for one in model.held_out.by_view] == ["H", "T", "S", "TS", "HTS"]
        whole = model.held_out.by_view[-1]
        assert whole.recall == kept["by_view"]["HTS"]["recall"]
        assert whole.recall_low < whole.recall < whole.recall_high
        assert [one.model_id for one in api.list_models(1)] == [broken.name]
        with pytest.raises(CallError, match="limit is 1001, more than 1000"):
            api.list_models(1_001)


def test_reports_are_listed_and_read(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as client, Client(client.address) as api:
        assert api.list_reports() == []
        nobody = report_with(k={"20": NOBODY}, users=0)
        one = keep_report(home, nobody, "").name
        two = keep_report(home, report_with(robustness={"unchanged": {}}), "").name
        (home.reports / "notes").mkdir()
        notes, newest, oldest = api.list_reports()
        assert (notes.report_id, notes.damaged) == ("notes", True)
        assert (newest.report_id, newest.damaged, newest.split, newest.users) == (two, False, "test", 3)
        assert (newest.recall, newest.recall_low, newest.recall_high, newest.ndcg) == (0.5, 0.4, 0.6, 0.3)
        assert (list(newest.baselines), newest.robustness) == (["EASE"], True)
        assert (oldest.report_id, oldest.HasField("recall"), oldest.robustness) == (one, False, False)
        assert api.get_report(one) == nobody
        assert len(api.list_reports(1)) == 1
        with pytest.raises(CallError, match="limit is 1001, more than 1000"):
            api.list_reports(1_001)
        for wrong in ("../models", "..", "/etc/passwd", "20260101T000000000000-aaaa"):
            with pytest.raises(CallError) as refused:
                api.get_report(wrong)
            assert (refused.value.code, refused.value.reason) == (
                grpc.StatusCode.NOT_FOUND,
                "REPORT_NOT_FOUND",
            )
        for wrong in ("", "x" * 257):
            with pytest.raises(CallError) as refused:
                api.get_report(wrong)
            assert refused.value.reason == "INVALID_REQUEST"
        flip(home.reports / two / "report.json")
        with pytest.raises(CallError) as refused:
            api.get_report(two)
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.DATA_LOSS, "DAMAGED_FILE")
        assert api.get_report(one) == nobody


def test_the_owner_answers_for_query_processes(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    report_id = keep_report(home, report_with(), "").name
    with server(home, "--processes", "2") as client, Client(client.address) as api:
        assert [one.report_id for one in api.list_reports()] == [report_id]
        assert api.get_report(report_id)["k"] == report_with()["k"]
        assert [one.serving for one in api.list_models()] == [True]
