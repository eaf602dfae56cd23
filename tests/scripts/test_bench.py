"""Benchmarks on small sizes: what they count and compare, never how fast anything is."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from indexer.building.factory import FactoryError
from indexer.filters.filter import Filter
from indexer.index import Index
from indexer.search import Exclusions, bits_of
from scripts.bench.command import app
from scripts.bench.faults import commands as bench_kills
from scripts.bench.faults.commands import Stage, TooFastError
from scripts.bench.faults.home_checks import Listing, harm_after_kill, rows_of_store
from scripts.bench.faults.run import FaultOptions, NotEmptyError, run_faults
from scripts.bench.index.bare import BareFaiss, graph_libraries
from scripts.bench.index.compare import engine_ratios
from scripts.bench.index.engines import LanceEngine, QdrantEngine
from scripts.bench.index.filtered import ENGINE_SHARES, OURS, engine_figures, near_of
from scripts.bench.index.searches import BESIDE, SearchComparison, search_ours
from scripts.bench.index.synthetic import (
    NEAR,
    RANDOM,
    Synthetic,
    build_index,
    build_index_apart,
    centre_of,
    random_of,
    write_index,
)
from scripts.bench.index.timing import Times, ann_recall, beside, figures, time_by_turns
from scripts.bench.output import plot
from scripts.bench.small_home import CommandFailedError, process, run
from scripts.terminal import write_json
from scripts.world.world import make_world
from store.artifact import set_pointer
from store.export import create_export
from store.home import Home
from store.store import Store


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
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Synthetic]:
    """An index that the benchmark built, and the world that it is of."""
    world = Synthetic(2_000, 16)
    return build_index(tmp_path_factory.mktemp("built"), world, "IVF16,SQ8", 0.99).directory, world


def test_a_world_is_the_same_twice_and_its_draws_differ() -> None:
    world, again = Synthetic(70_000, 4, seed=3), Synthetic(70_000, 4, seed=3)
    first, second = (np.concatenate(list(one.chunks())) for one in (world, again))
    assert first.shape == (70_000, 4)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    users, others = world.users(5), world.users(5, draw=1)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), 1, rtol=1e-5)
    assert not (users == others).any()
    assert (first[:65_536][:10] != first[65_536:][:10]).any()  # chunks differ too


def test_what_is_built_apart_says_what_it_took(tmp_path: Path) -> None:
    built = build_index_apart(tmp_path, Synthetic(300, 8), "Flat", 0.99)
    index = Index.load(built.directory)
    assert len(index) == 300
    assert built.seconds > 0
    assert built.peak_mib > 20  # a Python with numpy and FAISS
    assert built.faiss_mib == 0
    assert (
        len(index.search(index.main.vectors[:1], 300, None, Filter(equals=(("half", (True,)),)))[0][0]) == 300
    )


def test_ours_gives_the_ids_of_each_query_apart(built: tuple[Path, Synthetic]) -> None:
    index = Index.load(built[0])
    everything_but_two = np.setdiff1d(np.arange(2_000), [7, 9])
    out = Exclusions(np.ones(len(everything_but_two), np.int64), everything_but_two)
    ids, scores = search_ours(index, index.main.vectors[[5, 7, 5]], 3, out)
    assert ids[0] == ids[2]
    assert ids[0][0] == "item-000000005"
    assert ids[1] == ["item-000000007", "item-000000009"]
    assert np.isneginf(scores[1, 2])
    assert search_ours(index, index.main.vectors[5:6], 3)[0] == [ids[0]]


def test_bare_faiss_searches_all_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.building.shards.SHARD_ITEMS", 512)
    world = Synthetic(2_000, 16)
    vectors = np.concatenate(list(world.chunks()))
    index = write_index(tmp_path, vectors, "IVF4,SQ8", world.users(64))
    contest = SearchComparison(
        tmp_path / index.index_id, world, world.users(64, draw=1), k=10, excluded=5, changes=40
    )
    recalls = contest.recalls()
    assert recalls.keys() == {"plain", "usual", "bare", "bare_more"}
    assert min(recalls.values()) > 0.95


def test_ours_and_bare_do_the_same_work(built: tuple[Path, Synthetic]) -> None:
    directory, world = built
    contest = SearchComparison(directory, world, world.users(64, draw=1), k=10, excluded=5, changes=40)
    recalls = contest.recalls()
    assert recalls["plain"] == pytest.approx(recalls["bare"], abs=0.01)
    assert min(recalls.values()) > 0.95
    searches = contest.searches(16)
    assert BESIDE.keys() | set(BESIDE.values()) == searches.keys()
    assert {len(search(3)) for name, search in searches.items() if name in BESIDE.values()} == {16}
    ids, scores = searches["everything"](3)
    assert {len(found) for found in ids} == {10}
    assert scores.shape == (16, 10)


@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQ8", "PCA4,IVF4,Flat", "HNSW16"])
def test_bare_faiss_finds_what_brute_force_finds_with_and_without_a_filter(
    tmp_path: Path, factory: str
) -> None:
    vectors = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32)
    index = write_index(tmp_path, vectors, factory, vectors[:64])
    bare, half = BareFaiss(index, tmp_path / index.index_id), np.arange(0, 500, 2)
    for allowed, bits in ((np.arange(500), None), (half, bits_of(half, 500))):
        exact = allowed[np.argsort(-(vectors[:9] @ vectors[allowed].T), axis=1)[:, :10]]
        found = bare.find(vectors[:9], 10, 500, bits)
        assert np.mean([len(np.intersect1d(f, e)) / 10 for f, e in zip(found, exact, strict=True)]) > 0.9


@pytest.mark.parametrize("package", ["hnswlib", "usearch"])
def test_other_libraries_find_what_brute_force_finds(package: str) -> None:
    pytest.importorskip(package)
    vectors = np.random.default_rng(0).standard_normal((300, 8), dtype=np.float32)
    (library,) = [one for one in graph_libraries(vectors) if one.name.startswith(package)]
    library.use_threads(1)
    found = library.find(vectors[:5], 4, 200)
    exact = np.argsort(-(vectors[:5] @ vectors.T), axis=1)[:, :4]
    assert np.mean([len(np.intersect1d(f, e)) / 4 for f, e in zip(found, exact, strict=True)]) > 0.9


@pytest.mark.parametrize(("package", "kind"), [("qdrant_edge", QdrantEngine), ("lancedb", LanceEngine)])
def test_other_engines_find_what_brute_force_finds_with_and_without_a_filter(
    tmp_path: Path, built: tuple[Path, Synthetic], package: str, kind: type[QdrantEngine | LanceEngine]
) -> None:
    pytest.importorskip(package)
    directory, world = built
    index = Index.load(directory, check=False)
    numbers = {RANDOM: random_of(world), NEAR: near_of(index, centre_of(world)).astype(np.float64)}
    engine = kind(tmp_path / package, index.main.vectors, numbers)
    rows = list(engine_figures(index, [engine], numbers, world.users(64, draw=1), 10, 0.95, 0.01))
    ours, theirs, as_exact = rows[::3], rows[1::3], rows[2::3]
    assert {row["engine"] for row in ours} == {OURS}
    assert {row["engine"] for row in (*theirs, *as_exact)} == {engine.name}
    assert [(row["share"], row["items"]) for row in theirs] == [
        *((share, items) for share in ENGINE_SHARES[:-1] for items in (RANDOM, NEAR)),
        (1.0, "all"),
    ]
    assert min(row["ann_recall"] for row in rows) >= 0.95
    for mine, other, equal in zip(ours, theirs, as_exact, strict=True):
        assert 0.2 < other["ours_over"] / (mine["p50_ms"] / other["p50_ms"]) < 5
        assert equal["effort"] >= other["effort"] or mine["ann_recall"] < other["ann_recall"]
        assert equal["ann_recall"] >= mine["ann_recall"] - 0.0005 or equal["effort"] == engine.efforts[-1]
    names = {f"filters/{row['share']:g}/{row['items']}/over_{engine.name.split()[0]}" for row in theirs}
    assert engine_ratios(rows).keys() == names | {f"{name}_at_our_recall" for name in names}


def test_searches_are_timed_by_turns() -> None:
    calls: list[tuple[str, int]] = []
    searches = {name: (lambda n, name=name: calls.append((name, n))) for name in "ab"}
    times = time_by_turns(searches, batches=3, seconds=0.01)
    turns = calls[2:]  # the first two are not counted
    assert len(times["a"].wall) == len(times["b"].cpu) == len(turns) // 2
    for turn in range(len(turns) // 2):
        assert sorted(turns[2 * turn : 2 * turn + 2]) == [("a", turn % 3), ("b", turn % 3)]


def test_figures_by_hand() -> None:
    ours = Times(np.array([0.2, 0.4, 0.4]), np.array([0.1, 0.1, 0.2]))
    bare = Times(np.array([0.1, 0.2, 0.4]), np.array([0.1, 0.05, 0.1]))
    assert figures(ours, 64)["throughput"] == 160
    assert figures(ours, 64)["p50_ms"] == 400
    assert beside(ours, bare) == pytest.approx({"over_bare": 0.5, "cpu_over_bare": 0.5, "added_us": 1e5})
    exact = np.array([[1, 2], [3, -1], [-1, -1]]), np.zeros((3, 2), np.float32)
    assert ann_recall(np.array([[2, 9], [3, -1], [-1, -1]]), exact) == 0.75


def test_bench_index_reports_every_setting_and_its_ratios(tmp_path: Path) -> None:
    out, drawn = tmp_path / "index.json", tmp_path / "index.png"
    sizes = [
        "--items",
        "2500",
        "--dim",
        "8",
        "--changes",
        "10",
        "--seconds",
        "0.002",
        "--filters",
        "--no-libraries",
    ]
    factories = [word for name in ("Flat", "IVF8,Flat", "PQ1x2") for word in ("--factory", name)]
    done = CliRunner().invoke(
        app,
        [
            "index",
            *sizes,
            *factories,
            "--filters",
            "--no-libraries",
            "--json",
            str(out),
            "--plot",
            str(drawn),
        ],
    )
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text("utf-8"))
    assert [build["became"] for build in report["builds"]] == ["Flat", "IVF8,Flat", "Flat"]  # PQ1x2 misses
    rows = {(r["factory"], r["threads"], r["batch"], r["search"]): r for r in report["results"]}
    assert len(rows) == len(report["results"]) == 2 * 2 * 3 * 6  # factories, threads, batches, searches
    ratios = report["ratios"]
    assert ratios["batch64_throughput"] == rows["Flat", 1, 64, "everything"]["cpu_over_bare"]
    assert ratios["batch1_added_us_usual"] == rows["Flat", 1, 1, "usual"]["added_us"]
    assert ratios["IVF8,Flat/t2/batch16_throughput_plain"] == rows["IVF8,Flat", 2, 16, "plain"]["over_bare"]
    assert ratios["Flat/ann_recall_everything"] == ratios["Flat/ann_recall_bare"] == 1.0
    assert ratios["IVF8,Flat/ann_recall_plain"] >= 0.95
    assert {point["library"] for point in report["curves"]} == {"faiss", "triptych"}
    for row in report["filters"]:
        assert row["fewest"] == row["there_are"]
        assert row["ann_recall"] >= (0.99 if row["scan"] else 0.95)
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_bench_index_refuses_a_bad_factory_before_it_works() -> None:
    done = CliRunner().invoke(app, ["index", "--factory", "Flatt"])
    assert isinstance(done.exception, FactoryError)


def test_a_failing_command_says_why(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match="no Triptych home") as caught:
        run("export", "--home", str(tmp_path / "none"))
    assert caught.value.code == 1


def test_a_server_that_ends_early_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(CommandFailedError, match="ended with 3: boom"),
        process(["sh", "-c", "echo boom >&2; exit 3"], tmp_path / "never.json"),
    ):
        pass


def test_a_server_that_is_not_ready_in_time_is_reported_and_ended(tmp_path: Path) -> None:
    with (
        pytest.raises(CommandFailedError, match="is not ready in time: nothing on stderr") as caught,
        process(["sleep", "1000"], tmp_path / "never.json", seconds=0.0),
    ):
        pass
    assert caught.value.code is None


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
        run_faults(tmp_path / "f", FaultOptions(1))


def test_damage_is_found(home: Home) -> None:
    rows, before = rows_of_store(home), Listing.of(home)
    assert harm_after_kill(home, before, [rows]) == (False, False)
    fewer = rows | {"items": rows["items"].slice(1)}
    assert harm_after_kill(home, before, [fewer]) == (False, True)  # more rows than either state has
    more = rows | {"items": type(rows["items"]).from_pylist([*rows["items"].to_pylist(), {"item_id": "x"}])}
    assert harm_after_kill(home, before, [more]) == (True, True)
    gone = Listing({**before.ids, home.exports: frozenset({"e", *before.ids[home.exports]})}, before.pointers)
    assert harm_after_kill(home, gone, [rows]) == (True, False)
    set_pointer(home.current_index, "nothing")
    try:
        assert harm_after_kill(home, before, [rows]) == (False, True)
    finally:
        home.current_index.unlink()
    half = home.exports / "half"
    half.mkdir()
    try:
        assert harm_after_kill(home, before, [rows]) == (False, True)
    finally:
        half.rmdir()


def test_a_command_that_writes_nothing_has_no_moment_to_kill_it_at(tmp_path: Path) -> None:
    stage = Stage("export", Home(tmp_path), ["true"], ["true"], (tmp_path / "exports",))
    with pytest.raises(TooFastError, match="exports"):
        bench_kills._moments(stage)


def test_a_kill_hits_what_still_runs_and_nothing_else(tmp_path: Path) -> None:
    sleeping = Stage("train", Home(tmp_path), ["sleep", "60"], ["true"], (tmp_path,))
    assert bench_kills._kill(sleeping, random.Random(0).uniform(0.0, 0.1), aimed=False)
    writing = Stage(
        "train", Home(tmp_path), ["sh", "-c", f"touch {tmp_path}/x; sleep 60"], ["true"], (tmp_path,)
    )
    assert bench_kills._kill(writing, 0.0, aimed=True)
    assert (tmp_path / "x").exists()
    ended = Stage("train", Home(tmp_path), ["true"], ["true"], (tmp_path,))
    assert not bench_kills._kill(ended, 5.0, aimed=False)


def test_json_and_plot_are_written(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"results": [1]})
    assert json.loads((tmp_path / "deep" / "a.json").read_text("utf-8")) == {"results": [1]}
    rows = [{"c": 1, "who": "a", "rate": 5.0}, {"c": 4, "who": "a", "rate": 9.0}]
    plot(tmp_path / "a.png", rows, "c", ("who",), {"rate": "per second"})
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
