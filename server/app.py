"""A server from its start to its end."""

import gc
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from encoder.text import TextCache
from server.addresses import CannotListenError, Listening
from server.config import MAX_MESSAGE_BYTES, ServerConfig
from server.gauges import (
    watch_calls,
    watch_index,
    watch_log,
    watch_queries,
    watch_worker,
    watch_writes,
)
from server.identity import Identity, Reached
from server.live import (
    CommitListener,
    GroupCommit,
    IndexWriter,
    Ingest,
    Publisher,
    QueryProcesses,
    RecordingIndexWriter,
)
from server.pb.triptych.internal.v1 import owner_pb2_grpc as owner_rpc
from server.pb.triptych.v1 import ingest_pb2_grpc as ingest_rpc
from server.pb.triptych.v1 import triptych_pb2_grpc as rpc
from server.query import QueryPriority, Retriever
from server.rereading import Rereading, set_log_level
from server.stopping import StopSignals
from server.supervisor import SERVICES, Supervisor
from server.telemetry import Figures, FiguresSource, Telemetry, exposed, noting, watch_process
from server.tls import TlsFilesError, server_credentials
from server.wire import (
    AdminServicer,
    Admission,
    IngestServicer,
    OwnerServicer,
    RetrievalServicer,
    answer_observer_of,
)
from store.disk import disk_errors
from store.state import UserState, bring_up_to_date
from store.store import Store
from store.writes import Writer

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    # Clients and proxies ping idle connections every ten seconds or less often; half of that is never early.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A client that vanished without closing its connection holds its places for a minute.
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]
# Of Python's lock: with the default, a query waits ten times as long for the thread that writes.
_SWITCH_SECONDS = 0.0005
log = logging.getLogger(__name__)


def serve(settings: Rereading) -> None:
    """Run a server until SIGTERM or SIGINT; running calls finish first, and SIGHUP reads settings again.

    A signal during the start ends it within two seconds; a second signal, or calls that do not end within the
    grace, end the process at once.

    Raises:
        StoreLockedError: another process owns the home's store.
        DamagedArtifactError: what CURRENT names is damaged.
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        BadAddressError, CannotListenError: nothing can listen on the address.
        TlsFilesError: certificate and key cannot be used, or only one of them was given.
        TracesNotInstalledError: traces are wanted, and OpenTelemetry is not installed.
    """
    until_stopped(settings, running(settings.config, settings=settings))


def until_stopped(
    settings: Rereading, block: AbstractContextManager[str], ready: Callable[[], None] = lambda: None
) -> None:
    """Keep a server running until SIGTERM or SIGINT, as `serve` says.

    Args:
        settings: of the server.
        block: in which it answers, as `running` returns it.
        ready: called once it answers.

    Raises:
        what the block raises.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    settings.listen(set_log_level)
    with (
        StopSignals(
            lambda: settings.config.home.server_file.unlink(missing_ok=True), settings.reread
        ) as signals,
        block as address,
    ):
        settings.listen(lambda config: signals.serving(config.grace_seconds))
        log.info("listening on %s", address)
        ready()
        signals.wait()
        log.info("stopping: running calls have %.0f s to finish", settings.config.grace_seconds)


@dataclass(frozen=True)
class Following:
    """The query processes that follow a server, how callers reach these, and this process' own numbers."""

    processes: QueryProcesses
    reached: Reached
    figures: Figures | None = None


