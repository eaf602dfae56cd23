"""Benchmarks on small sizes: what they count and compare, never how fast anything is."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from indexer.index import Excluded, Index
from scripts import bench_faults, bench_serve
from scripts.bench import app
from scripts.bench_bare import BATCH, BareServicer
from scripts.bench_checks import Left, left_over, rows_of_store
from scripts.bench_faults import NotEmptyError, TooFastError
from scripts.bench_index import search_ours
from scripts.bench_load import Bounds, CallFailedError, Clients, Load, Work
from scripts.bench_output import plot, write_json
from scripts.bench_serve import NobodyToAskForError, NotLoopbackError, ServeOptions, check_loopback, make_work
from scripts.bench_stages import Stage
from scripts.bench_vectors import clustered, write_index
from scripts.bench_world import CommandFailedError, process, run
from scripts.world import make_world
from server.pb.triptych.v1 import triptych_pb2 as pb
from store.artifact import point
from store.duck import Store
from store.export import Export
from store.exporting import create_export
from store.home import Home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a small world imported and one export; nothing is trained."""
    folder = tmp_path_factory.mktemp("bench")
    make_world(folder / "data", users=200, items=150)
    home = Home(folder / "home")
    run("import", str(folder / "data"), "--home", str(home.path))
    with Store.open(home.database) as store:
        create_export(store, home.exports)
    return home


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Index]:
    folder = tmp_path_factory.mktemp("indexes")
    generator = np.random.default_rng(0)
    vectors = clustered(generator, generator.standard_normal((6, 8), dtype=np.float32), 600)
    factories = ("Flat", "HNSW16", "IVF8,SQ8")
    return {factory: write_index(folder, vectors, factory, nprobe=8, ef_search=32) for factory in factories}


@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 5),
    k=st.integers(1, 40),
    left_out=st.integers(0, 60),
)
def test_search_with_left_out_items_is_brute_force(
    indexes: dict[str, Index], seed: int, queries: int, k: int, left_out: int
) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((queries, 8), dtype=np.float32)
    pairs = generator.integers((queries, 600), size=(left_out, 2))
    excluded = Excluded(pairs[:, 0], pairs[:, 1])
    index = indexes["Flat"]
    rows, scores = index.search(vectors, k, excluded)
    exact_rows, exact_scores = index.brute_force(vectors, k, excluded)
    np.testing.assert_allclose(scores, exact_scores, rtol=1e-4, atol=1e-5)
    assert (rows == exact_rows).mean() > 0.9  # but for near ties, which rounding may turn around
    assert not {tuple(pair) for pair in pairs} & {(i, row) for i, found in enumerate(rows) for row in found}


