"""A process of a read replica: a query process whose owner runs on another machine."""

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import grpc
from grpc_health.v1 import health

from encoder.text import TextCache
from server.app import HomeServices, answering, draining
from server.config import ServerConfig
from server.gauges import watch_calls, watch_log, watch_queries
from server.live import IndexList
from server.processes.artifacts import artifacts_of
from server.processes.forwarding import add_forwarding
from server.processes.remote_owner import add_refusing, channel_to_owner, rows_of
from server.processes.remote_snapshots import RemoteSnapshots
from server.query import NotReadyError, Retriever
from server.rereading import Rereading
from server.status import status_of_errors
from server.supervisor import set_health
from server.telemetry import ProcessTelemetry, Telemetry
from server.wire import (
    Admission,
    RetrievalServicer,
    answer_observer_of,
    answering_process,
    index_list,
    listed_at_most,
)
from store.objects import HomeBucket
from store.state import LogFollower
from store.valkey import SharedState, StateUnreachableError
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

_OPTIONS = [("grpc.so_reuseport", 1), ("grpc.max_connection_age_ms", 600_000)]
_MUST_BE_REPLACED = 75  # exit code
_PAUSE_SECONDS = 1.0  # before a start is tried again
_LOOK_SECONDS = 0.5  # how often health is brought up to the state's age
_FRESH_SECONDS = 10.0  # a state that is older is NOT_SERVING in health
_RETRIEVAL, _STATE = "triptych.v1.Retrieval", "triptych.state"
log = logging.getLogger(__name__)


