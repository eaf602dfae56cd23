"""triptych bench serve: the command line, its tables and its plot."""

import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.home_access import existing_home
from scripts.terminal import JsonOption, write_json


class KindName(StrEnum):
    """What `--kind` takes."""

    STORED = "stored"
    UNCACHED = "uncached"
    BATCH = "batch"
    VIEWS = "views"
    VECTOR = "vector"
    FILTERED = "filtered"


def serve_command(
    address: Annotated[
        str | None, typer.Option(help="A running server on this machine; default: its own one.")
    ] = None,
    users_from: Annotated[
        Path | None,
        typer.Option(help="A home whose newest export says whom to ask for; alone: start a server on it."),
    ] = None,
    home_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the synthetic home for the next run.")
    ] = None,
    items: Annotated[int, typer.Option(min=150, help="Of the synthetic home.")] = 100_000,
    users: Annotated[int, typer.Option(min=200, help="Of the synthetic home.")] = 50_000,
    dim: Annotated[int, typer.Option(min=2, help="Embedding dim of the synthetic home.")] = 128,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="Items wanted.")] = 50,
    processes: Annotated[
        int, typer.Option(min=1, help="Of our server, and as many of the empty method.")
    ] = 1,
    kind: Annotated[
        list[KindName] | None, typer.Option(help="Of requests; repeatable; default: all.")
    ] = None,
    callers: Annotated[
        list[int] | None, typer.Option(min=1, help="At once; repeatable; default: 1, 4 and 16.")
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help="Processes of callers.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over these.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=0.05, help="Per measurement; three times as long at a rate.")
    ] = 1.0,
    even: Annotated[
        bool, typer.Option("--even", help="Rates at equal distances, not as people come.")
    ] = False,
    h2load: Annotated[bool, typer.Option("--h2load", help="Also measure throughput by h2load.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small home and one short round, to see that it works.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the home, of whom to ask for and of when.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Measure queries beside an empty gRPC method with replies of the same size, in the same run.

    The two take turns. First as fast as answers come: stored users by a skewed law (asked once before), users
    never asked before, batches of 16, inline views, raw vectors, a filter. Then stored users at a quarter,
    half and three quarters of what each server answered at most, with latencies from when calls were due.
    Calls come from processes of their own; processor time of servers and clients is told apart. A PNG goes
    beside the JSON. A server given by --address has been asked before, if this was run on it before; where it
    wants a token, TRIPTYCH_TOKEN holds one.

    Example: triptych bench serve --home-cache ~/.cache/bench --json serve.json
    """
    from scripts.bench.large_home import HomeSizes, large_home
    from scripts.bench.serve.bare_search import SEARCHED, bare_search_ms, query_vectors
    from scripts.bench.serve.h2load import check_h2load
    from scripts.bench.serve.measure import ServeOptions, measure_serving
    from scripts.bench.serve.servers import check_loopback, own_server, running_server
    from scripts.bench.serve.work import KINDS, make_work
    from store.artifact import read_manifest, read_pointer
    from store.export import Export

    if address is not None:
        check_loopback(address)
        if users_from is None:
            raise typer.BadParameter("--address needs --users-from, its home")
    if h2load:
        check_h2load()
    options = ServeOptions(
        kinds=tuple(one.value for one in kind) if kind else KINDS,
        callers=tuple(callers or (1, 4, 16)),
        rounds=rounds,
        seconds=seconds,
        even=even,
        k=k,
        clients=clients,
        processes=processes,
        h2load=h2load,
        seed=seed,
    )
    sizes = HomeSizes(items, users, dim, seed)
    if quick:
        options = replace(options, callers=(1, 16), rounds=1, seconds=min(seconds, 0.2), warm_up=64)
        sizes = HomeSizes(1000, 500, 16, seed)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        folder = Path(name)
        if users_from is not None:
            home = existing_home(users_from)
        else:
            home = large_home(home_cache or folder / "large", sizes)
        with Export.latest(home.exports) as export:
            width = read_manifest(read_pointer(home.current_index, home.indexes))["dim"]
            people = export.users()[:SEARCHED].to_pylist()
            work = make_work(export, width, options.kinds, k=k, seed=seed)

        def server(count: int) -> AbstractContextManager[Any]:
            if address is not None:
                return nullcontext(running_server(address, home))
            return own_server(home, options.workers, count)

        (folder / "empty").mkdir()
        report = measure_serving(
            server,
            work,
            folder / "empty",
            options,
            scaling=address is None,
            search_ms=lambda where: bare_search_ms(home, query_vectors(where, people), k, rounds),
        )
    print_report(report)
    if json_path is not None:
        write_json(json_path, report)
        plot_report(report, json_path.with_suffix(".png"))


def overload_command(
    home_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the synthetic home for the next run.")
    ] = None,
    items: Annotated[int, typer.Option(min=150, help="Of the synthetic home.")] = 100_000,
    users: Annotated[int, typer.Option(min=200, help="Of the synthetic home.")] = 50_000,
    dim: Annotated[int, typer.Option(min=2, help="Embedding dim of the synthetic home.")] = 128,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="Items wanted.")] = 50,
    processes: Annotated[int, typer.Option(min=1, help="Of the server.")] = 1,
    callers: Annotated[int, typer.Option(min=1, help="That wait for their answers.")] = 80,
    factor: Annotated[float, typer.Option(min=1, help="Of the peak, at which calls come.")] = 1.5,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each of the two loads.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the home and of whom to ask for.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Ask a server for more than it can answer: what it answers, how soon, and whether health does.

    First many callers that wait for their answers, then calls at a multiple of the peak, whether or not they
    are answered. What cannot be answered is refused at once, with RESOURCE_EXHAUSTED.

    Example: triptych bench overload --home-cache ~/.cache/bench --seconds 60 --json overload.json
    """
    from scripts.bench.large_home import HomeSizes, large_home
    from scripts.bench.output import print_rows
    from scripts.bench.serve.overload import OverloadOptions, measure_overload
    from scripts.bench.serve.servers import own_server
    from scripts.bench.serve.work import STORED, make_work
    from store.export import Export

    connections = 4 if processes > 1 else 1
    options = OverloadOptions(callers, factor, seconds, connections=connections)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        home = large_home(home_cache or Path(name) / "large", HomeSizes(items, users, dim, seed))
        with Export.latest(home.exports) as export:
            (work,) = make_work(export, dim, [STORED], k=k, seed=seed)
        with own_server(home, 8, processes) as server:
            report = measure_overload(server, work, options)
    print_rows(f"beside a peak of {report['peak']:.0f} a second", report["results"])
    if json_path is not None:
        write_json(json_path, report)


def soak_command(
    home_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the synthetic home; a copy is written to.")
    ] = None,
    items: Annotated[int, typer.Option(min=150, help="Of the synthetic home.")] = 100_000,
    users: Annotated[int, typer.Option(min=200, help="Of the synthetic home.")] = 50_000,
    dim: Annotated[int, typer.Option(min=2, help="Embedding dim of the synthetic home.")] = 128,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="Items wanted.")] = 50,
    processes: Annotated[int, typer.Option(min=1, help="Of the server.")] = 1,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Of the peak, at which queries come.")] = 0.5,
    seconds: Annotated[float, typer.Option(min=5, help="In all.")] = 1_800.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the home and of whom to ask for.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Ask and write for long: errors, latencies, and what becomes of the memory of the server's processes.

    Queries come at half of the peak; behaviours, texts and items are written five times a second. Memory is
    what no other process shares; its growth is from the end of the first fifth of the time.

    Example: triptych bench soak --home-cache ~/.cache/bench --seconds 1800 --json soak.json
    """
    import shutil

    from scripts.bench.large_home import HomeSizes, large_home
    from scripts.bench.output import print_rows
    from scripts.bench.serve.servers import own_server
    from scripts.bench.serve.soak import SoakOptions, measure_soak
    from scripts.bench.serve.work import STORED, make_work
    from store.export import Export
    from store.home import Home

    options = SoakOptions(seconds, share, connections=4 if processes > 1 else 1)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        kept = large_home(home_cache or Path(name) / "large", HomeSizes(items, users, dim, seed))
        home = Home(Path(name) / "home")
        shutil.copytree(kept.path, home.path)
        with Export.latest(home.exports) as export:
            (work,) = make_work(export, dim, [STORED], k=k, seed=seed)
            item_ids = export.items(columns=["item_id"]).column("item_id").to_pylist()
        with own_server(home, 8, processes) as server:
            report = measure_soak(server, work, item_ids, options)
    shown = {name: value for name, value in report.items() if name != "memory_mib"}
    print_rows("soak", [{"what": name, "value": value} for name, value in shown.items()])
    if json_path is not None:
        write_json(json_path, report)


def overhead_command(
    home_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the synthetic home for the next run.")
    ] = None,
    items: Annotated[int, typer.Option(min=150, help="Of the synthetic home.")] = 100_000,
    users: Annotated[int, typer.Option(min=200, help="Of the synthetic home.")] = 50_000,
    dim: Annotated[int, typer.Option(min=2, help="Embedding dim of the synthetic home.")] = 128,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="Items wanted.")] = 50,
    callers: Annotated[int, typer.Option(min=1, help="That wait for their answers.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over these.")] = 15,
    seconds: Annotated[float, typer.Option(min=0.05, help="Per measurement.")] = 1.0,
    collector: Annotated[str, typer.Option(help="Of traces, host:port; default: no traces.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the home and of whom to ask for.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Ask a plain server and one with tokens, metrics, JSON logs and traces by turns, for stored users.

    A third server is plain, too: how far its figures are from the first one's is what such a comparison
    cannot tell apart.

    Example: triptych bench overhead --home-cache ~/.cache/bench --json overhead.json
    """
    from scripts.bench.large_home import HomeSizes, large_home
    from scripts.bench.output import print_rows
    from scripts.bench.serve.overhead import OverheadOptions, measure_overhead
    from scripts.bench.serve.work import STORED, make_work
    from store.export import Export

    options = OverheadOptions(rounds, seconds, callers, collector=collector)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        home = large_home(home_cache or Path(name) / "large", HomeSizes(items, users, dim, seed))
        with Export.latest(home.exports) as export:
            (work,) = make_work(export, dim, [STORED], k=k, seed=seed)
        report = measure_overhead(home, work, Path(name), options)
    print_rows("bench overhead", report["results"])
    if json_path is not None:
        write_json(json_path, report)


