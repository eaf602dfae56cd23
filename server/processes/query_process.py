"""A query process: answers queries from what the owner writes, and passes everything else on to it."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from grpc_health.v1 import health

from encoder.text import TextCache
from server.app import HomeServices, answering, draining
from server.config import ServerConfig
from server.gauges import watch_calls, watch_log, watch_queries
from server.processes.forwarding import add_forwarding
from server.processes.owner_link import OwnerLink
from server.processes.replica import Replica
from server.query import Retriever
from server.rereading import Rereading
from server.supervisor import SERVICES, set_health
from server.telemetry import ProcessTelemetry, Telemetry
from server.wire import Admission, RetrievalServicer, answer_observer_of, answering_process
from store.state import LogFollower, UserState
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

_OPTIONS = [
    ("grpc.so_reuseport", 1),
    # Callers come again and find the processes that were started since.
    ("grpc.max_connection_age_ms", 600_000),
]
_LOOK_SECONDS = 0.1  # how often an idle process looks at the log
_MUST_BE_REPLACED = 75  # exit code
_RETRIEVAL = "triptych.v1.Retrieval"
log = logging.getLogger(__name__)


@contextmanager
def running_query_process(
    settings: Rereading,
    sockets: Mapping[str, str],
    counters: Path,
    telemetry: ProcessTelemetry,
    wait_for_turn: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """Yield the address of a query process that answers while the block runs.

    Args:
        settings: of the server; its port is shared with the other query processes.
        sockets: addresses of the owner, unix:/path, by tenant; it has opened the homes.
        counters: of rate limits, shared by all query processes.
        telemetry: what this process notes of itself.
        wait_for_turn: called when everything is loaded; this process follows the owner meanwhile, and answers
            when it returns.

    Raises:
        DamagedStateError, DamagedTextCacheError: the owner has not opened a home, or a file is damaged.
        IndexNotFoundError, DamagedArtifactError: the index that serves cannot be loaded.
        CannotListenError, TlsFilesError: as `serve`.
    """
    config, front_health = settings.config, health.HealthServicer()
    with ExitStack() as stack:
        homes = [
            stack.enter_context(_followed(one, sockets[one.tenant], telemetry.of_home(one.tenant)))
            for one in config.each_home()
        ]
        services = [one.services for one in homes]
        if config.tenants:
            set_health(front_health, dict.fromkeys(("", *SERVICES), True))
        else:
            front_health = services[0].health
        wait_for_turn()
        address = stack.enter_context(
            answering(config, settings, services, front_health, {}, telemetry, _OPTIONS, counters)
        )
        for one in homes:  # last: who has joined answers
            stack.enter_context(one.joined())
        stack.enter_context(draining(settings, services, front_health))
        yield address


@dataclass(frozen=True)
class _FollowedHome:
    """A home that another process owns, its services, and the block in which this process has joined."""

    services: HomeServices
    joined: Callable[[], AbstractContextManager[None]]


@contextmanager
def _followed(config: ServerConfig, owner: str, telemetry: Telemetry) -> Iterator[_FollowedHome]:
    """Yield a home that is followed while the block runs."""
    health_servicer = health.HealthServicer()
    with (
        UserState.open_reader(config.home.state) as state,
        closing(TextCache.open_reader(config.home.text_cache)) as cache,
    ):
        ready = partial(set_health, health_servicer, {"": True, _RETRIEVAL: True})
        set_health(health_servicer, {"": False, _RETRIEVAL: False})
        follower = LogFollower(sequence=state.read(lambda reading: reading.head.sequence))
        link = OwnerLink(owner)
        retriever = Retriever(
            link,
            state,
            follower=follower,
            user_cache_bytes=config.user_cache_bytes,
            audience_floor=config.audience_floor,
        )
        replica = Replica(config, state, cache, retriever, follower, ready)
        state.repair_by(link.repair)
        replica.resume()
        observer = answer_observer_of(telemetry, config.home.models, retriever)
        services = [
            partial(rpc.add_RetrievalServicer_to_server, RetrievalServicer(retriever, observer)),
            partial(add_forwarding, channel=link.channel, amend={"Status": partial(_told_here, retriever)}),
        ]
        admission = Admission(config.workers, config.queue, telemetry=telemetry)
        if telemetry.figures is not None:
            watch_calls(telemetry.figures, admission)
            watch_queries(telemetry.figures, retriever)
            watch_log(telemetry.figures, lambda: follower.sequence)
        joined = partial(link.joined, replica.prepare, replica.drop, partial(_pass_on, health_servicer))
        # The channel is closed when no call that was passed on runs any more.
        with closing(link.channel), _following(state, follower):
            try:
                yield _FollowedHome(HomeServices(config.tenant, admission, health_servicer, services), joined)
            finally:
                if telemetry.figures is not None:
                    telemetry.figures.sample_no_more()


def _told_here(retriever: Retriever, reply: bytes) -> bytes:
    """Tell of this process in the owner's answer to Status."""
    status = pb.StatusResponse.FromString(reply)
    status.process.CopyFrom(answering_process(retriever))
    return status.SerializeToString()


def _pass_on(health_servicer: health.HealthServicer, serves: dict[str, bool]) -> None:
    """Tell of the owner's services and workers what it says; queries have a health of their own here."""
    of_owner = {name: serving for name, serving in serves.items() if name not in ("", _RETRIEVAL)}
    set_health(health_servicer, of_owner)


@contextmanager
def _following(state: UserState, follower: LogFollower) -> Iterator[None]:
    """Look at the log every now and then while the block runs, for the time when no query does."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            try:
                state.read(follower.catch_up)
            except Exception:  # whatever it is, this process cannot follow, and another one has to
                log.exception("this process cannot follow the owner and ends: another one takes its place")
                sys.stderr.flush()
                os._exit(_MUST_BE_REPLACED)

    thread = threading.Thread(target=look, name="follower", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
