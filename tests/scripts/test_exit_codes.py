"""Exit codes of commands whose output is not read to its end."""

import subprocess
import sys
from pathlib import Path

from store.artifact import artifacts
from store.home import Home


def ended(*words: object) -> tuple[int, str]:
    """Return exit code and stderr of a command whose output nobody reads."""
    command = [sys.executable, "-m", "scripts.cli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    return process.returncode, said


def test_a_command_that_nobody_reads_does_its_work_and_says_that_it_did(home: Home) -> None:
    before = artifacts(home.exports)
    code, said = ended("export", "--home", home.path)
    assert code == 0, said
    assert len(artifacts(home.exports)) == len(before) + 1
    assert "BrokenPipe" not in said


def test_a_command_that_nobody_reads_and_that_fails_says_so(tmp_path: Path) -> None:
    code, said = ended("export", "--home", tmp_path)
    assert code == 1
    assert "is no Triptych home" in said
