"""triptych bench ingest: durable writes, and how soon queries see them."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from scripts.home_access import JsonOption


def ingest_bench(
    users: Annotated[int, typer.Option(min=200, help="Of the synthetic world.")] = 500,
    items: Annotated[int, typer.Option(min=150, help="Of the synthetic world.")] = 400,
    dim: Annotated[int, typer.Option(min=2, help="Embedding dim on the synthetic world.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.2, help="Per measurement.")] = 5.0,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Behaviours per request.")] = 500,
    rate: Annotated[float, typer.Option(min=1, help="Behaviours per second beside queries.")] = 5_200.0,
    seed: Annotated[int, typer.Option(help="Of the world and of the writes.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Measure durable writes, how soon queries see them, and queries at half load beside writes.

    Latencies of paced calls count from when they were due. It starts a server of its own on synthetic data.

    Example: triptych bench ingest --json ingest.json
    """
    from scripts.bench.ingest import IngestOptions, measure
    from scripts.bench.output import show, show_ratios, write_json
    from scripts.bench.small_home import make_home, server
    from store.export import Export

    options = IngestOptions(seconds=seconds, size=batch, rate=rate, seed=seed)
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        home = make_home(Path(name), users=users, items=items, dim=dim, seed=seed)
        with Export.latest(home.exports) as export:
            people = export.users().to_pylist()
            things = export.items(available_only=True).column("item_id").to_pylist()
        with server(home) as address:
            report = measure(address, people, things, options)
    show("bench ingest", report["results"])
    show_ratios(report["ratios"])
    if json_path is not None:
        write_json(json_path, report)
