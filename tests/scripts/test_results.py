"""`make results`: what is run, what is not run again, and the tables that it writes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.results import run as runner
from scripts.results.__main__ import results_command
from scripts.results.plan import DataSet, NoDataSetError, ResultStep, data_sets
from scripts.results.run import (
    ROOT,
    NoCheckoutError,
    StepFailedError,
    commit_of,
    locked_results,
    read_marker,
    run_steps,
)
from scripts.world.world import make_world
from store.locks import LockedError

QUICK = "--epochs 1 --members 1 --dim 16 --max-dim 32"
STEPS = ("import", "train", "reindex", "evaluate")


def folders(data: Path, *names: str) -> Path:
    for name in names:
        (data / name).mkdir(parents=True)
        (data / name / "behaviors.parquet").touch()
    return data


def test_data_sets_come_in_the_order_of_the_tables_and_one_is_split_again(tmp_path: Path) -> None:
    data = folders(tmp_path, "mine", "rfc", "gowalla", "ml-latest-small")
    (tmp_path / "notes").mkdir()
    assert [one.name for one in data_sets(data)] == [
        "rfc",
        "ml-latest-small",
        "ml-by-time",
        "gowalla",
        "mine",
    ]
    (by_time,) = data_sets(data, ["ml-by-time"])
    steps = by_time.steps(Path("R"), ["--epochs", "2"])
    assert [step.name for step in steps] == ["import", "split", "train", "reindex", "evaluate"]
    assert steps[0].command == f"triptych import {data}/ml-latest-small --home R/homes/ml-by-time"
    assert "--by time" in steps[1].command
    assert steps[2].command.endswith("train --home R/homes/ml-by-time --epochs 2")
    assert "--baselines --robustness" in steps[4].command
    assert [step.name for step in DataSet("rfc", data / "rfc").steps(Path("R"), ())] == list(STEPS)


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoDataSetError, match="no folder in it holds behaviors"):
        data_sets(tmp_path)
    with pytest.raises(NoDataSetError, match="no data set 'other'; there are rfc"):
        data_sets(folders(tmp_path, "rfc"), ["rfc", "other"])


Steps = Callable[..., list[str]]


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Runs steps named a, b and c, which are Python code here, and returns which of them ran."""
    monkeypatch.setattr(runner, "_TRIPTYCH", (sys.executable, "-c", "import sys; exec(sys.argv[1])"))
    ran = tmp_path / "ran"

    def call(
        *, commit: str = "1", any_commit: bool = False, clears: Path | None = None, **code: str
    ) -> list[str]:
        ran.write_text("")
        made = [
            ResultStep(name, (f"open({str(ran)!r}, 'a').write({name!r}); {code.get(name, '0')}",), clears)
            for name in "abc"
        ]
        with locked_results(tmp_path) as lock:
            try:
                run_steps(made, tmp_path / "steps", commit, any_commit=any_commit, lock=lock)
            except StepFailedError as error:
                print(error)
        return list(ran.read_text())

    return call


def test_a_step_that_is_done_is_not_done_again(steps: Steps, tmp_path: Path) -> None:
    assert steps() == ["a", "b", "c"]
    assert steps() == []
    marker = read_marker(tmp_path / "steps" / "b.json")
    assert marker is not None
    assert (marker["commit"], marker["seconds"] > 0) == ("1", True)
    (tmp_path / "steps" / "b.json").unlink()
    assert steps() == ["b", "c"]


def test_a_signal_that_comes_while_a_step_starts_ends_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def popen(*words: Any, **options: Any) -> "subprocess.Popen[bytes]":
        started.append(process := subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        os.kill(os.getpid(), signal.SIGTERM)  # before the caller knows the process
        return process

    monkeypatch.setattr(
        "scripts.results.run.subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": popen})
    )
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
    try:
        with locked_results(tmp_path) as lock, pytest.raises(SystemExit):
            run_steps([ResultStep("a", ("x",))], tmp_path / "steps", "1", any_commit=False, lock=lock)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert started[0].poll() is not None


def test_what_was_done_at_another_commit_is_taken_when_told_to(steps: Steps) -> None:
    steps()
    assert steps(commit="2", any_commit=True) == []
    assert steps(commit="2") == ["a", "b", "c"]
    assert steps(commit="2") == []


def test_another_command_is_run_and_what_comes_after_it(steps: Steps) -> None:
    steps()
    assert steps(b="1") == ["b", "c"]


