"""Threads or asyncio for the gRPC server: the same retriever behind each, by turns; for docs/decisions/0002.

Example: python -m scripts.compare_servers measure --home H --rounds 3 --json servers.json
"""

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import grpc
import grpc.aio
import typer
from tqdm import tqdm

from scripts.bench_bare import announce
from scripts.bench_load import Bounds, Clients, Load
from scripts.bench_output import show, write_json
from scripts.bench_serve import ServeOptions, make_work
from scripts.bench_world import address_in, process
from scripts.session import JsonOption
from server.config import MAX_MESSAGE_BYTES, ServerConfig
from server.pb.triptych.v1 import triptych_pb2 as pb
from server.replies import query_reply
from server.requests import query_of
from server.retriever import Retriever
from store.export import Export
from store.home import Home

VARIANTS = ("threads", "aio-inline", "aio-executor", "uvloop-inline", "uvloop-executor")
_LIMITS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]
_WORKERS = ServerConfig.workers
_SERVICE = "triptych.v1.Retrieval"

app = typer.Typer(add_completion=False)


@app.command("serve", hidden=True)
def serve_variant(variant: str, home: Path, announced: Path) -> None:
    """Serve Query of one variant on a free loopback port until SIGTERM."""
    with _retriever(Home(home)) as retriever:
        if variant == "threads":
            _serve_threads(retriever, announced)
        else:
            _serve_aio(
                retriever, announced, loop=variant.partition("-")[0], executor=variant.endswith("executor")
            )


@app.command("measure")
def measure(
    home: Annotated[Path, typer.Option(help="A home that no server runs on.")],
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    seconds: Annotated[float, typer.Option(min=0.05, help="Per measurement.")] = 2.0,
    concurrency: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Print medians over rounds in which the variants take turns."""
    loads: dict[tuple[str, int, str], list[Load]] = {}
    levels = tuple(concurrency or (1, 4, 16))
    turns = [variant for _ in range(rounds) for variant in VARIANTS]
    with Export.latest(Home(home).exports) as export:
        work = make_work(export, _dim(Home(home)), ServeOptions(kinds=("user_id", "vector")))
    with tempfile.TemporaryDirectory() as folder, Clients() as clients:
        announced = Path(folder) / "address.json"
        for variant in tqdm(turns, desc="servers", disable=None):
            module = [sys.executable, "-m", "scripts.compare_servers"]
            with process([*module, "serve", variant, str(home), str(announced)], announced):
                for one in work:
                    for level in levels:
                        load = clients.measure(address_in(announced), one, level, Bounds(seconds, 100_000))
                        loads.setdefault((one.kind, level, variant), []).append(load)
    rows: list[dict[str, Any]] = []
    for (kind, level, variant), taken in sorted(loads.items(), key=lambda pair: pair[0][:2]):
        median = statistics.median(load.throughput for load in taken)
        base = statistics.median(load.throughput for load in loads[kind, level, "threads"])
        rows.append({"kind": kind, "concurrency": level, "variant": variant, "throughput": median})
        rows[-1]["p50_ms"] = statistics.median(load.percentile(50) for load in taken)
        rows[-1]["p99_ms"] = statistics.median(load.percentile(99) for load in taken)
        rows[-1]["over_threads"] = median / base
    show("servers", rows)
    if json_path is not None:
        write_json(json_path, {"results": rows})


@contextmanager
def _retriever(home: Home) -> Iterator[Retriever]:
    """Yield a retriever that serves what CURRENT names."""
    from encoder.text_cache import TextCache
    from indexer.publish import current_index, load_pair
    from server.serving import prepare
    from store.duck import Store
    from store.rebuild import bring_up_to_date
    from store.state import UserState

    with Store.open(home.database) as store, UserState.open(home.state) as state:
        bring_up_to_date(store, state)
        pair = load_pair(home, current_index(home).name, threads=1)
        yield Retriever(store, state, prepare(home, pair, store, state, TextCache.open(home.text_cache), 1))


def _dim(home: Home) -> int:
    from indexer.publish import current_index
    from store.artifact import read_manifest

    dim: int = read_manifest(current_index(home))["dim"]
    return dim


def _serve_threads(retriever: Retriever, announced: Path) -> None:
    def query(request: pb.QueryRequest, _: grpc.ServicerContext) -> pb.QueryResponse:
        return query_reply(retriever.retrieve([query_of(request)])[0])

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = grpc.server(ThreadPoolExecutor(_WORKERS), options=_LIMITS)
    server.add_generic_rpc_handlers((_handlers(query),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    announce(announced, f"127.0.0.1:{port}")
    stop.wait()
    server.stop(None).wait()


def _serve_aio(retriever: Retriever, announced: Path, *, loop: str, executor: bool) -> None:
    pool = ThreadPoolExecutor(_WORKERS)

    def answer(request: pb.QueryRequest) -> pb.QueryResponse:
        return query_reply(retriever.retrieve([query_of(request)])[0])

    async def inline(request: pb.QueryRequest, _: object) -> pb.QueryResponse:
        return answer(request)

    async def apart(request: pb.QueryRequest, _: object) -> pb.QueryResponse:
        return await asyncio.get_running_loop().run_in_executor(pool, answer, request)

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        server = grpc.aio.server(options=_LIMITS)
        server.add_generic_rpc_handlers((_handlers(apart if executor else inline),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        announce(announced, f"127.0.0.1:{port}")
        await stop.wait()
        await server.stop(None)

    if loop == "uvloop":
        import uvloop

        uvloop.run(run())
    else:
        asyncio.run(run())


def _handlers(
    query: Callable[[pb.QueryRequest, Any], pb.QueryResponse | Awaitable[pb.QueryResponse]],
) -> "grpc.GenericRpcHandler[pb.QueryRequest, pb.QueryResponse]":
    method = grpc.unary_unary_rpc_method_handler(
        query, pb.QueryRequest.FromString, pb.QueryResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler(_SERVICE, {"Query": method})


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in `triptych serve`
    app()
