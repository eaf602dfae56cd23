"""A server from its start to its end."""

import gc
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from encoder.text import TextCache
from server.access import Access, TokenFile
from server.addresses import CannotListenError, Listening, commands_socket
from server.config import ServerConfig
from server.exposure import check_exposure
from server.gauges import watch_calls, watch_index, watch_live_work, watch_log, watch_queries, watch_worker
from server.identity import Identity, Reached
from server.live import (
    ArtifactFollower,
    BucketArtifacts,
    CommitListener,
    Forgetting,
    GroupCommit,
    IndexWriter,
    Ingest,
    Publisher,
    QueryProcesses,
    RecordingIndexWriter,
    StateCopy,
    artifacts_of,
)
from server.pb.triptych.internal.v1 import owner_pb2_grpc as owner_rpc
from server.query import OtherIndex, QueryPriority, Retriever
from server.rereading import Rereading, set_log_level
from server.stopping import StopSignals
from server.supervisor import SERVICES, Supervisor, set_health
from server.telemetry import Figures, ProcessTelemetry, Telemetry, exposed, noting
from server.tls import ServerCertificates, TlsFiles
from server.wire import (
    AdminServicer,
    Admission,
    Gate,
    HomeCalls,
    IngestServicer,
    MethodHandlers,
    OwnerServicer,
    RetrievalServicer,
    StoredRowsServicer,
    answer_observer_of,
)
from store.disk import disk_errors
from store.home import Home
from store.state import UserState, bring_up_to_date
from store.store import Store
from store.writes import Writer
from triptych_client import MAX_MESSAGE_BYTES
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

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
        ExposedError: other machines would get in without TLS and tokens.
        DamagedTokensError: the file of tokens is damaged.
        TlsFilesError: certificate and key cannot be used, or only one of them was given.
        TracesNotInstalledError: traces are wanted, and OpenTelemetry is not installed.
    """
    until_stopped(settings, running(settings.config, settings))


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

    def unannounce() -> None:
        for one in settings.config.each_home():
            one.home.server_file.unlink(missing_ok=True)

    with StopSignals(unannounce, settings.reread) as signals, block as address:
        settings.listen(lambda config: signals.serving(config.stop_seconds))
        log.info("listening on %s", address)
        ready()
        signals.wait()
        log.info("stopping: running calls have %.0f s to finish", settings.config.grace_seconds)


@dataclass(frozen=True)
class Following:
    """The query processes that follow the server of a home, and how callers reach these."""

    processes: QueryProcesses
    reached: Reached


@dataclass(frozen=True)
class HomeServices:
    """What answers calls about one home.

    Attributes:
        tenant: whose home it is, "" where there is one.
        admission: the threads that calls run on.
        health: of the home.
        services: each adds one to a server.
    """

    tenant: str
    admission: Admission
    health: health.HealthServicer
    services: Sequence[Callable[[grpc.Server], None]]


@dataclass(frozen=True)
class _OpenHome:
    """A home whose store is open, its services, and what begins to serve its index and announces it."""

    services: HomeServices
    begin: Callable[[Reached], None]


@contextmanager
def running(config: ServerConfig, settings: Rereading | None = None) -> Iterator[str]:
    """Yield the address of a server that answers while the block runs, all in this process.

    The start goes from the disk upwards: what is stored is opened and brought to one state, the background
    workers start, erasures that a crash interrupted are finished, calls are answered (queries not yet), the
    index is loaded, and server.json is written, by which commands find the server. The end goes back.

    Args:
        config: of the server.
        settings: those that may change while it runs; None where none may.

    Raises:
        as `serve`.
    """
    check_exposure(config)
    settings, front_health = settings or Rereading(config), health.HealthServicer()
    with (
        tempfile.TemporaryDirectory(prefix="triptych-") as folder,  # only this user may enter it
        noting(config) as telemetry,
        _exposed(config, telemetry) as metrics,
        ExitStack() as stack,
    ):
        homes = [
            stack.enter_context(_opened(one, telemetry.of_home(one.tenant))) for one in config.each_home()
        ]
        services = [one.services for one in homes]
        sockets = {one.tenant: commands_socket(Path(folder), one.tenant) for one in services}
        if config.tenants:
            set_health(front_health, dict.fromkeys(("", *SERVICES), False))
        else:
            front_health = services[0].health
        with answering(config, settings, services, front_health, sockets, telemetry) as address:
            for one in homes:
                local = sockets[one.services.tenant]
                one.begin(Reached(address, local, config.tls, metrics=metrics))
            if config.tenants:
                set_health(front_health, dict.fromkeys(("", *SERVICES), True))
            with draining(settings, services, front_health):
                yield address


@contextmanager
def running_owner(
    config: ServerConfig,
    following: Mapping[str, Following],
    settings: Rereading,
    telemetry: ProcessTelemetry,
) -> Iterator[str]:
    """Yield while this process owns homes, whose queries other processes answer; otherwise as `running`.

    Args:
        config: of the server.
        following: the query processes that follow, by tenant.
        settings: those that may change.
        telemetry: what this process notes of itself.

    Raises:
        as `serve`.
    """
    with ExitStack() as stack:
        homes = [
            stack.enter_context(_opened(one, telemetry.of_home(one.tenant), following[one.tenant]))
            for one in config.each_home()
        ]
        sockets = {tenant: one.reached.local for tenant, one in following.items()}
        services = [one.services for one in homes]
        stack.enter_context(answering(config, settings, services, None, sockets, telemetry))
        for one in homes:
            one.begin(following[one.services.tenant].reached)
        yield ", ".join(sockets.values())


@contextmanager
def _exposed(config: ServerConfig, telemetry: ProcessTelemetry) -> Iterator[str]:
    """Yield the URL of the metrics of this process while the block runs; "" where nobody wants them.

    Raises:
        BadAddressError, CannotListenError: as `serve`.
    """
    if config.metrics_port is None:
        yield ""
        return
    with exposed(telemetry.sources, config.metrics_host, config.metrics_port) as url:
        yield url


@contextmanager
def _opened(
    config: ServerConfig, telemetry: Telemetry, following: Following | None = None
) -> Iterator[_OpenHome]:
    """Yield a home that is open while the block runs, which nobody calls any more when it ends."""
    home, health_servicer = config.home, health.HealthServicer()
    supervisor, priority = Supervisor(health_servicer), QueryPriority()
    with (
        disk_errors(home.path),
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        bring_up_to_date(store, state)
        retriever = Retriever(
            store,
            state,
            priority=priority,
            user_cache_bytes=config.user_cache_bytes,
            audience_floor=config.audience_floor,
        )
        writer = Writer(store, state, priority.pause)
        index_writer = RecordingIndexWriter(state) if following or config.state else IndexWriter()
        with (
            CommitListener(store, state, retriever, supervisor, index_writer) as listener,
            GroupCommit(writer, listener.committed, listener.catch_up, supervisor) as commit,
            closing(OtherIndex(home, store, state, cache, retriever)) as others,
        ):
            cache.on_vectors_removed(listener.texts.sweep)
            ingest = Ingest(home, store, state, cache, commit, listener, config.masking)
            ingest.resume()
            shared = artifacts_of(home, config.artifacts)
            publisher = Publisher(
                config, store, state, cache, retriever, listener, supervisor, index_writer, shared
            )
            identity = Identity.of(home, store)
            admin = AdminServicer(
                home,
                store,
                retriever,
                publisher,
                identity,
                supervisor,
                shared,
                others,
                ingest.list_attributes,
                telemetry.recent,
                config.tenant,
            )
            observer = answer_observer_of(telemetry, home.models, retriever)
            services = [
                partial(rpc.add_RetrievalServicer_to_server, RetrievalServicer(retriever, observer)),
                partial(rpc.add_AdminServicer_to_server, admin),
                partial(ingest_rpc.add_IngestServicer_to_server, IngestServicer(ingest)),
                partial(owner_rpc.add_StoredRowsServicer_to_server, StoredRowsServicer(store)),
            ]
            if following is not None:
                publisher.prepare_in(following.processes)
                supervisor.listen(following.processes.tell_health)
                owner = OwnerServicer(state, cache, following.processes)
                services.append(partial(owner_rpc.add_OwnerServicer_to_server, owner))

            def begin(reached: Reached) -> None:
                announce = partial(identity.announce, home, reached)
                if following is not None:
                    announce = partial(following.processes.announce_by, announce)
                publisher.resume(announce)
                within = timedelta(hours=config.forget_hours)
                worker = background.enter_context(
                    Forgetting(home, store, publisher, within, supervisor, shared=shared)
                )
                if isinstance(shared, BucketArtifacts):
                    background.enter_context(ArtifactFollower(publisher, shared, supervisor))
                # From here on: all stored texts are encoded.
                background.enter_context(_copied(config, store.home_id, state, cache, supervisor))
                if telemetry.figures is not None:
                    watch_worker(telemetry.figures, worker)

            background = ExitStack()
            admission = Admission(config.workers, config.queue, priority, telemetry)
            if telemetry.figures is not None:
                _watch(telemetry.figures, admission, home, state, retriever, publisher, commit, listener)
            try:
                with background:
                    yield _OpenHome(HomeServices(config.tenant, admission, health_servicer, services), begin)
            finally:
                if telemetry.figures is not None:
                    telemetry.figures.sample_no_more()
                if following is not None:
                    following.processes.close()
                home.server_file.unlink(missing_ok=True)
                gc.unfreeze()  # what the publisher froze is else not freed at the end, and DuckDB complains


def _copied(
    config: ServerConfig, home_id: str, state: UserState, cache: TextCache, supervisor: Supervisor
) -> AbstractContextManager[object]:
    """Return the block in which the state is copied to where replicas read it, if that is wanted.

    Raises:
        ValkeyNotInstalledError: the client library is missing.
    """
    if config.state is None:
        return nullcontext()
    return StateCopy(config.home, home_id, state, cache, config.state, supervisor)


def _watch(
    figures: Figures,
    admission: Admission,
    home: Home,
    state: UserState,
    retriever: Retriever,
    publisher: Publisher,
    commit: GroupCommit,
    listener: CommitListener,
) -> None:
    """Tell of all that changes in an open home without a call."""
    watch_calls(figures, admission)
    watch_queries(figures, retriever)
    watch_index(figures, home, retriever, publisher)
    watch_log(figures, lambda: state.commit)
    watch_live_work(figures, commit, listener)


@contextmanager
def answering(
    config: ServerConfig,
    settings: Rereading,
    homes: Sequence[HomeServices],
    front_health: health.HealthServicer | None,
    sockets: Mapping[str, str],
    telemetry: ProcessTelemetry,
    options: Sequence[tuple[str, int]] = (),
    counters: Path | None = None,
) -> Iterator[str]:
    """Yield the address of the gRPC servers of some homes while they run.

    One is reached at the configured address, asks for tokens and answers about all homes. Each home has
    another one for commands on this machine, at a unix socket that only this user may open: who may open it
    may open the home.

    Args:
        config: where to listen.
        settings: those that may change meanwhile.
        homes: what answers.
        front_health: what the server at the address says of its health; None for no such server.
        sockets: unix:/path for commands, by tenant; none where another process has them.
        telemetry: what this process notes of itself.
        options: of gRPC, beside and in the place of the usual ones.
        counters: of rate limits, as `Access` has it.

    Raises:
        BadAddressError, CannotListenError, TlsFilesError: as `serve`.
    """
    usual = list((dict(OPTIONS) | dict(options)).items())
    servers = [_for_commands(home, sockets[home.tenant], usual) for home in homes if sockets]
    admissions, address = [home.admission for home in homes], ""
    if front_health is not None:
        access = Access(
            TokenFile(config.tokens),
            frozenset(home.tenant for home in homes),
            lambda: settings.config.rate_limit,
            counters,
        )
        if config.tenants:
            admissions.append(Admission(config.workers, config.queue))
        front = _front(homes, front_health, access, admissions[-1], telemetry, usual)
        address = _listen(front, config)
        servers.append(front)
    for server in servers:
        server.start()
    try:
        yield address
    finally:
        for one in (front_health, *(home.health for home in homes)):
            if one is not None:
                one.enter_graceful_shutdown()
        for ended in [server.stop(settings.config.grace_seconds) for server in servers]:
            ended.wait()
        for admission in admissions:
            admission.shutdown()  # a call nobody waits for any more still holds the store and the cache


@contextmanager
def draining(
    settings: Rereading, homes: Sequence[HomeServices], front_health: health.HealthServicer
) -> Iterator[None]:
    """When the block ends in order, say NOT_SERVING and go on answering for the seconds to drain.

    To be entered last, so that everything by which calls are answered still works meanwhile.
    """
    yield
    for one in (front_health, *(home.health for home in homes)):
        one.enter_graceful_shutdown()
    time.sleep(settings.config.drain_seconds)  # balancers ask for health every few seconds


def _front(
    homes: Sequence[HomeServices],
    health_servicer: health.HealthServicer,
    access: Access,
    others: Admission,
    telemetry: ProcessTelemetry,
    options: list[tuple[str, int]],
) -> grpc.Server:
    """Make the server that asks for tokens; each home's methods are found by the tenant of the token."""
    calls = {}
    for home in homes:
        handlers = MethodHandlers()
        for add in home.services:
            add(handlers)  # type: ignore[arg-type]  # it takes handlers as a server does
        calls[home.tenant] = HomeCalls(home.admission, handlers.find)
    gate = Gate(access, calls, others, telemetry.own)
    server = grpc.server(others.refusals, interceptors=[gate], options=options)
    _add_health(server, health_servicer)
    return server