@contextmanager
def running(
    config: ServerConfig, following: Following | None = None, settings: Rereading | None = None
) -> Iterator[str]:
    """Yield the address of a server that answers while the block runs.

    The start goes from the disk upwards: what is stored is opened and brought to one state, the background
    workers start, erasures that a crash interrupted are finished, calls are answered (queries not yet), the
    index is loaded, and server.json is written, by which commands find the server. The end goes back.

    Args:
        config: of the server.
        following: the query processes that follow this one, where there are any.
        settings: those that may change while it runs; None where none may.

    Raises:
        as `serve`.
    """
    settings = settings or Rereading(config)
    home, health_servicer = config.home, health.HealthServicer()
    supervisor, priority = Supervisor(health_servicer), QueryPriority()
    with (
        _noting(config, following) as (telemetry, metrics),
        disk_errors(home.path),
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        bring_up_to_date(store, state)
        retriever = Retriever(store, state, priority=priority, user_cache_bytes=config.user_cache_bytes)
        writer = Writer(store, state, priority.pause)
        index_writer = IndexWriter() if following is None else RecordingIndexWriter(state)
        with (
            CommitListener(store, state, retriever, supervisor, index_writer) as listener,
            GroupCommit(writer, listener.committed, listener.catch_up, supervisor) as commit,
        ):
            cache.on_vectors_removed(listener.texts.sweep)
            ingest = Ingest(home, store, state, cache, commit, listener)
            ingest.resume()
            publisher = Publisher(config, store, state, cache, retriever, listener, supervisor, index_writer)
            identity = Identity.of(home, store)
            admin = AdminServicer(home, store, retriever, publisher, identity, supervisor)
            observer = answer_observer_of(telemetry, home.models, retriever)
            services = [
                partial(rpc.add_RetrievalServicer_to_server, RetrievalServicer(retriever, observer)),
                partial(rpc.add_AdminServicer_to_server, admin),
                partial(ingest_rpc.add_IngestServicer_to_server, IngestServicer(ingest)),
            ]
            if telemetry.figures is not None:
                watch_queries(telemetry.figures, retriever)
                watch_index(telemetry.figures, home, retriever, publisher)
                watch_writes(telemetry.figures, commit)
                for worker in (commit, listener.texts, listener.items, listener.users):
                    watch_worker(telemetry.figures, worker)
                watch_log(telemetry.figures, lambda: state.read(lambda reading: reading.head.sequence))
            if following is not None:
                publisher.prepare_in(following.processes)
                supervisor.listen(following.processes.tell_health)
                owner = OwnerServicer(store, state, cache, following.processes)
                services.append(partial(owner_rpc.add_OwnerServicer_to_server, owner))
            try:
                answers = answering(config, settings, health_servicer, services, telemetry, priority=priority)
                with answers as (address, local):
                    if following is None:
                        reached = Reached(address, local, config.tls_cert is not None, metrics=metrics)
                        publisher.resume(partial(identity.announce, home, reached))
                    else:
                        announce = partial(identity.announce, home, following.reached)
                        publisher.resume(partial(following.processes.announce_by, announce))
                    yield address
            finally:
                if following is not None:
                    following.processes.close()
                home.server_file.unlink(missing_ok=True)
                gc.unfreeze()  # what the publisher froze is else not freed at the end, and DuckDB complains


@contextmanager
def _noting(config: ServerConfig, following: Following | None) -> Iterator[tuple[Telemetry, str]]:
    """Yield what this process notes of itself, and the URL of the metrics, "" where they are not its own.

    Raises:
        TracesNotInstalledError, BadAddressError, CannotListenError: as `serve`.
    """
    with ExitStack() as stack:
        if following is not None:
            figures, url = following.figures, ""
        elif config.metrics_port is None:
            figures, url = None, ""
        else:
            figures = own = Figures()
            stack.enter_context(own.refreshed())

            def sources() -> list[FiguresSource]:
                own.refresh()
                return [FiguresSource("server", own.read())]

            url = stack.enter_context(exposed(sources, config.metrics_host, config.metrics_port))
        if figures is not None:
            watch_process(figures)
        telemetry = stack.enter_context(noting(config, figures, counts_passed_on=following is None))
        yield telemetry, url


@contextmanager
def answering(
    config: ServerConfig,
    settings: Rereading,
    health_servicer: health.HealthServicer,
    services: Sequence[Callable[[grpc.Server], None]],
    telemetry: Telemetry,
    options: Sequence[tuple[str, int]] = (),
    *,
    for_commands: bool = True,
    priority: QueryPriority | None = None,
) -> Iterator[tuple[str, str]]:
    """Yield the address of a gRPC server while it runs some services, and its address for commands.

    Args:
        config: where to listen, and how many calls run at once.
        settings: those that may change meanwhile.
        health_servicer: is told when the server ends.
        services: each is added to the server.
        telemetry: what is noted of calls.
        options: of gRPC, beside and in the place of the usual ones.
        for_commands: whether commands on this machine get a port without TLS where the other one wants TLS.
        priority: counts the queries that wait to be answered together.

    Raises:
        BadAddressError, CannotListenError, TlsFilesError: as `serve`.
    """
    admission = Admission(config.workers, config.queue, priority, telemetry)
    if telemetry.figures is not None:
        watch_calls(telemetry.figures, admission)
    usual = dict(OPTIONS) | dict(options)
    server = grpc.server(admission.refusals, interceptors=[admission], options=list(usual.items()))
    for add in services:
        add(server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    addresses = _listen(server, config, for_commands=for_commands)
    server.start()
    try:
        yield addresses
    finally:
        health_servicer.enter_graceful_shutdown()
        server.stop(settings.config.grace_seconds).wait()
        admission.shutdown()  # a call nobody waits for any more still holds the store and the cache


def _listen(server: grpc.Server, config: ServerConfig, *, for_commands: bool) -> tuple[str, str]:
    """Open the port; return the address of the server, and the one for commands on this machine.

    Raises:
        BadAddressError, CannotListenError, TlsFilesError: as `serve`.
    """
    wanted = Listening.on(config.host, config.port)
    if (config.tls_cert is None) != (config.tls_key is None):
        raise TlsFilesError("TLS needs both a certificate and a key")
    tls = None
    if config.tls_cert is not None and config.tls_key is not None:
        tls = server_credentials(config.tls_cert, config.tls_key)
    # gRPC would take a socket away from the server that listens on it.
    if wanted.unix_path is not None and (error := wanted.error()):
        raise error
    try:
        port = server.add_secure_port(wanted.bound, tls) if tls else server.add_insecure_port(wanted.bound)
    except RuntimeError as error:
        raise wanted.error() or CannotListenError(wanted.bound, str(error)) from error
    reached = Listening(wanted.host, port).reached
    if tls is None or not for_commands:
        return reached, reached
    # Commands beside the server cannot know which name and root its certificate is good for.
    return reached, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
