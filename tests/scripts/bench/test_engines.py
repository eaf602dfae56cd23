"""`bench engines` on a small home with real engines: what it counts and compares, never how fast it is."""

import json
from contextlib import closing
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
from scripts.bench.engines.setups import (
    BOTH,
    EMBEDDED,
    MILVUS,
    PEERS,
    VALKEY,
    EngineAddresses,
    EngineUnderTest,
    started_engines,
)
from scripts.bench.serve.callers import Load
from scripts.bench.serve.ratios import HALF, LoadStep
from scripts.bench.serve.work import STORED, Work, make_work
from scripts.terminal import write_json
from store.export import Export
from store.home import Home
from store.valkey import Cluster, Keys, StateUnreachableError, cluster_address
from tests.engines.valkey import valkey_cluster

K = 10
OPTIONS = EngineBenchOptions(
    rounds=1, seconds=0.1, open_factor=2.0, callers=(1, 4), k=K, clients=1, warm_up=16
)


@pytest.fixture(scope="module")
def asked(small_home: Home) -> tuple[list[Work], list[str]]:
    with Export.latest(small_home.exports) as export:
        return make_work(export, 32, KINDS, k=K, seed=0), export.users().to_pylist()


@pytest.mark.nightly
@pytest.mark.parametrize("real_both", [False, True])
def test_every_engine_is_measured_beside_what_is_embedded(
    real_both: bool,
    small_home: Home,
    asked: tuple[list[Work], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With both at once nightly alone: processes cost time; else it is one that does not start."""
    work, users = asked
    if not real_both:
        monkeypatch.setattr("scripts.bench.engines.setups._Starter.both", cannot_start)
    with valkey_cluster(tmp_path / "cluster") as cluster:
        addresses = EngineAddresses(state=cluster.url)
        report = measure_engines(small_home, work, users, tmp_path, OPTIONS, addresses)
        assert [node.client().dbsize() for node in cluster.nodes] == [0, 0, 0]  # it has tidied up
    told = {row["engine"]: row for row in report["engines"]}
    assert list(told) == [EMBEDDED, *PEERS]
    if not real_both:
        what = "valkey+milvus could not be started: it is told not to"
        assert told.pop(BOTH) == {"engine": BOTH, "started": False, "recall_at_k": None, "what": what}
    assert told[VALKEY]["what"].startswith("users in Valkey ")
    assert told[EMBEDDED]["recall_at_k"] == told[VALKEY]["recall_at_k"] == 1.0  # of an exact index
    assert all(told[name]["recall_at_k"] >= 0.95 for name in told)
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
    assert rows["uncached", VALKEY, 1]["engine_bytes_per_query"] > 100  # what a user did, and friends
    peers, loads = [name for name in told if name != EMBEDDED], ("c1", "c4", "p99_half_load")
    assert report["ratios"].keys() == {
        f"{name}/{kind}_{load}" for name in peers for kind in KINDS for load in loads
    }
    assert report["ratios"][f"{VALKEY}/{STORED}_c1"] > 0
    print_engines(report)
    write_json(tmp_path / "engines.json", report)
    assert json.loads((tmp_path / "engines.json").read_text("utf-8")) == report
    plot_engines(report, tmp_path / "engines.png")
    assert (tmp_path / "engines.png").read_bytes().startswith(b"\x89PNG")


def cannot_start(_: object) -> EngineUnderTest:
    raise EngineNotStartedError(BOTH, "it is told not to")


def test_an_engine_that_is_required_and_does_not_start_is_an_error(
    small_home: Home, asked: tuple[list[Work], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.bench.engines.milvus_server.shutil.which", lambda *_, **__: None)
    monkeypatch.setattr("scripts.bench.engines.setups.has_standalone", lambda: False)
    nobody = EngineAddresses(state="valkey://127.0.0.1:1/bench")
    reasons = {
        MILVUS: "milvus-lite could not be started: it is not installed: pip install milvus-lite",
        VALKEY: "valkey://127.0.0.1:1/bench cannot be reached",
        BOTH: "valkey://127.0.0.1:1/bench cannot be reached",
    }
    for name, reason in reasons.items():
        with pytest.raises((EngineNotStartedError, StateUnreachableError), match=reason):
            measure_engines(small_home, *asked, tmp_path, OPTIONS, nobody, [name], required=True)


def test_a_place_that_holds_the_state_of_a_home_is_left_alone(small_home: Home, tmp_path: Path) -> None:
    with valkey_cluster(tmp_path / "cluster") as cluster:
        with closing(Cluster(cluster_address(cluster.url))) as connection:
            connection.client.hset(Keys("home").head, "owner", "somebody")
        with (
            pytest.raises(EngineNotStartedError, match="holds the state of a home already"),
            started_engines(small_home, tmp_path, EngineAddresses(cluster.url), [VALKEY], required=True),
        ):
            pass
        assert sum(node.client().dbsize() for node in cluster.nodes) == 1


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