def _for_commands(home: HomeServices, socket: str, options: list[tuple[str, int]]) -> grpc.Server:
    """Make the server of a home that commands reach, without tokens."""
    server = grpc.server(home.admission.refusals, interceptors=[home.admission], options=options)
    for add in home.services:
        add(server)
    _add_health(server, home.health)
    listening = Listening.on(socket, 0)
    try:
        server.add_insecure_port(listening.bound)
    except RuntimeError as error:
        raise listening.error() or CannotListenError(listening.bound, str(error)) from error
    if listening.unix_path is not None:
        listening.unix_path.chmod(0o600)
    return server


def _add_health(server: grpc.Server, health_servicer: health.HealthServicer) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)


def _listen(server: grpc.Server, config: ServerConfig) -> str:
    """Open the port; return the address by which this machine reaches it.

    Raises:
        BadAddressError, CannotListenError, TlsFilesError: as `serve`.
    """
    wanted = Listening.on(config.host, config.port)
    files = TlsFiles.of(config.tls_cert, config.tls_key, config.tls_client_ca)
    tls = None if files is None else ServerCertificates(files).credentials()
    # gRPC would take a socket away from the server that listens on it.
    if wanted.unix_path is not None and (error := wanted.error()):
        raise error
    try:
        port = server.add_secure_port(wanted.bound, tls) if tls else server.add_insecure_port(wanted.bound)
    except RuntimeError as error:
        raise wanted.error() or CannotListenError(wanted.bound, str(error)) from error
    return Listening(wanted.host, port).reached
