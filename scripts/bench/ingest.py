"""Measure durable writes, how soon queries see them, and what writes cost queries that run beside them."""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
from tqdm import tqdm

from scripts.bench.load import APPEND, QUERY, Pace, PacedCalls, append_requests, call_at_pace
from triptych_client import Behavior, Client, Item, Text, Tie
from triptych_client.pb.v1 import triptych_pb2 as pb

log = logging.getLogger(__name__)

_FASTEST = 60_000  # events a second that no server reaches, so that none runs out of requests
_POLL_SECONDS = 0.002
_SEEN_SECONDS = 10.0


class NeverSeenError(TimeoutError):
    """Queries did not see an acknowledged write, so its delay cannot be measured."""

    def __init__(self, what: str) -> None:
        super().__init__(f"it took more than {_SEEN_SECONDS:g} s after the acknowledgement until {what}")
        self.what = what


@dataclass(frozen=True)
class IngestOptions:
    """`seconds` each, `rounds` by turns; batches of `size`, `rate` events/s beside queries."""

    seconds: float = 5.0
    size: int = 500
    rounds: int = 3
    rate: float = 5_200.0
    samples: int = 50
    seed: int = 0


def measure_ingest(
    address: str, users: Sequence[str], items: Sequence[str], options: IngestOptions
) -> dict[str, Any]:
    """Return results and ratios of a server at an address, about users and items that it knows.

    Each measurement asks for other people, so that what writes cost is told apart from what it costs that
    a person's vector is made anew: beside writes that touch everybody, hardly any that was kept stays true.

    Raises:
        CallFailedError: a call got an error.
        NeverSeenError: a write did not become visible.
    """
    log.info("bench ingest: started on %s", address)
    parts = 2 + 2 * options.rounds
    shuffled = np.random.default_rng(options.seed).permutation(np.array(users)).tolist()
    people = iter([shuffled[part::parts] for part in range(parts)])
    results: list[dict[str, Any]] = []
    with (
        ProcessPoolExecutor(2, get_context("spawn")) as pool,
        tqdm(total=3 + 2 * options.rounds, desc="bench ingest", disable=None) as progress,
    ):

        def run(*paces: Pace) -> list[PacedCalls]:
            done = [
                future.result() for future in [pool.submit(call_at_pace, address, pace) for pace in paces]
            ]
            progress.update()
            return done

        def writes(rate: float, turn: int) -> Pace:
            events = int((rate or _FASTEST) * options.seconds)
            made = append_requests(
                users, items, events=events, size=options.size, seed=10 * options.seed + turn
            )
            return Pace(APPEND, made, options.seconds, rate / options.size, once=True)

        def queries(seconds: float, rate: float = 0.0, lanes: int = 4) -> Pace:
            made = [pb.QueryRequest(user_id=user, k=10).SerializeToString() for user in next(people)]
            return Pace(QUERY, tuple(made), seconds, rate, lanes=lanes)

        run(queries(0.5), Pace(APPEND, writes(0, 1).requests[:20], 0.5, once=True))  # warms up
        (idle,) = run(writes(0, 2))
        (fastest,) = run(queries(options.seconds))
        half = fastest.per_second / 2
        rounds = [
            (
                *run(queries(options.seconds, half, 8)),
                *run(queries(options.seconds, half, 8), writes(options.rate, 3 + turn)),
            )
            for turn in range(options.rounds)
        ]
    alone, beside, written = zip(*rounds, strict=True)
    results += [
        _row("writes alone", idle),
        _row("queries, as fast as 4 clients go", fastest),
        _row("queries at half of that", *alone),
        _row("the same beside writes", *beside),
        _row("writes beside queries", *written),
    ]
    with Client(address) as client:
        results += visibility(client, items, options)
    ratios = {
        "events_per_second": results[0]["events_per_second"],
        "events_per_second_beside_queries": results[4]["events_per_second"],
        "query_p99_growth": results[3]["p99_ms"] / results[2]["p99_ms"],
        "query_p50_growth": results[3]["p50_ms"] / results[2]["p50_ms"],
    }
    log.info("bench ingest: done")
    return {"results": results, "ratios": ratios}


def visibility(client: Client, items: Sequence[str], options: IngestOptions) -> list[dict[str, Any]]:
    """Return how long after its acknowledgement a write shows in a reply, that reply's time included."""
    names = [f"bench-{options.seed}-{time.monotonic_ns()}-{i}" for i in range(options.samples)]
    for name in names:
        client.put_friends([Tie(f"{name}-follower", name)])

    def behavior(name: str) -> Callable[[], bool]:
        client.append_behaviors([Behavior(name, items[0])])
        return lambda: pb.VIEW_HISTORY in client.query(user_id=name, k=1).views_used

    def friend(name: str) -> Callable[[], bool]:
        before = client.query(user_id=f"{name}-follower", k=1).scores
        client.append_behaviors([Behavior(name, items[1])])
        return lambda: client.query(user_id=f"{name}-follower", k=1).scores != before

    def text(name: str) -> Callable[[], bool]:
        client.append_texts([Text(name, f"{name} wrote about gardens and telescopes")])
        return lambda: pb.VIEW_TEXT in client.query(user_id=name, k=1).views_used

    of_name = dict(zip(names, items[-len(names) :], strict=True))
    client.append_behaviors([Behavior("bench-reader", items[0])])

    def found(item_id: str) -> list[str]:
        only = pb.Filter(allow=pb.ItemIds(item_ids=[item_id]))
        return list(client.query(user_id="bench-reader", k=1, filter=only).item_ids)

    def deletion(name: str) -> Callable[[], bool]:
        client.delete_items([of_name[name]])
        return lambda: found(of_name[name]) == []

    def item(name: str) -> Callable[[], bool]:
        client.put_items([Item(of_name[name], f"{name}, a book about gardens", None, None, {}, True, None)])
        return lambda: found(of_name[name]) == [of_name[name]]

    rows = []
    for what, act in (
        ("a behaviour shows", behavior),
        ("a friend's behaviour shows", friend),
        ("a text shows", text),
        ("a deleted item is gone", deletion),
        ("an item is found", item),
    ):
        delays = np.array([_delay(what, act(name)) for name in names])
        row = {"load": f"until {what}", "per_second": None, "events_per_second": None}
        rows.append(row | {"p50_ms": np.percentile(delays, 50), "p99_ms": np.percentile(delays, 99)})
    return rows


def _delay(what: str, seen: Callable[[], bool]) -> float:
    start = time.monotonic()
    while not seen():
        if time.monotonic() - start > _SEEN_SECONDS:
            raise NeverSeenError(what)
        time.sleep(_POLL_SECONDS)
    return 1e3 * (time.monotonic() - start)


def _row(load: str, *rounds: PacedCalls) -> dict[str, Any]:
    """Return the medians of some rounds."""
    events = statistics.median(paced.inserted / paced.seconds for paced in rounds)
    return {
        "load": load,
        "per_second": statistics.median(paced.per_second for paced in rounds),
        "events_per_second": events or None,
        "p50_ms": statistics.median(paced.percentile(50) for paced in rounds),
        "p99_ms": statistics.median(paced.percentile(99) for paced in rounds),
    }
