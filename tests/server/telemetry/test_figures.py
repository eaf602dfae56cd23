"""Numbers of processes: cells, files that outlive a kill, and their sum."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from server.config import ServerConfig
from server.telemetry import Figures, ProcessFiles, TracesNotInstalledError, UnknownSeriesError, noting
from server.telemetry.exposition import ProcessSum
from server.telemetry.figures import read_figures
from store.home import Home
from tests.live_server import soon

COUNTS = """
import sys, time
from pathlib import Path
from server.telemetry import Figures
figures = Figures(Path(sys.argv[1]), "")
figures.counter("rows_written")(5.0)
figures.cells("user_vectors")[0] = 7.0
Path(sys.argv[2]).touch()
time.sleep(600)
"""


def value(files: ProcessFiles, name: str) -> float:
    (metric,) = [one for one in ProcessSum(files.sources).collect() if one.name == f"triptych_{name}"]
    return sum(sample.value for sample in metric.samples)


def test_what_a_killed_process_has_counted_goes_on_counting(tmp_path: Path) -> None:
    files = ProcessFiles(tmp_path, Figures())
    for number in range(2):
        file, ready = tmp_path / "draft", tmp_path / "ready"
        process = subprocess.Popen([sys.executable, "-c", COUNTS, str(file), str(ready)])
        try:
            soon(ready.exists)
            file.rename(tmp_path / f"{process.pid}-0")
            files.started(process.pid, "query")
            assert value(files, "rows_written") == 5.0 * (number + 1)
            assert value(files, "user_vectors") == 7.0
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
        files.ended(process.pid)
        ready.unlink()
        assert value(files, "rows_written") == 5.0 * (number + 1)
        assert value(files, "user_vectors") == 0.0  # it holds none any more
        assert not list(tmp_path.glob("*-*"))


def test_a_process_that_ends_before_it_counts_is_no_error(tmp_path: Path) -> None:
    files = ProcessFiles(tmp_path, Figures())
    files.started(1, "query")
    assert [one.process for one in files.sources()] == ["parent"]
    files.ended(1)


def test_a_file_has_numbers_tenant_and_facts(tmp_path: Path) -> None:
    figures = Figures(tmp_path / "1-0", "shop")
    figures.histogram("transaction_requests")(3.0)
    figures.tell(index_id="i1")
    reading = read_figures(tmp_path / "1-0")
    assert (reading.tenant, reading.facts) == ("shop", {"index_id": "i1"})
    assert list(reading.of("transaction_requests")) == [0, 0, 1, 0, 0, 0, 0, 0, 0, 3]
    Figures(tmp_path / "1-1")
    assert read_figures(tmp_path / "1-1").tenant is None


def test_a_series_that_is_not_in_the_table_is_refused() -> None:
    figures = Figures()
    for labels in (("no_such_metric",), ("calls_refused", "no such kind")):
        with pytest.raises(UnknownSeriesError, match="there is no series"):
            figures.cells(*labels)


def test_traces_without_opentelemetry_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "server.telemetry.traces", None)
    config = ServerConfig(Home(tmp_path), traces_endpoint="127.0.0.1:4317")
    with pytest.raises(TracesNotInstalledError, match="pip install"), noting(config):
        pass
