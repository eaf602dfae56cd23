"""Every command with --home knows of homes in object storage: it works there, or refuses as all others do."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from scripts.cli import app
from tests.command_line import Run
from tests.engines.s3 import environment

# With what else each has to be called.
WITH_ARTIFACTS = {
    "artifacts clean": (),
    "artifacts list": (),
    "bench ratings": (),
    "compress-text": (),
    "doctor": (),
    "evaluate": (),
    "export": ("--format", "recbole", "--out", "out"),
    "index list": (),
    "index move": ("--to", "milvus", "--milvus", "http://127.0.0.1:9"),
    "index prune": (),
    "index publish": ("x",),
    "index rollback": (),
    "index show": ("x",),
    "reindex": (),
    "train": (),
    "tune": (),
}
WITH_THE_LIVE_STORE = {
    "backup": ("--to", "backups"),
    "bench faults": (),
    "demo": (),
    "export": (),
    "import": (".",),
    "restore": ("--from", "backups"),
    "serve": (),
    "split": ("--by", "random"),
    "token create": ("--scope", "query"),
    "token list": (),
    "token revoke": ("x",),
}
URL = "s3://bucket/home"


def with_home(command: Any, words: tuple[str, ...] = ()) -> Iterator[str]:
    """The commands that take --home, by the words that name them."""
    for name, inside in getattr(command, "commands", {}).items():
        yield from with_home(inside, (*words, name))
    if any("--home" in option.opts for option in command.params):
        yield " ".join(words)


def test_no_command_is_forgotten() -> None:
    assert set(with_home(typer.main.get_command(app))) == {*WITH_ARTIFACTS, *WITH_THE_LIVE_STORE}


@pytest.mark.parametrize("command", WITH_THE_LIVE_STORE)
def test_what_needs_the_live_store_says_where_it_is(
    run: Run, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*command.split(), *WITH_THE_LIVE_STORE[command], "--home", URL)
    said = " ".join(err.replace("│", " ").split())
    assert code == 2, err
    assert f"this command works on the live store, and {URL} has none: run it on the machine" in said
    assert f"triptych artifacts copy --from {URL} --to DIRECTORY" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", WITH_ARTIFACTS)
def test_what_needs_artifacts_alone_asks_the_bucket(
    run: Run, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "bench ratings" and importlib.util.find_spec("surprise") is None:
        pytest.skip("scikit-surprise is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    for name, value in environment("http://127.0.0.1:9").items():  # where nothing listens
        monkeypatch.setenv(name, value)
    code, out, err = run(*command.split(), *WITH_ARTIFACTS[command], "--home", URL)
    assert (code, f"{URL}/" in out + err, "AWS_ENDPOINT_URL_S3" in out + err) == (1, True, True), err
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