@contextmanager
def running_read_replica(
    settings: Rereading,
    counters: Path,
    telemetry: ProcessTelemetry,
    wait_for_turn: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """Yield the address of a read replica's process that answers while the block runs.

    It waits until it has read the state, and loaded the index that serves, where one does.

    Args:
        settings: of the server; its port is shared with the other processes.
        counters: of rate limits, shared by all processes.
        telemetry: what this process notes of itself.
        wait_for_turn: called when everything is loaded; this process follows the log meanwhile.

    Raises:
        ValkeyNotInstalledError: the client library is missing.
        DamagedArtifactError: the index that serves cannot be loaded.
        CannotListenError, TlsFilesError: as `serve`.
    """
    config = settings.config
    with ExitStack() as stack:
        services = stack.enter_context(_read(config, telemetry.of_home("")))
        wait_for_turn()
        address = stack.enter_context(
            answering(config, settings, [services], services.health, {}, telemetry, _OPTIONS, counters)
        )
        stack.enter_context(draining(settings, [services], services.health))
        yield address


@contextmanager
def _read(config: ServerConfig, telemetry: Telemetry) -> Iterator[HomeServices]:
    """Yield the services of a home that is read while the block runs."""
    health_servicer = health.HealthServicer()
    set_health(health_servicer, {"": False, _RETRIEVAL: False, _STATE: False})
    address = config.state
    if address is None:
        raise ValueError("a read replica needs --state-url: where the owner copies the state of users to")
    with ExitStack() as stack:
        folder = config.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triptych-")))
        artifacts = artifacts_of(config, folder)
        config = replace(config, home=artifacts.home)
        cache = stack.enter_context(closing(TextCache.open(folder / "texts")))
        state = SharedState(address, _end)
        _start(state)
        follower = LogFollower(sequence=state.commit)
        channel = channel_to_owner(config)
        retriever = Retriever(
            rows_of(config, channel),
            state,
            follower=follower,
            user_cache_bytes=config.user_cache_bytes,
            audience_floor=config.audience_floor,
        )
        ready = partial(set_health, health_servicer, {"": True, _RETRIEVAL: True})
        snapshots = RemoteSnapshots(config, state, cache, retriever, follower, ready, artifacts)
        snapshots.resume()
        state.follow_with(follower.catch_up)
        bucket = HomeBucket(config.artifacts) if config.artifacts else None
        indexes = IndexList(artifacts.home, bucket)
        observer = answer_observer_of(telemetry, artifacts.home.models, retriever)
        services = [
            partial(rpc.add_RetrievalServicer_to_server, RetrievalServicer(retriever, observer)),
            partial(_add_own_answers, retriever=retriever, indexes=indexes),
            add_refusing
            if channel is None
            else partial(add_forwarding, channel=channel, remote=config.owner),
        ]
        admission = Admission(config.workers, config.queue, telemetry=telemetry)
        if telemetry.figures is not None:
            watch_calls(telemetry.figures, admission)
            watch_queries(telemetry.figures, retriever)
            watch_log(telemetry.figures, lambda: state.commit)
            stack.callback(telemetry.figures.sample_no_more)
        if channel is not None:
            stack.callback(channel.close)
        stack.enter_context(snapshots.fetching())
        stack.enter_context(state)
        stack.enter_context(_telling(health_servicer, state))
        yield HomeServices("", admission, health_servicer, services)


def _start(state: SharedState) -> None:
    """Read the state for the first time, as soon as that can be."""
    told = ""
    while True:
        try:
            state.start()
        except StateUnreachableError as error:
            if str(error) != told:
                log.warning("%s; waiting for it", error)
            told = str(error)
            time.sleep(_PAUSE_SECONDS)
        else:
            return


@contextmanager
def _telling(health_servicer: health.HealthServicer, state: SharedState) -> Iterator[None]:
    """Keep the health of the state while the block runs: it serves while it is fresh."""
    over = threading.Event()

    def tell() -> None:
        known: bool | None = None
        while not over.wait(0.0 if known is None else _LOOK_SECONDS):
            fresh = state.age <= _FRESH_SECONDS
            if fresh != known:
                set_health(health_servicer, {_STATE: fresh})
                log.log(logging.INFO if fresh else logging.WARNING, "the state is %.0f s old", state.age)
            known = fresh

    thread = threading.Thread(target=tell, name="state age", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _end() -> None:
    """End this process, which cannot go on; the parent starts another one."""
    sys.stderr.flush()
    os._exit(_MUST_BE_REPLACED)


def _add_own_answers(server: grpc.Server, retriever: Retriever, indexes: IndexList) -> None:
    """Answer Status and ListIndexes of what this process knows; it comes before what passes Admin on."""
    began = time.monotonic()

    def status(_request: pb.StatusRequest, _context: grpc.ServicerContext) -> pb.StatusResponse:
        reply = pb.StatusResponse(
            uptime_seconds=time.monotonic() - began,
            version=version("triptych"),
            process=answering_process(retriever),
        )
        try:
            snapshot = retriever.snapshot
        except NotReadyError:
            return reply
        reply.serving = True
        reply.model_id, reply.index_id = snapshot.model.model_id, snapshot.index.index_id
        reply.text_model_id = snapshot.encoder.text_model_id
        reply.indexed_items, reply.dim = len(snapshot.index), snapshot.index.dim
        reply.items_without_vector = snapshot.index.without_vector
        return reply

    def list_indexes(request: pb.ListIndexesRequest, context: grpc.ServicerContext) -> pb.ListIndexesResponse:
        with status_of_errors(context):
            newest = indexes.newest(listed_at_most(request.limit))
            try:
                serving = retriever.snapshot.index.index_id
            except NotReadyError:
                serving = ""
            return index_list(newest, serving)

    handlers = {
        "Status": grpc.unary_unary_rpc_method_handler(
            status,
            request_deserializer=pb.StatusRequest.FromString,
            response_serializer=pb.StatusResponse.SerializeToString,
        ),
        "ListIndexes": grpc.unary_unary_rpc_method_handler(
            list_indexes,
            request_deserializer=pb.ListIndexesRequest.FromString,
            response_serializer=pb.ListIndexesResponse.SerializeToString,
        ),
    }
    generic = grpc.method_handlers_generic_handler("triptych.v1.Admin", handlers)
    server.add_generic_rpc_handlers((generic,))
