"""`bench engines` on a small home with real engines: what it counts and compares, never how fast it is."""

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.bench.engines.command import plot_engines, print_engines
from scripts.bench.engines.measure import (
    KINDS,
    EngineBenchOptions,
    _beside,
    _ratios,
    _Sample,
    measure_engines,
)
from scripts.bench.engines.program import EngineNotStartedError, start_program
from scripts.bench.engines.setups import BOTH, EMBEDDED, MILVUS, PEERS, VALKEY, EngineAddresses
from scripts.bench.serve.callers import Load
from scripts.bench.serve.ratios import HALF, LoadStep
from scripts.bench.serve.work import STORED, Work, make_work
from scripts.terminal import write_json
from store.export import Export
from store.home import Home
from tests.engines.valkey import valkey_cluster

K = 10
OPTIONS = EngineBenchOptions(
    rounds=1, seconds=0.1, open_factor=2.0, callers=(1, 4), k=K, clients=1, warm_up=16
)


@pytest.fixture(scope="module")
def asked(small_home: Home) -> tuple[list[Work], list[str]]:
    with Export.latest(small_home.exports) as export:
        return make_work(export, 32, KINDS, k=K, seed=0), export.users().to_pylist()


def test_every_engine_is_measured_beside_what_is_embedded(
    small_home: Home, asked: tuple[list[Work], list[str]], tmp_path: Path
) -> None:
    work, users = asked
    with valkey_cluster(tmp_path / "cluster") as cluster:
        addresses = EngineAddresses(state=cluster.url)
        report = measure_engines(small_home, work, users, tmp_path, OPTIONS, addresses, required=True)
        assert [node.client().dbsize() for node in cluster.nodes] == [0, 0, 0]  # it has tidied up
        assert report["engines"][1]["what"].startswith("users in Valkey ")
    told = {row["engine"]: row for row in report["engines"]}
    assert list(told) == [EMBEDDED, *PEERS]
    assert told[EMBEDDED]["recall_at_k"] == told[VALKEY]["recall_at_k"] == 1.0  # of an exact index
    assert told[MILVUS]["recall_at_k"] == told[BOTH]["recall_at_k"] >= 0.95
    rows = {(row["kind"], row["engine"], row["callers"]): row for row in report["results"]}
    assert rows.keys() == {(kind, name, n) for kind in KINDS for name in told for n in (1, 4, None)}
    for (_, name, callers), row in rows.items():
        assert row["failed"] == 0
        assert row["calls"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert (row["rate"] is None) == (callers is not None)
        assert (row["engine_bytes_per_query"] is not None) == (name in (VALKEY, BOTH))
        assert (row["engine_cpu_ms_per_query"] is not None) == (name == MILVUS)  # others' are not known
    for kind in KINDS:
        peak = max(rows[kind, EMBEDDED, callers]["throughput"] for callers in (1, 4))
        assert rows[kind, EMBEDDED, None]["rate"] == pytest.approx(HALF * peak)
        assert rows[kind, MILVUS, None]["rate"] <= HALF * peak
        # A user who was asked for is kept by the replica; of one who was not it reads what they did.
        assert rows["uncached", VALKEY, 1]["engine_bytes_per_query"] > 100
    assert report["ratios"].keys() == {
        f"{name}/{kind}_{load}" for name in PEERS for kind in KINDS for load in ("c1", "c4", "p99_half_load")
    }
    assert report["ratios"][f"{VALKEY}/{STORED}_c1"] > 0
    print_engines(report)
    write_json(tmp_path / "engines.json", report)
    assert json.loads((tmp_path / "engines.json").read_text("utf-8")) == report
    plot_engines(report, tmp_path / "engines.png")
    assert (tmp_path / "engines.png").read_bytes().startswith(b"\x89PNG")


def test_an_engine_that_does_not_start_is_told_with_the_reason(
    small_home: Home, asked: tuple[list[Work], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, users = asked
    monkeypatch.setattr("scripts.bench.engines.milvus_server.shutil.which", lambda *_, **__: None)
    nobody = EngineAddresses(state="valkey://127.0.0.1:1/bench")
    options = EngineBenchOptions(rounds=1, seconds=0.05, open_factor=1.0, callers=(1,), k=K, warm_up=8)
    report = measure_engines(small_home, work, users[:5], tmp_path, options, nobody)
    told = {row["engine"]: (row["started"], row["what"]) for row in report["engines"]}
    assert told[EMBEDDED][0]
    assert "valkey://127.0.0.1:1/bench cannot be reached" in told[VALKEY][1]
    assert told[MILVUS] == (
        False,
        "milvus-lite could not be started: it is not installed: pip install milvus-lite",
    )
    assert told[BOTH][1] == told[VALKEY][1]
    assert {row["engine"] for row in report["results"]} == {EMBEDDED}
    assert report["ratios"] == {}
    with pytest.raises(EngineNotStartedError, match="milvus-lite could not be started: it is not installed"):
        measure_engines(small_home, work, users, tmp_path, options, nobody, [MILVUS], required=True)


def test_a_program_that_ends_early_is_told_with_its_last_line(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo one; echo boom >&2; exit 3"]
    with pytest.raises(EngineNotStartedError, match=r"^it could not be started: it ended with 3: boom$"):
        start_program("it", command, tmp_path / "log", lambda: False)
    with pytest.raises(EngineNotStartedError, match="no answer after 0 s: it has said nothing"):
        start_program("it", ["sleep", "60"], tmp_path / "other", lambda: False, seconds=0.1)
    with pytest.raises(EngineNotStartedError, match="No such file"):
        start_program("it", ["/no/such/program"], tmp_path / "none", lambda: False)


def test_ratios_are_of_the_same_round_and_of_the_same_rate() -> None:
    def sample(latency: float, calls: int, cpu: float, rate: float = 0.0, engine: float | None = None):  # type: ignore[no-untyped-def]
        return _Sample(Load(1.0, np.full(calls, latency), server_cpu=cpu), engine, None, rate)

    closed, paced = LoadStep(STORED, 1), LoadStep(STORED, share=HALF)
    samples = {
        (closed, EMBEDDED): [sample(2.0, 100, 0.1), sample(4.0, 50, 0.1), sample(2.0, 100, 0.1)],
        (closed, VALKEY): [sample(4.0, 50, 0.1, engine=0.1), sample(4.0, 50, 0.1), sample(2.0, 90, 0.09)],
        (paced, EMBEDDED): [sample(1.0, 50, 0.1, rate=50.0)],
        (paced, VALKEY): [sample(3.0, 50, 0.1, rate=50.0)],
        (closed, MILVUS): [sample(20.0, 10, 0.1)] * 3,
        (paced, MILVUS): [sample(20.0, 5, 0.1, rate=5.0)],
    }
    beside = _beside(samples)
    (row,) = [one for one in beside if one["engine"] == VALKEY and one["callers"] == 1]
    # By rounds: throughput .5, 1 and .9; latency 2, 1 and 1; processor time of a query 4, 1 and 1.
    assert (row["throughput"], row["p50"], row["cpu"]) == pytest.approx((0.9, 1.0, 1.0))
    assert _ratios(beside) == {
        "valkey/stored_c1": pytest.approx(0.9),
        "valkey/stored_p99_half_load": pytest.approx(3.0),
        "milvus/stored_c1": pytest.approx(0.1),
        "milvus/stored_p99_half_load": None,  # it did not keep up with that rate
    }
