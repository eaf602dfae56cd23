"""triptych bench engines: the command line and its tables."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.terminal import JsonOption, write_json


class EngineName(StrEnum):
    """What `--engine` takes."""

    VALKEY = "valkey"
    MILVUS = "milvus"
    BOTH = "valkey+milvus"


def engines_command(
    home_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the synthetic home; copies are served.")
    ] = None,
    items: Annotated[int, typer.Option(min=150, help="Of the synthetic home.")] = 100_000,
    users: Annotated[int, typer.Option(min=200, help="Of the synthetic home.")] = 50_000,
    dim: Annotated[int, typer.Option(min=2, help="Embedding dim of the synthetic home.")] = 128,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="Items wanted.")] = 50,
    engine: Annotated[
        list[EngineName] | None,
        typer.Option(
            help="Beside what is embedded; repeatable, and one that is named has to start. "
            "Default: all that do."
        ),
    ] = None,
    state_url: Annotated[
        str,
        typer.Option(
            help="A Valkey or Redis cluster that runs, which asks for no password, and a name that no home "
            "has there, such as valkey://host:6379/bench. Default: three nodes are started."
        ),
    ] = "",
    milvus_url: Annotated[
        str,
        typer.Option(
            help="URI of a Milvus that runs. Default: that of the wheel milvus is started, else milvus-lite."
        ),
    ] = "",
    callers: Annotated[
        list[int] | None, typer.Option(min=1, help="At once; repeatable; default: 1 and 16.")
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help="Processes of callers.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over these.")] = 5,
    seconds: Annotated[
        float, typer.Option(min=0.05, help="Per measurement; three times as long at a rate.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the home, of whom to ask for, and when.")] = 0,
    plot_path: Annotated[
        Path | None, typer.Option("--plot", help="Where to draw throughput and p99 by callers.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Ask for stored users with the engines past one machine, beside what is embedded, by turns.

    embedded: users in LMDB and FAISS in the process. valkey: a read replica, whose users lie in a Valkey
    cluster. milvus: candidates from Milvus. valkey+milvus: both. Users are of two kinds: stored, whose
    vectors a server keeps, and uncached, each asked for once. Calls at a rate come at half of the embedded
    peak, or of the engine's own where it cannot keep up, and latencies count from when they were due.
    Processor time of an engine, and its bytes, are told where it can be asked; one that does not start is
    told with the reason. recall is the share of the exact answers.

    Example: triptych bench engines --home-cache ~/.cache/bench --json engines.json --plot engines.png
    """
    from scripts.bench.engines.measure import KINDS, EngineBenchOptions, measure_engines
    from scripts.bench.engines.setups import PEERS, EngineAddresses
    from scripts.bench.large_home import HomeSizes, large_home
    from scripts.bench.serve.work import make_work
    from store.export import Export

    options = EngineBenchOptions(
        rounds=rounds, seconds=seconds, callers=tuple(callers or (1, 16)), k=k, clients=clients, seed=seed
    )
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        kept = large_home(home_cache or Path(name) / "large", HomeSizes(items, users, dim, seed))
        with Export.latest(kept.exports) as export:
            people = export.users().to_pylist()
            work = make_work(export, dim, KINDS, k=k, seed=seed)
        report = measure_engines(
            kept,
            work,
            people,
            Path(name),
            options,
            EngineAddresses(state_url, milvus_url),
            tuple(one.value for one in engine) if engine else PEERS,
            required=bool(engine),
        )
    print_engines(report)
    if json_path is not None:
        write_json(json_path, report)
    if plot_path is not None:
        plot_engines(report, plot_path)


def print_engines(report: dict[str, Any]) -> None:
    """Print the tables of a report."""
    from scripts.bench.output import print_ratios, print_rows

    print_rows("engines", report["engines"])
    closed = [row for row in report["results"] if row["callers"]]
    print_rows("callers that wait for their answers", [_short(row, "callers") for row in closed])
    opened = [row for row in report["results"] if not row["callers"]]
    print_rows("calls at a rate", [_short(row, "rate") for row in opened])
    print_rows("over what is embedded", report["beside"])
    print_ratios(report["ratios"])


def _short(row: dict[str, Any], load: str) -> dict[str, Any]:
    """Return the columns of a row that a terminal has room for."""
    return {
        "kind": row["kind"],
        "engine": row["engine"],
        load: row[load],
        "per s": row["throughput"],
        "p50 ms": row["p50_ms"],
        "p99 ms": row["p99_ms"],
        "server CPU ms": row["server_cpu_ms_per_query"],
        "engine CPU ms": row["engine_cpu_ms_per_query"],
        "engine bytes": row["engine_bytes_per_query"],
        "calls": row["calls"],
        "failed": row["failed"],
    }


def plot_engines(report: dict[str, Any], path: Path) -> None:
    """Draw throughput and p99 of closed loops by callers, a line for each kind and engine."""
    from scripts.bench.output import plot

    rows = [row for row in report["results"] if row["callers"] and row["calls"]]
    panels = {"throughput": "calls per second", "p99_ms": "p99, ms"}
    plot(path, rows, "callers", ("kind", "engine"), panels)