def test_a_step_that_fails_stops_with_the_last_lines_of_its_log(
    steps: Steps, capsys: pytest.CaptureFixture[str]
) -> None:
    assert steps(b="print('\\n'.join(map(str, range(1000, 1100)))); sys.exit(3)") == ["a", "b"]
    said = capsys.readouterr().out
    assert "1099" in said
    assert "1050" not in said
    assert "exit code 3: triptych open" in said
    assert steps() == ["b", "c"]  # with another command, too


def test_a_long_step_tells_now_and_then_what_it_says(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "_SAY_SECONDS", 0.2)
    steps(b="import time; print('first\\rhalf done\\r', flush=True); time.sleep(1)")
    assert " s: half done\n" in capsys.readouterr().out


def test_a_step_holds_the_lock_itself(steps: Steps, tmp_path: Path) -> None:
    held = "map(os.path.realpath, glob.glob('/proc/self/fd/*'))"
    code = f"import glob, os; sys.exit({str(tmp_path / '.lock')!r} not in {held})"
    assert steps(b=code) == ["a", "b", "c"]


def test_what_a_killed_step_left_is_cleared_before_it_is_redone(steps: Steps, tmp_path: Path) -> None:
    left = tmp_path / "home"
    left.mkdir()
    (left / "half").touch()
    assert steps(clears=left) == ["a", "b", "c"]
    assert not left.exists()
    left.mkdir()
    assert steps(clears=left) == []
    assert left.exists()


def test_nobody_works_in_a_folder_at_the_same_time(tmp_path: Path) -> None:
    with locked_results(tmp_path), pytest.raises(LockedError), locked_results(tmp_path):
        pass
    with locked_results(tmp_path) as lock:  # a step that outlives a killed run keeps the lock
        held = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=(lock,), stdin=subprocess.PIPE)
    with pytest.raises(LockedError), locked_results(tmp_path):
        pass
    held.communicate(b"\n")
    with locked_results(tmp_path):
        pass


def test_a_commit_is_another_where_files_have_changed(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        named = ("-c", "user.name=n", "-c", "user.email=e")
        subprocess.run(["git", *named, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--template=")
    with pytest.raises(NoCheckoutError):
        commit_of(tmp_path)
    (tmp_path / "code").write_text("1")
    git("add", "code")
    git("commit", "-m", "first")
    commits = [commit_of(tmp_path)]
    for text in ("2", "3", "1"):
        (tmp_path / "code").write_text(text)
        commits.append(commit_of(tmp_path))
    assert len(set(commits)) == 3
    assert commits[0] == commits[3]
    assert all(one.startswith(f"{commits[0]}+") for one in commits[1:3])


@pytest.mark.nightly
def test_killed_in_training_it_goes_on_there_and_writes_the_tables(
    tmp_path: Path, text_models_dir: Path, user_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(text_models_dir, user_cache / "triptych" / "text_models", dirs_exist_ok=True)
    data, results = tmp_path / "data", tmp_path / "results"
    make_world(data / "tiny", users=200, items=150)
    words = [
        sys.executable,
        "-m",
        "scripts.results",
        str(data),
        str(results),
        "--train",
        QUICK,
        "--commit",
        "1",
    ]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("tiny, train (2 of 4): triptych train"):
                process.send_signal(signal.SIGTERM)
                break
        assert process.wait(60) == 128 + signal.SIGTERM
    markers = {name: results / "steps" / "tiny" / f"{name}.json" for name in STEPS}
    assert [name for name, marker in markers.items() if marker.exists()] == ["import"]

    results_command(data, results, train=QUICK, commit="1")
    said = capsys.readouterr().out
    assert "tiny, import (1 of 4): done at commit 1" in said
    assert "tiny, evaluate (4 of 4): done in " in said
    report = json.loads((results / "tiny.json").read_text("utf-8"))
    text = (results / "results.md").read_text("utf-8")
    assert f"| **Triptych** | **{report['k']['20']['recall']:.4f}".replace("**0", "**") in text
    assert "at commit 1, on 20" in text
    assert "    triptych import DATA/tiny --home RESULTS/homes/tiny\n" in text
    assert str(tmp_path) not in text
    for heading in ("history", "texts", "friends"):
        assert f"## By amount of {heading} (test" in text
    rows = [line for line in text.splitlines() if line.startswith("| tiny | all |")]
    assert len(rows) == 3
    assert all(row.count("/") == 8 for row in rows)
    assert "| tiny | H noise |" in text
    assert "dim 16, " in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("| tiny | H ")} == {7, 11}

    before = {name: marker.read_text("utf-8") for name, marker in markers.items()}
    results_command(data, results, train=QUICK, commit="1")
    assert {name: marker.read_text("utf-8") for name, marker in markers.items()} == before