@pytest.mark.parametrize("factory", ["HNSW16", "IVF8,SQ8"])
def test_approximate_search_gives_exact_scores_in_order(indexes: dict[str, Index], factory: str) -> None:
    index, queries = indexes[factory], np.random.default_rng(1).standard_normal((9, 8), dtype=np.float32)
    rows, scores = index.search(queries, 20)
    assert (rows >= 0).all()
    exact = np.einsum("qkd,qd->qk", index.vectors[rows], queries)
    np.testing.assert_allclose(scores, exact, rtol=1e-5, atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_ids_come_with_the_rows_and_none_where_too_few_are_left(indexes: dict[str, Index]) -> None:
    index = indexes["Flat"]
    everything = Excluded(np.zeros(599, dtype=np.int64), np.arange(599))
    ids, scores = search_ours(index, index.vectors[599:600], 3, everything)
    assert ids == [["item-000000599"]]
    assert np.isneginf(scores[0, 1:]).all()
    assert index.item_ids(np.array([2, 0])) == ["item-000000002", "item-000000000"]


def test_bench_index_reports_every_step_and_its_ratios(tmp_path: Path) -> None:
    out = tmp_path / "index.json"
    arguments = [
        "--items",
        "600",
        "--dim",
        "8",
        "--factory",
        "Flat",
        "--factory",
        "IVF8,Flat",
        "--nprobe",
        "8",
    ]
    done = CliRunner().invoke(
        app, ["index", *arguments, "--rounds", "1", "--seconds", "0.002", "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text("utf-8"))
    assert len(report["results"]) == 2 * 2 * 3 * 3  # factories, threads, batches, searches
    assert {row["ann_recall"] for row in report["results"]} == {1.0}  # all 8 lists are probed
    ratios, rows = report["ratios"], report["results"]
    figures = {(r["factory"], r["threads"], r["batch"], r["search"]): r for r in rows}
    ours, bare = figures["Flat", 1, 64, "excluding"], figures["Flat", 1, 64, "bare"]
    assert ratios["batch64_throughput"] == ours["throughput"] / bare["throughput"]
    assert ratios["IVF8,Flat/ann_recall_ours"] == ratios["IVF8,Flat/ann_recall_bare"] == 1.0
    added = figures["Flat", 1, 1, "excluding"]["p50_ms"] - figures["Flat", 1, 1, "bare"]["p50_ms"]
    assert ratios["batch1_added_us"] == pytest.approx(1e3 * added)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_ratios_are_ours_over_bare_with_short_names_of_the_extremes() -> None:
    results = [
        {"kind": "user_id", "concurrency": c, "server": who, "throughput": rate, "p50_ms": p50}
        for c, who, rate, p50 in (
            (1, "triptych", 100.0, 9.0),
            (1, "bare", 400.0, 2.0),
            (16, "triptych", 300.0, 50.0),
            (16, "bare", 1200.0, 10.0),
        )
    ]
    assert bench_serve.ratios(results) == {
        "throughput": 0.25,
        "p50_added_ms": 7.0,
        "user_id/c1/throughput": 0.25,
        "user_id/c1/p50_added_ms": 7.0,
        "user_id/c16/throughput": 0.25,
        "user_id/c16/p50_added_ms": 40.0,
    }


def test_load_counts_by_hand() -> None:
    load = Load(2.0, np.array([1.0, 2.0, 3.0, 4.0]))
    assert load.throughput == 2.0
    assert load.percentile(50) == 2.5


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:50051", "[::1]:50051", "127.8.8.8:1"])
def test_loopback_addresses_may_be_loaded(address: str) -> None:
    check_loopback(address)


@pytest.mark.parametrize("address", ["192.0.2.1:50051", "example.org:50051", "0.0.0.0:50051", "50051"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(NotLoopbackError, match="loopback"):
        check_loopback(address)


def test_work_asks_each_kind_about_users_of_the_export(home: Home) -> None:
    with Export.latest(home.exports) as export:
        users = set(export.users().to_pylist())
        work = {one.kind: one for one in make_work(export, 4, ServeOptions(k=7))}
    stored = [pb.QueryRequest.FromString(request) for request in work["user_id"].requests]
    assert {request.user_id for request in stored} <= users
    batches = [pb.QueryBatchRequest.FromString(request) for request in work[BATCH].requests]
    assert [one.user_id for batch in batches for one in batch.requests] == [one.user_id for one in stored]
    assert {len(batch.requests) for batch in batches} == {16}
    inline = [pb.QueryRequest.FromString(request) for request in work["views"].requests]
    assert any(one.views.events and one.views.texts and one.views.friends for one in inline)
    assert max(len(one.views.events) for one in inline) <= 50
    vectors = [pb.QueryRequest.FromString(request) for request in work["vector"].requests]
    assert {(len(one.vector.values), one.k) for one in vectors} == {(4, 7)}


def test_an_export_without_users_gives_nobody_to_ask_for(tmp_path: Path) -> None:
    with Store.open(tmp_path / "views.duckdb") as store:
        create_export(store, tmp_path / "exports")
    with Export.latest(tmp_path / "exports") as export, pytest.raises(NobodyToAskForError, match="no user"):
        make_work(export, 4, ServeOptions())


def test_clients_measure_a_bare_server_and_stop_at_the_bound(tmp_path: Path) -> None:
    replies = {"user_id": pb.QueryResponse(item_ids=["a"]), BATCH: pb.QueryBatchResponse()}
    asked = Work("user_id", (pb.QueryRequest(user_id="u").SerializeToString(),))
    batch = Work(BATCH, (pb.QueryBatchRequest().SerializeToString(),), batched=True)
    made = {kind: reply.SerializeToString() for kind, reply in replies.items()}
    with bench_serve.bare_server(tmp_path, made, workers=2) as address, Clients() as clients:
        load = clients.measure(address, asked, 3, Bounds(30.0, 60))
        assert len(load.latencies) == 60  # 3 lanes, 20 each
        assert 0 < load.latencies.max() <= 1e3 * load.seconds
        assert len(clients.measure(address, batch, 1, Bounds(30.0, 7)).latencies) == 7
        unknown = Work("text", (pb.QueryRequest(text="x").SerializeToString(),))
        with pytest.raises(CallFailedError, match=address):
            clients.measure(address, unknown, 1, Bounds(1.0, 5))


def test_the_bare_server_answers_each_kind_with_its_reply(tmp_path: Path) -> None:
    (tmp_path / "vector.bin").write_bytes(pb.QueryResponse(query_id="v").SerializeToString())
    bare = BareServicer(tmp_path)
    asked = pb.QueryRequest(vector=pb.Vector(values=[1.0]))
    assert bare.Query(asked, None).query_id == "v"  # type: ignore[arg-type]


def test_an_address_needs_a_home_to_take_users_from() -> None:
    assert CliRunner().invoke(app, ["serve", "--address", "127.0.0.1:1"]).exit_code == 2


def test_a_failing_command_says_why(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match="no Triptych home") as caught:
        run("export", "--home", str(tmp_path / "none"))
    assert caught.value.code == 1


def test_a_server_that_ends_early_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(CommandFailedError, match="boom"),
        process(["sh", "-c", "echo boom >&2; exit 3"], tmp_path / "never.json"),
    ):
        pass


def test_import_rounds_find_all_or_nothing(tmp_path: Path) -> None:
    out = tmp_path / "faults.json"
    arguments = ["--rounds", "1", "--stage", "import", "--home", str(tmp_path / "f"), "--json", str(out)]
    done = CliRunner().invoke(app, ["faults", *arguments])
    assert done.exit_code == 0, done.output
    counts = json.loads(out.read_text("utf-8"))["stages"]["import"]
    assert {name: counts[name] for name in ("tried", "lost", "mixed", "failed")} == {
        "tried": 1,
        "lost": 0,
        "mixed": 0,
        "failed": 0,
    }
    assert (
        json.loads((tmp_path / "f/home/reports/faults.json").read_text("utf-8"))["stages"]["import"] == counts
    )
    with pytest.raises(NotEmptyError, match="new folder"):
        bench_faults.run_faults(tmp_path / "f", 1, 0)


def test_damage_is_found(home: Home) -> None:
    rows, before = rows_of_store(home), Left.of(home)
    assert left_over(home, before, [rows]) == (False, False)
    fewer = rows | {"items": rows["items"].slice(1)}
    assert left_over(home, before, [fewer]) == (False, True)  # more rows than either state has
    more = rows | {"items": type(rows["items"]).from_pylist([*rows["items"].to_pylist(), {"item_id": "x"}])}
    assert left_over(home, before, [more]) == (True, True)
    gone = Left({**before.ids, home.exports: frozenset({"e", *before.ids[home.exports]})}, before.pointers)
    assert left_over(home, gone, [rows]) == (True, False)
    point(home.current_index, "nothing")
    try:
        assert left_over(home, before, [rows]) == (False, True)
    finally:
        home.current_index.unlink()
    half = home.exports / "half"
    half.mkdir()
    try:
        assert left_over(home, before, [rows]) == (False, True)
    finally:
        half.rmdir()


def test_a_command_that_writes_nothing_has_no_moment_to_kill_it_at(tmp_path: Path) -> None:
    stage = Stage("export", Home(tmp_path), ["true"], ["true"], (tmp_path / "exports",))
    with pytest.raises(TooFastError, match="exports"):
        bench_faults._moments(stage)


def test_a_kill_hits_what_still_runs_and_nothing_else(tmp_path: Path) -> None:
    sleeping = Stage("train", Home(tmp_path), ["sleep", "60"], ["true"], (tmp_path,))
    assert bench_faults._kill(sleeping, random.Random(0).uniform(0.0, 0.1), aimed=False)
    writing = Stage(
        "train", Home(tmp_path), ["sh", "-c", f"touch {tmp_path}/x; sleep 60"], ["true"], (tmp_path,)
    )
    assert bench_faults._kill(writing, 0.0, aimed=True)
    assert (tmp_path / "x").exists()
    ended = Stage("train", Home(tmp_path), ["true"], ["true"], (tmp_path,))
    assert not bench_faults._kill(ended, 5.0, aimed=False)


def test_json_and_plot_are_written(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"results": [1]})
    assert json.loads((tmp_path / "deep" / "a.json").read_text("utf-8")) == {"results": [1]}
    rows = [{"c": 1, "who": "a", "rate": 5.0}, {"c": 4, "who": "a", "rate": 9.0}]
    plot(tmp_path / "a.png", rows, "c", ("who",), {"rate": "per second"})
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