def gateway_bench_command(
    home_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the synthetic home for the next run.")
    ] = None,
    items: Annotated[int, typer.Option(min=150, help="Of the synthetic home.")] = 100_000,
    users: Annotated[int, typer.Option(min=200, help="Of the synthetic home.")] = 50_000,
    dim: Annotated[int, typer.Option(min=2, help="Embedding dim of the synthetic home.")] = 128,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="Items wanted.")] = 50,
    processes: Annotated[int, typer.Option(min=1, help="Of the server.")] = 1,
    callers: Annotated[int, typer.Option(min=1, help="That wait for their answers, beside one alone.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over these.")] = 9,
    seconds: Annotated[float, typer.Option(min=0.05, help="Per measurement.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the home and of whom to ask for.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Ask a server directly, through a bare Envoy and through the gateway by turns, for stored users.

    Example: triptych bench gateway --home-cache ~/.cache/bench --json gateway.json
    """
    from scripts.bench.gateway import GatewayBenchOptions, measure_gateway
    from scripts.bench.large_home import HomeSizes, large_home
    from scripts.bench.output import print_rows
    from scripts.bench.serve.work import STORED, make_work
    from store.export import Export

    options = GatewayBenchOptions(rounds, seconds, callers, processes)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        home = large_home(home_cache or Path(name) / "large", HomeSizes(items, users, dim, seed))
        with Export.latest(home.exports) as export:
            (work,) = make_work(export, dim, [STORED], k=k, seed=seed)
        report = measure_gateway(home, work, Path(name), options)
    print_rows("bench gateway", report["results"])
    if json_path is not None:
        write_json(json_path, report)


def print_report(report: dict[str, Any]) -> None:
    """Print the tables of a report."""
    from scripts.bench.output import print_ratios, print_rows

    closed = [row for row in report["results"] if row["callers"]]
    print_rows("callers that wait for their answers", [_short(row, "callers") for row in closed])
    opened = [row for row in report["results"] if row["share_of_peak"]]
    print_rows("calls at a rate", [_short(row, "share_of_peak") for row in opened])
    print_rows("ours over the empty method", report["beside"])
    if report["cost"]:
        print_rows("a query and its parts, p50 of one caller", [report["cost"]])
    if report["scaling"]:
        print_rows("all processes over one, 16 callers of each", [report["scaling"]])
    if report["scaling_by_h2load"]:
        print_rows("the same by h2load, one stored user", [report["scaling_by_h2load"]])
    if report["h2load"]:
        print_rows("by h2load", report["h2load"])
    print_ratios(report["ratios"])


def _short(row: dict[str, Any], load: str) -> dict[str, Any]:
    """Return the columns of a row that a terminal has room for."""
    return {
        "kind": row["kind"],
        "server": row["server"],
        "processes": row["processes"],
        load: row[load],
        "per s": row["throughput"],
        "p50 ms": row["p50_ms"],
        "p99 ms": row["p99_ms"],
        "server CPU ms": row["server_cpu_ms_per_query"],
        "client CPU ms": row["client_cpu_ms_per_query"],
        "failed": row["failed"],
    }


def plot_report(report: dict[str, Any], path: Path) -> None:
    """Draw throughput by callers, and latency by rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    by_callers, by_rate = figure.subplots(1, 2)
    lines: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in report["results"]:
        if row["callers"]:
            lines.setdefault((row["kind"], row["server"], row["processes"]), []).append(row)
    for (kind, server, processes), rows in lines.items():
        style = "-" if server == "triptych" else ":"
        by_callers.plot(
            [row["callers"] for row in rows],
            [row["throughput"] for row in rows],
            style,
            marker="o",
            label=f"{kind}, {server}, {processes} process(es)",
        )
    by_callers.set(xlabel="callers", ylabel="calls per second", xscale="log", yscale="log")
    by_callers.legend(fontsize="x-small")
    for server in ("triptych", "empty"):
        rows = [row for row in report["results"] if row["share_of_peak"] and row["server"] == server]
        for column, style in (("p50_ms", "-"), ("p99_ms", "--")):
            rates, values = [row["throughput"] for row in rows], [row[column] for row in rows]
            by_rate.plot(rates, values, style, marker="o", label=f"{server}, {column.removesuffix('_ms')}")
    by_rate.set(xlabel="calls per second, at a rate", ylabel="ms from when a call was due", yscale="log")
    by_rate.legend(fontsize="x-small")
    for axes in (by_callers, by_rate):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
