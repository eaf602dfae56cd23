"""What tokens, metrics and logs cost: measured on real servers of a small home."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.bench.serve.overhead import AGAIN, PLAIN, WATCHED, OverheadOptions, measure_overhead
from scripts.bench.serve.work import STORED, make_work
from scripts.connection import TOKEN_VARIABLE
from store.export import Export
from store.home import Home


@pytest.mark.nightly
def test_a_watched_server_is_measured_beside_a_plain_one(small_home: Home, tmp_path: Path) -> None:
    with Export.latest(small_home.exports) as export:
        (work,) = make_work(export, 32, [STORED], k=5, seed=0)
    work = replace(work, requests=work.requests[:100])  # all are asked of each server before the clock starts
    before = os.environ.get(TOKEN_VARIABLE)
    options = OverheadOptions(rounds=2, seconds=0.1, callers=2, clients=1)
    rows = measure_overhead(small_home, work, tmp_path, options)["results"]
    assert [row["server"] for row in rows] == [PLAIN, WATCHED, AGAIN]
    assert (rows[0]["throughput_over_plain"], rows[0]["cpu_over_plain"]) == (1.0, 1.0)
    assert all(row["per_second"] > 0 and row["server_cpu_ms"] >= 0 for row in rows)
    assert os.environ.get(TOKEN_VARIABLE) == before
