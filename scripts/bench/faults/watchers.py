"""Processes that query a server without end and check every answer, while something is done to it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import grpc
import numpy as np

from scripts.bench.serve.work import QUERY
from triptych_client.pb.v1 import triptych_pb2 as pb

_CALL_SECONDS = 30.0
_READY_SECONDS = 60.0
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5  # of scores: kinds of batches round in other ways
_CHANNEL = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50))  # fmt: skip


@dataclass(frozen=True)
class FailedCall:
    """A call that failed: when it began and ended (time.monotonic, the same for all processes), and how."""

    began: float
    ended: float
    code: str
    said: str


@dataclass
class Watched:
    """What the watchers saw.

    Attributes:
        answers: number of right ones.
        wrong: what was wrong with others, the first hundred.
        failures: calls without an answer.
    """

    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    failures: list[FailedCall] = field(default_factory=list)

    def join(self, other: "Watched") -> None:
        """Add what another one saw."""
        self.answers += other.answers
        self.wrong += other.wrong
        self.failures += other.failures


Expected = Mapping[str, Mapping[str, bytes]]
"""The serialised reply to each user by the id of the index that gives it."""


def ask_for(address: str, users: Sequence[str], k: int) -> dict[str, bytes]:
    """Return the serialised reply for each user.  Raises: grpc.RpcError."""
    with grpc.insecure_channel(address, _CHANNEL) as channel:
        call = channel.unary_unary(QUERY, None, None)
        return {user: call(_request(user, k), timeout=_CALL_SECONDS) for user in users}


def wrong_with(
    reply: pb.QueryResponse, user: str, expected: Mapping[str, Mapping[str, pb.QueryResponse]]
) -> str:
    """Return what is wrong with a reply, "" if nothing is.

    Index and model belong together, the items are those that the index gives this user, each with its score
    and the shares that add up to it; items with equal scores may change places.
    """
    if reply.index_id not in expected:
        return f"index {reply.index_id!r} was never published"
    right = expected[reply.index_id][user]
    if reply.model_id != right.model_id:
        return f"index {reply.index_id} came with model {reply.model_id}, not {right.model_id}"
    found = _wrong_with_items(reply, right)
    return f"{user} got {found} of index {reply.index_id}" if found else ""


def _wrong_with_items(reply: pb.QueryResponse, right: pb.QueryResponse) -> str:
    if len(reply.item_ids) != len(right.item_ids):
        return f"{len(reply.item_ids)} items, not {len(right.item_ids)},"
    if not np.allclose(reply.scores, right.scores, _RELATIVE, _ABSOLUTE):
        return "other scores"
    theirs = dict(zip(right.item_ids, right.scores, strict=True))
    worst = min(theirs.values(), default=0.0)
    for item, score in zip(reply.item_ids, reply.scores, strict=True):
        if not np.isclose(score, theirs.get(item, worst), _RELATIVE, _ABSOLUTE):
            return f"{item} with score {score}"
    parts = [list(part) for part in _shares(reply) if part]
    if parts and not np.allclose(np.sum(parts, axis=0), reply.scores, 1e-3, 1e-4):
        return "shares that do not add up to the scores"
    return ""


@contextmanager
def watching(
    address: str, expected: Expected, folder: Path, *, processes: int = 2, connections: int = 2
) -> Iterator[Watched]:
    """Query from processes of their own while the block runs; what they saw is complete after it.

    Each of `processes` asks for the users in turn, one call at a time, by `connections` connections in turn,
    and repeats nothing. The block starts when all have had an answer.

    Args:
        address: of the server.
        expected: the users to ask for, and what they should get.
        folder: for the files by which the processes are told to end.
        processes: how many.
        connections: of each.
    """
    watched, stop = Watched(), folder / f"stop-{time.monotonic_ns()}"
    started = [folder / f"{stop.name}-{number}" for number in range(processes)]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        running = [pool.submit(_watch, address, expected, stop, one, connections) for one in started]
        try:
            deadline = time.monotonic() + _READY_SECONDS
            while not all(one.exists() for one in started) and not any(one.done() for one in running):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{address} does not answer")
                time.sleep(0.01)
            yield watched
        finally:
            stop.touch()
        for future in running:
            watched.join(future.result())


def _watch(address: str, expected: Expected, stop: Path, started: Path, connections: int) -> Watched:
    right = {
        index: {user: pb.QueryResponse.FromString(reply) for user, reply in replies.items()}
        for index, replies in expected.items()
    }
    users = list(next(iter(right.values())))
    k = max(len(reply.item_ids) for reply in next(iter(right.values())).values())
    requests = [_request(user, k) for user in users]
    seen, number = Watched(), 0
    channels = [grpc.insecure_channel(address, _CHANNEL) for _ in range(connections)]
    calls = [channel.unary_unary(QUERY, None, None) for channel in channels]
    while not stop.exists():
        user, began = number % len(users), time.monotonic()
        try:
            reply = calls[number % connections](requests[user], timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            seen.failures.append(
                FailedCall(began, time.monotonic(), error.code().name, error.details() or "")
            )
        else:
            wrong = wrong_with(pb.QueryResponse.FromString(reply), users[user], right)
            seen.answers += not wrong
            if wrong and len(seen.wrong) < 100:
                seen.wrong.append(wrong)
            started.touch()
        number += 1
    for channel in channels:
        channel.close()
    return seen


def _request(user: str, k: int) -> bytes:
    return pb.QueryRequest(user_id=user, k=k).SerializeToString()


def _shares(reply: pb.QueryResponse) -> Sequence[Sequence[float]]:
    return reply.history_shares, reply.text_shares, reply.social_shares, reply.prior_shares
