"""The index that serves is changed again and again under load: every answer is of one index and its model."""

import logging
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from tqdm import tqdm

from scripts.bench.faults.watchers import ask_for, watching
from scripts.bench.serve.servers import own_server
from scripts.home_access import admin
from store.artifact import artifacts
from store.export import Export
from store.home import Home
from triptych_client.pb.v1 import triptych_pb2 as pb

log = logging.getLogger(__name__)

_USERS = 64
_K = 20
_CALL_SECONDS = 60.0
_TENTHS = 10  # of the swaps: the memory of each is the median after its swaps, the first one warms up


def swap_rounds(home: Home, rounds: int, processes: int, folder: Path) -> dict[str, Any]:
    """Publish and roll back the two newest indexes of a home by turns, under queries; return the counts.

    `mixed` are answers that are no index's, `failed` queries and swaps that failed; `memory_mib` is what the
    server's processes have (PSS), the median of each tenth of the swaps, and `memory_growth` the last tenth
    over the second.

    Raises:
        CommandFailedError: the server does not start.
        LookupError: the home has less than two indexes.
    """
    older, newer = newest_two(home)
    with Export.latest(home.exports) as export:
        users = export.users().to_pylist()[:_USERS]
    failed, memory, slowest = 0, list[float](), 0.0
    with own_server(home, 8, processes) as server, admin(server.address) as stub:
        expected = {}
        for index_id in (older, newer):
            stub.PublishIndex(pb.PublishIndexRequest(index_id=index_id), timeout=_CALL_SECONDS)
            expected[index_id] = ask_for(server.address, users, _K)
        with watching(server.address, expected, folder) as watched:
            for number in tqdm(range(rounds), desc="swap", disable=None):
                began = time.monotonic()
                try:
                    if number % 2:
                        stub.PublishIndex(pb.PublishIndexRequest(index_id=newer), timeout=_CALL_SECONDS)
                    else:
                        stub.RollbackIndex(pb.RollbackIndexRequest(), timeout=_CALL_SECONDS)
                except grpc.RpcError as error:
                    log.error("swap %d: %s", number, error)
                    failed += 1
                slowest = max(slowest, time.monotonic() - began)
                memory.append(pss_mib(server.pids[0]))
    for wrong in watched.wrong[:5]:
        log.error("amid swaps: %s", wrong)
    for failure in watched.failures[:5]:
        log.error("amid swaps: %s", failure)
    tenths = [float(np.median(some)) for some in np.array_split(memory, min(_TENTHS, rounds))]
    return {
        "tried": rounds,
        "killed": 0,
        "lost": 0,
        "mixed": len(watched.wrong),
        "failed": failed + len(watched.failures),
        "queries": watched.answers,
        "slowest_swap_s": slowest,
        "memory_mib": [round(tenth, 1) for tenth in tenths],
        "memory_growth": tenths[-1] / tenths[min(1, len(tenths) - 1)],
    }


def newest_two(home: Home) -> tuple[str, str]:
    """Return the ids of the two newest indexes, the older one first.  Raises: LookupError."""
    found = artifacts(home.indexes)
    if len(found) < 2:
        raise LookupError(f"{home.indexes} has {len(found)} indexes: two are needed to swap them")
    return found[-2], found[-1]


def pss_mib(pid: int) -> float:
    """Return the memory of a process and its children, pages that they share counted once."""
    parent = psutil.Process(pid)
    both = [parent, *parent.children(recursive=True)]
    return float(sum(one.memory_full_info().pss for one in both)) / 2**20
