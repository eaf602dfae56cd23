"""`bench jobs` on a small home: every work is done each way, and ways that differ are found out."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scripts.bench import jobs as bench_jobs
from scripts.bench.command import app
from scripts.bench.jobs import ALONE, CLUSTER, PROCESSES, RAY, WAYS, DifferentResultsError
from scripts.bench.large_home import SIZES_FILE, HomeSizes
from store.home import Home
from tests.live_server import copy_home

WORKS = ("a part", "4 parts", "texts", "reindex", "tune")


@pytest.mark.nightly
@pytest.mark.parametrize("ray", [False, True])
def test_every_work_is_done_each_way_and_comes_to_the_same(
    small_home: Home, tmp_path: Path, ray: bool
) -> None:
    home, out = copy_home(small_home, tmp_path / "kept" / "home"), tmp_path / "jobs.json"
    sizes = HomeSizes(items=150, users=200, dim=32)
    (tmp_path / "kept" / SIZES_FILE).write_text(json.dumps(asdict(sizes)))
    words = ["--items", "150", "--users", "200", "--dim", "32", "--jobs", "2", "--rounds", "1"]
    words += ["--parts", "4", "--texts", "8", "--trials", "2", "--home-cache", str(tmp_path / "kept")]
    words += ["--ray" if ray else "--no-ray", "--json", str(out)]
    done = CliRunner().invoke(app, ["jobs", *words])
    assert done.exit_code == 0, (done.output, done.exception)
    report = json.loads(out.read_text("utf-8"))
    rows = {(row["work"], row["way"]): row for row in report["results"]}
    ways, cluster = (WAYS, {(CLUSTER, RAY)}) if ray else (WAYS[:2], set())
    assert rows.keys() == {*cluster, *((work, way) for work in WORKS for way in ways)}
    assert all(row["seconds"] > 0 and row["cpu_seconds"] >= 0 for row in rows.values())
    pairs = {"processes_over_this_process": (PROCESSES, ALONE, "seconds")}
    if ray:
        pairs |= {"ray_over_processes": (RAY, PROCESSES, "seconds")}
        pairs |= {"ray_over_processes_cpu": (RAY, PROCESSES, "cpu_seconds")}
    assert report["ratios"] == {
        f"{work}/{name}": rows[work, one][of] / rows[work, other][of]
        for work in WORKS
        for name, (one, other, of) in pairs.items()
    }
    # With one thread for each, all come to the same; and a copy of the home was worked on.
    assert all(rows[work, way]["result"] == rows[work, ALONE]["result"] for work in WORKS for way in ways)
    assert len(list(home.indexes.iterdir())) == len(list(small_home.indexes.iterdir()))


def test_figures_of_ways_that_differ_are_refused() -> None:
    one, other = bench_jobs._Taken(1.0, 1.0, "a" * 64), bench_jobs._Taken(2.0, 2.0, "b" * 64)
    bench_jobs._check_results("tune", {PROCESSES: [one, one], RAY: [one]})
    for taken in ({PROCESSES: [one], RAY: [other]}, {PROCESSES: [one, other], RAY: [one]}):
        with pytest.raises(DifferentResultsError, match=r"tune: .*aaaaaaaaaaaa.*bbbbbbbbbbbb"):
            bench_jobs._check_results("tune", taken)
