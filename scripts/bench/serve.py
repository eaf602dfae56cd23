"""Measure a server of ours beside a bare gRPC server that answers replies of the same size."""

import ipaddress
import logging
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from scripts.bench.bare_grpc import BATCH
from scripts.bench.load import Bounds, Clients, Load, Work, ask_once
from scripts.bench.small_home import address_in, process
from server.pb.triptych.v1 import triptych_pb2 as pb
from store.export import Export

log = logging.getLogger(__name__)

KINDS = ("user_id", "views", "vector", BATCH)
BATCH_SIZE = 16
_REQUESTS = 256  # different ones; clients take them in turn
_MOST_EVENTS, _MOST_TEXTS, _MOST_FRIENDS = 50, 3, 20


class NotLoopbackError(ValueError):
    """A benchmark would load a machine other than this one."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address!r} is not on this machine; a benchmark loads only loopback addresses")
        self.address = address


class NobodyToAskForError(ValueError):
    """An export names no user, so there is nothing to ask a server."""

    def __init__(self, export: Export) -> None:
        super().__init__(f"export {export.export_id} names no user to ask for")


@dataclass(frozen=True)
class ServeOptions:
    """What to measure: all kinds at all concurrencies, `rounds` times by turns."""

    kinds: Sequence[str] = KINDS
    concurrencies: Sequence[int] = (1, 4, 16)
    rounds: int = 3
    bounds: Bounds = field(default_factory=lambda: Bounds(1.0, 5000))
    k: int = 10
    workers: int = 8
    seed: int = 0


def check_loopback(address: str) -> None:
    """Refuse an address of another machine.  Raises: NotLoopbackError."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise NotLoopbackError(address)


def make_work(export: Export, dim: int, options: ServeOptions) -> list[Work]:
    """Return what to ask for each kind, about users of an export drawn by the seed.

    Inline views are stored people's: the latest events, texts that the server has encoded already, friends.

    Raises:
        NobodyToAskForError: the export has no users.
    """
    generator = np.random.default_rng(options.seed)
    users = export.users().to_pylist()
    if not users:
        raise NobodyToAskForError(export)
    chosen = [users[i] for i in generator.integers(len(users), size=_REQUESTS)]
    by_id = [pb.QueryRequest(user_id=user, k=options.k) for user in chosen]
    vectors = generator.standard_normal((_REQUESTS, dim)).astype(np.float32)
    made: dict[str, Sequence[pb.QueryRequest] | Sequence[pb.QueryBatchRequest]] = {
        "user_id": by_id,
        "views": [pb.QueryRequest(views=views, k=options.k) for views in _inline(export, chosen)],
        "vector": [pb.QueryRequest(vector=pb.Vector(values=row.tolist()), k=options.k) for row in vectors],
        BATCH: [
            pb.QueryBatchRequest(requests=by_id[i : i + BATCH_SIZE]) for i in range(0, _REQUESTS, BATCH_SIZE)
        ],
    }
    return [
        Work(kind, tuple(request.SerializeToString() for request in made[kind]), kind == BATCH)
        for kind in options.kinds
    ]


def measure_serving(
    address: str, work: Sequence[Work], folder: Path, options: ServeOptions
) -> dict[str, Any]:
    """Return results and ratios of a server at an address; files of the bare server go to a folder.

    Ours and bare take turns, round by round; every figure is the median of the rounds.

    Raises:
        NotLoopbackError: the address is not on this machine.
        CallFailedError: a call got an error.
    """
    check_loopback(address)
    steps = [(one, c) for _ in range(options.rounds) for one in work for c in options.concurrencies]
    loads: dict[tuple[str, int, str], list[Load]] = {}
    sizes = {one.kind: ask_once(address, one) for one in work}
    log.info("bench serve: %d measurements of %g s on %s", 2 * len(steps), options.bounds.seconds, address)
    with bare_server(folder, sizes, options.workers) as bare, Clients() as clients:
        for one, concurrency in tqdm(steps, desc="bench serve", disable=None):
            for name, where in (("triptych", address), ("bare", bare)):
                load = clients.measure(where, one, concurrency, options.bounds)
                loads.setdefault((one.kind, concurrency, name), []).append(load)
    log.info("bench serve: done")
    results = [
        {"kind": kind, "concurrency": concurrency, "server": name, **_figures(taken)}
        | {"reply_bytes": len(sizes[kind])}
        for (kind, concurrency, name), taken in loads.items()
    ]
    return {"results": results, "ratios": serving_ratios(results)}


@contextmanager
def bare_server(folder: Path, replies: dict[str, bytes], workers: int) -> Iterator[str]:
    """Yield the address of a process that answers each kind with its reply and does nothing else."""
    for kind, reply in replies.items():
        (folder / f"{kind}.bin").write_bytes(reply)
    announced = folder / "bare.json"
    module = [sys.executable, "-m", "scripts.bench.bare_grpc"]
    with process([*module, str(folder), str(announced), "--workers", str(workers)], announced):
        yield address_in(announced)


def serving_ratios(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return ours over bare for each kind and concurrency, and of the first kind under short names.

    `throughput` is of the highest concurrency, `p50_added_ms` of the lowest, where nobody waits in a queue.
    """
    found: dict[str, float] = {}
    figures = {(row["kind"], row["concurrency"], row["server"]): row for row in results}
    for kind, concurrency, name in figures:
        if name != "bare":
            continue
        ours, bare = (figures[kind, concurrency, who] for who in ("triptych", "bare"))
        place = f"{kind}/c{concurrency}"
        found[f"{place}/throughput"] = ours["throughput"] / bare["throughput"]
        found[f"{place}/p50_added_ms"] = ours["p50_ms"] - bare["p50_ms"]
    first, levels = results[0]["kind"], [row["concurrency"] for row in results]
    return {
        "throughput": found[f"{first}/c{max(levels)}/throughput"],
        "p50_added_ms": found[f"{first}/c{min(levels)}/p50_added_ms"],
    } | found


def _figures(loads: Sequence[Load]) -> dict[str, Any]:
    return {
        "throughput": statistics.median(load.throughput for load in loads),
        "p50_ms": statistics.median(load.percentile(50) for load in loads),
        "p99_ms": statistics.median(load.percentile(99) for load in loads),
        "calls": sum(len(load.latencies) for load in loads),
    }


def _inline(export: Export, users: Sequence[str]) -> list[pb.Views]:
    """Return the views of some users as an app would send them along."""
    wanted = {user: pb.Views() for user in users}
    for row in export.history().to_pylist():
        if row["user_id"] in wanted:
            wanted[row["user_id"]].events.add(
                item_id=row["item_id"], action=row["action"], weight=row["weight"]
            )
    for row in export.texts().to_pylist():
        if (
            row["user_id"] in wanted
            and len(wanted[row["user_id"]].texts) < _MOST_TEXTS
            and row["text"].strip()
        ):
            wanted[row["user_id"]].texts.append(row["text"])
    for row in export.friends().to_pylist():
        if row["user_id"] in wanted and len(wanted[row["user_id"]].friends) < _MOST_FRIENDS:
            wanted[row["user_id"]].friends.add(friend_id=row["friend_id"], weight=row["weight"])
    for views in wanted.values():
        del views.events[: max(0, len(views.events) - _MOST_EVENTS)]
    return [wanted[user] for user in users]
