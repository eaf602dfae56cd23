"""A server from start to clean end, and the change of what it serves."""

import gc
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from encoder.text.cache import TextCache
from server.addresses import CannotListenError, Listening
from server.config import MAX_MESSAGE_BYTES, ServerConfig
from server.identity import Identity
from server.live.ingest import Ingest
from server.live.items import LiveItems
from server.live.publisher import Publisher
from server.live.query_priority import QueryPriority
from server.live.texts import CommitListener
from server.live.users import LiveUsers
from server.live.writer import GroupCommit
from server.pb.triptych.v1 import ingest_pb2_grpc as ingest_rpc
from server.pb.triptych.v1 import triptych_pb2_grpc as rpc
from server.query.retriever import Retriever
from server.stopping import StopSignals
from server.supervisor import SERVICES, Supervisor
from server.tls import TlsFilesError, server_credentials
from server.wire.admission import Admission
from server.wire.ingest_servicer import IngestServicer
from server.wire.servicers import AdminServicer, RetrievalServicer
from store.disk import disk_errors
from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
from store.store import Store
from store.writes.writer import Writer

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    # Clients and proxies ping idle connections every ten seconds or less often; half of that is never early.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A client that vanished without a word gives its places back after a minute.
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]
_SWITCH_SECONDS = 0.0005  # a query would wait ten times as long for the thread that writes to let it go on
log = logging.getLogger(__name__)


def serve(config: ServerConfig) -> None:
    """Run a server until SIGTERM or SIGINT; running calls finish first.

    A signal during the start ends it within two seconds; a second signal, or calls that do not end within the
    grace, end the process at once.

    Raises:
        StoreLockedError: another process owns the home's store.
        DamagedArtifactError: what CURRENT names is damaged.
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more.
        BadAddressError, CannotListenError: nothing can listen on the address.
        TlsFilesError: certificate and key cannot be used, or only one of them was given.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    with (
        StopSignals(lambda: config.home.server_file.unlink(missing_ok=True)) as signals,
        running(config) as address,
    ):
        signals.serving(config.grace_seconds)
        log.info("listening on %s", address)
        signals.wait()
        log.info("stopping: running calls have %.0f s to finish", config.grace_seconds)


@contextmanager
def running(config: ServerConfig) -> Iterator[str]:
    """Yield the address of a server that answers while the block runs.  Raises: as `serve`."""
    home = config.home
    with (
        disk_errors(home.path),
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        bring_up_to_date(store, state)
        traffic, health_of = QueryPriority(), health.HealthServicer()
        retriever, supervisor = Retriever(store, state, traffic=traffic), Supervisor(health_of)

        def catch_up() -> None:
            bring_up_to_date(store, state)
            after.missed()

        writer = Writer(store, state, traffic.pause)
        with (
            LiveItems(store, retriever, supervisor) as live,
            LiveUsers(store, retriever, supervisor) as live_users,
            CommitListener(store, retriever, live, live_users, supervisor) as after,
            GroupCommit(writer, after.changed, catch_up, supervisor) as commit,
        ):
            publisher = Publisher(config, store, state, cache, retriever, after, live, live_users, supervisor)
            ingest = Ingest(home, store, state, cache, commit, after)
            cache.on_vectors_removed(after.sweep)
            ingest.resume()
            server, admission = _server(config)
            rpc.add_RetrievalServicer_to_server(RetrievalServicer(retriever), server)
            identity = Identity.of(home, store)
            admin = AdminServicer(home, store, retriever, publisher, identity, supervisor)
            rpc.add_AdminServicer_to_server(admin, server)
            ingest_rpc.add_IngestServicer_to_server(IngestServicer(ingest), server)
            _add_health(server, health_of)
            address, local = _listen(server, config)
            server.start()
            try:
                publisher.resume(partial(_announce, config, identity, address, local))
                yield address
            finally:
                health_of.enter_graceful_shutdown()
                server.stop(config.grace_seconds).wait()
                admission.shutdown()  # a call nobody waits for any more still holds the store and the cache
                home.server_file.unlink(missing_ok=True)
                gc.unfreeze()  # what the publisher froze is else not freed at the end, and DuckDB complains


def _server(config: ServerConfig) -> tuple[grpc.Server, Admission]:
    """Return a server without services, and the rooms that its calls run in."""
    admission = Admission(config.workers, config.queue)
    return grpc.server(admission.refusals, interceptors=[admission], options=OPTIONS), admission


def _add_health(server: grpc.Server, health_of: health.HealthServicer) -> None:
    """Add the services that say how the others do, and what they are."""
    health_pb2_grpc.add_HealthServicer_to_server(health_of, server)
    names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _listen(server: grpc.Server, config: ServerConfig) -> tuple[str, str]:
    """Return the address to serve on, and the one that commands on this machine use."""
    wanted = Listening.on(config.host, config.port)
    if (config.tls_cert is None) != (config.tls_key is None):
        raise TlsFilesError("TLS needs both a certificate and a key")
    tls = None
    if config.tls_cert is not None and config.tls_key is not None:
        tls = server_credentials(config.tls_cert, config.tls_key)
    if wanted.unix_path is not None and (error := wanted.error()):  # gRPC takes a socket away from its server
        raise error
    try:
        port = server.add_secure_port(wanted.bound, tls) if tls else server.add_insecure_port(wanted.bound)
    except RuntimeError as error:
        raise wanted.error() or CannotListenError(wanted.bound, str(error)) from error
    reached = Listening(wanted.host, port).reached
    if tls is None:
        return reached, reached
    # Commands beside the server cannot know which name and root its certificate is good for.
    return reached, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"


def _announce(config: ServerConfig, identity: Identity, address: str, local: str) -> None:
    """Write server.json whole, so that a command that reads it never sees half of it."""
    draft = config.home.server_file.with_suffix(".tmp")
    said = {
        "address": address,
        "local": local,
        "pid": os.getpid(),
        "tls": config.tls_cert is not None,
        "home_id": identity.home_id,
        "server_id": identity.server_id,
    }
    draft.write_text(json.dumps(said) + "\n", "utf-8")
    draft.replace(config.home.server_file)
