"""bench import: the figures of a small one, and the bound on memory."""

import json
from pathlib import Path

from tests.command_line import Run


def test_a_small_import_is_measured_and_bounded(tmp_path: Path, run: Run) -> None:
    code, _, error = run(
        "bench", "import", "--gib", "0.001", "--most-mib", "1", "--json", tmp_path / "import.json"
    )
    assert (code, "more than 1" in error) == (1, True)
    (figures,) = json.loads((tmp_path / "import.json").read_text())["results"]
    assert figures["reviews"] > 1_000
    assert 0.001 <= figures["GiB unpacked"] < 0.0011
    assert 50 < figures["peak MiB"] < 1_536
