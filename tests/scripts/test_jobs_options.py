"""`--jobs` and `--ray` of the commands."""

import json
import shutil
from collections.abc import Iterator

import optuna
import pytest

from encoder.config import TowerConfig
from encoder.jobs import Jobs, opening
from encoder.jobs.processes import LocalProcesses
from encoder.learned import LearnConfig
from store.home import Home
from tests.command_line import Run
from tests.indexer.divided import cached


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, str | None]]]:
    """What workers were opened for; each time they are the same two processes, which load a module once."""
    asked: list[tuple[int, str | None]] = []
    processes = LocalProcesses(2)
    close = processes.close

    def workers(count: int, ray: str | None) -> Jobs:
        asked.append((count, ray))
        return processes

    monkeypatch.setattr(processes, "close", lambda: None)
    monkeypatch.setattr(opening, "_workers", workers)
    yield asked
    close()


def test_every_command_divides_its_work(
    home: Home,
    run: Run,
    opened: list[tuple[int, str | None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    before = cached(home)
    shutil.rmtree(home.text_cache)
    settings = home.path / "tower.json"
    settings.write_text(
        json.dumps(TowerConfig(dim=16).as_json() | {"learned": LearnConfig(dim=16, epochs=2).as_json()})
    )
    for words in (
        ("train", "--config", settings),
        ("reindex", "--full"),
        ("tune", "--fusion", "ridge", "--trials", 2),
        ("evaluate", "--split", "valid", "--baselines", "--json", home.path / "report.json"),
    ):
        code, _, err = run(*words, "--home", home.path, "--jobs", 2)
        assert code == 0, err
    assert "learned block: trained by 2 processes with" in caplog.text
    assert opened == [(2, None)] * 4
    assert cached(home).keys() == before.keys()
    assert not list(home.indexes.glob(".spool-*"))
    report = json.loads((home.path / "report.json").read_text())
    assert report["baselines"]["EASE"]["20"]["recall"] > 0
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{home.reports / 'tune.db'}")
    assert study.n_trials == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--jobs", 0), "'0' is neither auto nor a number from 1 to 1024"),
        (("--jobs", "many"), "'many' is neither auto nor a number"),
        (("--jobs", 2, "--ray", "auto"), "--ray and --jobs exclude each other"),
    ],
)
def test_what_is_no_number_of_jobs_is_refused(
    home: Home, run: Run, words: tuple[object, ...], reason: str
) -> None:
    code, _, err = run("reindex", "--home", home.path, *words)
    assert (code, reason in " ".join(err.replace("│", "").split())) == (2, True), err
