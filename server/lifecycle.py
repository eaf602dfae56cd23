"""A server from start to clean end, and the change of what it serves."""

import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from encoder.text_cache import TextCache
from server.after_commit import AfterCommit
from server.config import MAX_MESSAGE_BYTES, ServerConfig
from server.group_commit import GroupCommit
from server.ingest import Ingest
from server.ingest_servicer import IngestServicer
from server.live_items import LiveItems
from server.live_users import LiveUsers
from server.pb.triptych.v1 import ingest_pb2_grpc as ingest_rpc
from server.pb.triptych.v1 import triptych_pb2_grpc as rpc
from server.publisher import SERVICES, Publisher
from server.retriever import Retriever
from server.servicers import AdminServicer, RetrievalServicer
from server.traffic import Traffic
from store.duck import Store
from store.rebuild import bring_up_to_date
from store.state import UserState
from store.writing import Writer

_LOOK_SECONDS = 0.1
_SWITCH_SECONDS = 0.0005  # a query would wait ten times as long for the thread that writes to let it go on
log = logging.getLogger(__name__)


class PortInUseError(OSError):
    """Nothing can listen on the address."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address


class TlsFilesError(ValueError):
    """Only one of certificate and key was given."""


def serve(config: ServerConfig) -> None:
    """Run a server until SIGTERM or SIGINT; running calls finish first.

    Raises:
        StoreLockedError: another process owns the home's store.
        DamagedArtifactError: what CURRENT names is damaged.
        PortInUseError: the port is taken.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: asked.append(received))
    with running(config) as address:
        log.info("listening on %s", address)
        # Not an Event: a signal that another thread receives does not wake a wait without end.
        while not asked:
            time.sleep(_LOOK_SECONDS)
        log.info("stopping: running calls have %.0f s to finish", config.grace_seconds)


@contextmanager
def running(config: ServerConfig) -> Iterator[str]:
    """Yield the address of a server that answers while the block runs.  Raises: as `serve`."""
    home = config.home
    with (
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        bring_up_to_date(store, state)
        traffic, health_of = Traffic(), health.HealthServicer()
        retriever = Retriever(store, state, traffic=traffic)
        with (
            LiveItems(store, retriever) as live,
            LiveUsers(store, retriever) as live_users,
            AfterCommit(store, retriever, live, live_users) as after,
            GroupCommit(Writer(store, state, traffic.pause), after.changed) as commit,
        ):
            publisher = Publisher(config, store, state, cache, retriever, after, live, live_users, health_of)
            ingest = Ingest(home, store, state, cache, commit, after)
            ingest.resume()
            server, calls = _server(config)
            retrieval = RetrievalServicer(retriever, max(1, config.workers // 4))
            rpc.add_RetrievalServicer_to_server(retrieval, server)
            rpc.add_AdminServicer_to_server(AdminServicer(home, store, retriever, publisher), server)
            servicer = IngestServicer(ingest, max(1, config.workers // 2))
            ingest_rpc.add_IngestServicer_to_server(servicer, server)
            _add_health(server, health_of)
            address, local = _listen(server, config)
            server.start()
            try:
                publisher.resume()
                _announce(config, address, local)
                yield address
            finally:
                health_of.enter_graceful_shutdown()
                server.stop(config.grace_seconds).wait()
                calls.shutdown()  # a call that nobody waits for any more still holds the store and the cache
                home.server_file.unlink(missing_ok=True)
                gc.unfreeze()  # what the publisher froze is else not freed at the end, and DuckDB complains


def _server(config: ServerConfig) -> tuple[grpc.Server, ThreadPoolExecutor]:
    """Return a server without services, and the threads that answer its calls."""
    calls = ThreadPoolExecutor(config.workers, thread_name_prefix="call")
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),
    ]
    return grpc.server(calls, maximum_concurrent_rpcs=config.workers + config.queue, options=options), calls


def _add_health(server: grpc.Server, health_of: health.HealthServicer) -> None:
    """Add the services that say how the others do, which is not serving yet, and what they are."""
    for service in ("", *SERVICES):
        health_of.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_of, server)
    names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _listen(server: grpc.Server, config: ServerConfig) -> tuple[str, str]:
    """Return the address to serve on, and the one that commands on this machine use."""
    wanted = f"{config.host}:{config.port}"
    if (config.tls_cert is None) != (config.tls_key is None):
        raise TlsFilesError("TLS needs both a certificate and a key")
    try:
        if config.tls_cert is not None and config.tls_key is not None:
            pair = (config.tls_key.read_bytes(), config.tls_cert.read_bytes())
            port = server.add_secure_port(wanted, grpc.ssl_server_credentials([pair]))
            # Commands beside the server cannot know which name and root its certificate is good for.
            return f"{config.host}:{port}", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        address = f"{config.host}:{server.add_insecure_port(wanted)}"
    except RuntimeError as error:
        raise PortInUseError(wanted, "the port is taken or the address is not this machine's") from error
    return address, address


def _announce(config: ServerConfig, address: str, local: str) -> None:
    """Write server.json whole, so that a command that reads it never sees half of it."""
    draft = config.home.server_file.with_suffix(".tmp")
    said = {"address": address, "local": local, "pid": os.getpid(), "tls": config.tls_cert is not None}
    draft.write_text(json.dumps(said) + "\n", "utf-8")
    draft.replace(config.home.server_file)
