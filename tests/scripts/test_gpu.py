"""`make gpu` as far as it goes without a card: what it says, what its steps count, and how they are ended."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from indexer.search import gpus
from scripts.gpu.card import NO_CARD, NoCardError, find_card
from scripts.gpu.exact_step import BATCHES, Best, measure_exact, overlap
from scripts.gpu.faiss_steps import measure_builds, measure_parity
from scripts.gpu.markdown import gpu_markdown
from scripts.gpu.run import STEPS, GpuStep, run_steps
from scripts.gpu.step import counts_of
from scripts.gpu.training_step import measure_training_speed

ROOT = Path(__file__).parents[2]


def program(folder: Path, text: str) -> None:
    """Put a program named nvidia-smi in a folder."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize("module", ["scripts.gpu.card", "scripts.gpu"])
def test_without_a_card_it_says_so_and_ends_with_3(tmp_path: Path, module: str) -> None:
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == NO_CARD == 3
    assert done.stderr.splitlines()[-1].startswith("gpu: no graphics card here (there is no nvidia-smi)")
    assert not (ROOT / "gpu.json").exists()


def test_a_driver_that_fails_or_names_no_card_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    program(tmp_path, "echo 'NVIDIA-SMI has failed because it could not reach the driver'; exit 9")
    with pytest.raises(NoCardError, match="could not reach the driver"):
        find_card()
    program(tmp_path, "exit 0")
    with pytest.raises(NoCardError, match="names none"):
        find_card()
    program(tmp_path, "echo 'NVIDIA H100 80GB HBM3, 81559 MiB, 580.159.04'")
    card = {"name": "NVIDIA H100 80GB HBM3", "memory.total": "81559 MiB", "driver_version": "580.159.04"}
    assert find_card() == card


def test_a_step_that_fails_or_takes_too_long_does_not_stop_the_others(tmp_path: Path) -> None:
    def step(name: str, code: str, seconds: float = 60.0, *, card: bool = True) -> GpuStep:
        return GpuStep(name, (sys.executable, "-c", code), seconds, card)

    pid_file = tmp_path / "pid"
    endless = (
        "import subprocess, sys, pathlib;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid)); child.wait()"
    )
    says = (
        "import json, os, sys;"
        "open(sys.argv[1], 'w').write(json.dumps({'devices': os.environ.get('CUDA_VISIBLE_DEVICES')}))"
    )
    began = time.monotonic()
    found = run_steps(
        [
            step("bad", "print('first'); raise SystemExit('no kernel image')"),
            step("long", endless, 3.0),
            step("on the CPU", says, card=False),
            step("on the card", says),
        ],
        60.0,
    )
    assert time.monotonic() - began < 60
    assert found["bad"]["error"] == "no kernel image"
    assert found["long"]["error"] == "it took longer than 3 s"
    assert found["on the CPU"]["devices"] == ""
    assert found["on the card"]["devices"] == os.environ.get("CUDA_VISIBLE_DEVICES")
    stat = Path(f"/proc/{pid_file.read_text()}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
    assert run_steps([step("late", says)], 0.0)["late"]["error"] == "no time was left"


def test_the_steps_fit_in_their_time() -> None:
    assert sum(step.seconds for step in STEPS) <= 530  # each to its limit; most end early
    assert {step.name for step in STEPS if not step.card} == {"training on the CPU", "builds on the CPU"}


def test_the_best_of_chunks_are_the_best_of_all() -> None:
    generator = np.random.default_rng(0)
    scores = generator.standard_normal((3, 1_000)).astype(np.float32)
    best = Best(3, 10)
    for start in (0, 7, 400):
        best.look_at(scores[:, start : {0: 7, 7: 400, 400: 1_000}[start]], start)
    np.testing.assert_array_equal(best.rows, np.argsort(-scores, axis=1)[:, :10])


def test_overlap_by_hand() -> None:
    found, wanted = np.array([[1, 2, 3], [4, -1, -1]]), np.array([[3, 9, 1], [4, 5, -1]])
    assert overlap(found, wanted) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_exact_search_is_measured_and_checked() -> None:
    def halves(dim: int) -> faiss.IndexScalarQuantizer:
        return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)

    found = measure_exact(2_000, halves)
    assert found["recall"] > 0.98
    assert [row["batch"] for row in found["results"]] == list(BATCHES)
    row = found["results"][-1]
    assert row["gb_per_second"] == pytest.approx(2_000 * 128 * 2 / row["ms"] / 1e6)
    assert row["queries_per_second"] == pytest.approx(256e3 / row["ms"])


@pytest.mark.skipif(bool(gpus().count), reason="there is a card: make gpu itself is the test")
def test_what_needs_no_card_measures_the_cpu() -> None:
    parity = measure_parity(3_000)
    assert parity["results"][0] == {
        "factory": "Flat",
        "same_ids": 1.0,
        "recall_card": 1.0,
        "recall_cpu": 1.0,
        "greatest_score_difference": 0.0,
    }
    for row in parity["results"][1:]:
        assert row["same_ids"] == 1.0  # the same index twice
        assert row["recall_cpu"] > 0.95
    builds = measure_builds(10_000)
    assert [row["factory"] for row in builds["results"]] == ["IVF4096,Flat", "IVF4096,SQ8", "HNSW32"]
    assert builds["on"] == "CPU"


def test_training_speed_leaves_the_first_epoch_out() -> None:
    found = measure_training_speed(users=300, items=200, events=3_000)
    assert found["seconds_per_epoch"] > 0
    assert found["first_epoch"] > 0
    assert found["on"] == ("card" if torch.cuda.is_available() else "CPU")


def test_counts_of_a_test_report(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(
        "<testsuites><testsuite><testcase name='a'/><testcase name='b'><skipped message='no cuVS'/>"
        "</testcase></testsuite></testsuites>",
        "utf-8",
    )
    assert counts_of(report) == {"passed": 1, "skipped": 1, "reasons": ["no cuVS"]}


def test_the_section_tells_every_step_and_what_failed() -> None:
    size = {"items": 1_000, "dim": 128, "k": 50}
    alike = {"same_ids": 0.999, "recall_card": 1.0, "recall_cpu": 1.0, "greatest_score_difference": 1e-6}
    exact = {
        "batch": 64,
        "ms": 2.0,
        "queries_per_second": 32_000.0,
        "gb_per_second": 1280.0,
        "share_of_bandwidth": 0.43,
    }
    building, took = {"items": 1_000, "dim": 128}, {"took": 10.0}
    training = {"users": 10, "items": 20, "events": 30}
    report = {
        "card": {"name": "NVIDIA H100", "memory.total": "81559 MiB", "driver_version": "580"},
        "date": "2026-11-26",
        "cpus": 16,
        "faiss": "1.15.1",
        "steps": {
            "tests": {"passed": 5, "skipped": 1, "reasons": ["no cuVS"], "took": 10.0},
            "parity": size | took | {"results": [alike | {"factory": "Flat", "same_ids_torch": 0.998}]},
            "exact": size | took | {"copy_gb_per_second": 3000.0, "recall": 0.9987, "results": [exact]},
            "text": {
                "by": "ONNX Runtime",
                "results": [
                    {"tokens": 16, "device": "card", "texts_per_second": 9_000.0},
                    {"tokens": 16, "device": "CPU", "texts_per_second": 900.0},
                ],
                "took": 10.0,
            },
            "builds": building | took | {"on": "card", "results": [{"factory": "CAGRA64", "seconds": 4.25}]},
            "builds on the CPU": {"error": "it took longer than 90 s", "took": 90.0},
            "training": training | {"on": "card", "seconds_per_epoch": 0.5, "took": 10.0},
            "training on the CPU": training | {"on": "CPU", "seconds_per_epoch": 5.0, "took": 10.0},
        },
    }  # fmt: skip
    section = gpu_markdown(json.loads(json.dumps(report)))
    for line in (
        "2026-11-26, NVIDIA H100 (81559 MiB, driver 580), 16 CPU cores, FAISS 1.15.1, 160 s in all.",
        "Tests marked `gpu`: 5 passed, 1 skipped (no cuVS).",
        "| Flat | 0.9990 | 1.0000 | 1.0000 | 1.0e-06 | 0.9980 |",
        "| 64 | 2.00 | 32,000 | 1,280 | 0.43 |",
        "| 16 | 9,000 | 900 | 10.0 |",
        "| CAGRA64 | card | 4.2 |",
        "| CPU | 5.00 |",
        "- builds on the CPU: it took longer than 90 s",
    ):
        assert line in section
