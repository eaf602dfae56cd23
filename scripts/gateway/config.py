"""What Envoy starts with, made from the proto and a few settings."""

import base64
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.gateway.cluster import cluster, is_ip
from scripts.gateway.errors import LOCAL_REPLIES
from scripts.gateway.methods import descriptors, offered
from scripts.gateway.routing import BODY_BOUND, CLUSTER, IDLE_SECONDS, TRANSCODER, route_config
from server.addresses import CannotListenError
from triptych_client import MAX_MESSAGE_BYTES, Tls

ADMIN, CERTIFICATE = "admin.sock", "certificate.json"
_CERTIFICATE_NAME = "gateway"
HEALTH_PATH = "/healthz"
_TYPES = "type.googleapis.com/envoy.extensions"
_HTTP = f"{_TYPES}.filters.http"
CALLS_PER_CONNECTION = 16
_MAX_CONNECTIONS = 10_000
_MAX_HEADER_KB = 16
_MAX_HEADERS = 64
_MAX_HEAP_BYTES = 2 << 30
_HEADER_SECONDS = 10  # in which the headers of a request must come


@dataclass(frozen=True)
class GatewayConfig:
    """Settings of a gateway.

    Attributes:
        addresses: of servers that answer alike, host:port, [IPv6]:port or unix:/path.
        host: where to listen, a name or IP address.
        port: 0 for any free one.
        tls_cert: PEM certificate chain of the gateway; None for no TLS.
        tls_key: of that.
        server_tls: root certificates of the servers, and what they are shown; None for no TLS to them.
        origins: whose pages browsers let call, such as https://shop.example; "*" for all.
        calls_per_connection: to servers, as `cluster` has it.
        access_log: whether each call is a line on stdout.
    """

    addresses: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 8080
    tls_cert: Path | None = None
    tls_key: Path | None = None
    server_tls: Tls | None = None
    origins: Sequence[str] = ()
    calls_per_connection: int = CALLS_PER_CONNECTION
    access_log: bool = True


def bootstrap(config: GatewayConfig, openapi: str, folder: Path | None = None) -> dict[str, Any]:
    """Return what Envoy starts with, to be written as JSON.

    Args:
        config: of the gateway.
        openapi: the description of the JSON form, which the gateway shows.
        folder: has ADMIN, the unix socket by which Envoy is asked and ended, and CERTIFICATE; None where
            Envoy is asked by nobody, and reads its certificate once.

    Raises:
        BadAddressError, MixedAddressesError: an address of a server cannot be used.
        CannotListenError: the host is no name that is known.
    """
    listener = _listener(config, openapi, folder)
    servers = cluster(config.addresses, config.server_tls, config.calls_per_connection)
    made: dict[str, Any] = {
        "node": {"id": "triptych-gateway", "cluster": "triptych-gateway"},
        "static_resources": {"listeners": [listener], "clusters": [servers]},
        "overload_manager": _overload(),
    }
    if folder is not None:
        made["admin"] = {"address": {"pipe": {"path": str(folder / ADMIN), "mode": 0o600}}}
    return made


def ip_of(host: str) -> str:
    """Return the IP address of a host to listen on.

    Raises:
        CannotListenError: nobody knows the name.
    """
    bare = host.removeprefix("[").removesuffix("]")
    if is_ip(bare):
        return bare
    try:
        found = socket.getaddrinfo(bare, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise CannotListenError(bare, f"{bare!r} is no address and no name that is known: {error}") from error
    return str(found[0][4][0])


def certificate_resource(config: GatewayConfig) -> dict[str, Any]:
    """Return what is written to CERTIFICATE: where the certificate lies, read again when it is replaced."""
    watched = {"watched_directory": {"path": str(Path(str(config.tls_cert)).parent)}}
    secret = {"@type": f"{_TYPES}.transport_sockets.tls.v3.Secret", "name": _CERTIFICATE_NAME}
    return {"resources": [secret | {"tls_certificate": _certificate(config) | watched}]}


def _certificate(config: GatewayConfig) -> dict[str, Any]:
    return {
        "certificate_chain": {"filename": str(config.tls_cert)},
        "private_key": {"filename": str(config.tls_key)},
    }


def _listener(config: GatewayConfig, openapi: str, folder: Path | None) -> dict[str, Any]:
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": _connection_manager(config, openapi),
    }
    chain: dict[str, Any] = {"filters": [manager]}
    if config.tls_cert is not None:
        chain["transport_socket"] = _tls(config, folder)
    return {
        "name": "triptych",
        "address": {"socket_address": {"address": ip_of(config.host), "port_value": config.port}},
        "connection_balance_config": {"exact_balance": {}},  # a client of gRPC has few connections
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [chain],
    }


def _tls(config: GatewayConfig, folder: Path | None) -> dict[str, Any]:
    own: dict[str, Any] = {"tls_certificates": [_certificate(config)]}
    if folder is not None:
        source = {"path_config_source": {"path": str(folder / CERTIFICATE)}, "resource_api_version": "V3"}
        own = {"tls_certificate_sds_secret_configs": [{"name": _CERTIFICATE_NAME, "sds_config": source}]}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                **own,
            },
        },
    }


def _connection_manager(config: GatewayConfig, openapi: str) -> dict[str, Any]:
    return {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "codec_type": "AUTO",
        "server_name": "triptych",
        "use_remote_address": True,  # a caller is not believed what only proxies may say
        "skip_xff_append": True,  # where people call from is no business of the server
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": _MAX_HEADER_KB,
        "request_headers_timeout": f"{_HEADER_SECONDS}s",
        "stream_idle_timeout": f"{IDLE_SECONDS}s",
        "common_http_protocol_options": {
            "idle_timeout": f"{IDLE_SECONDS}s",
            "max_headers_count": _MAX_HEADERS,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 256,
            "initial_stream_window_size": 1 << 18,
            "initial_connection_window_size": 1 << 20,
            "connection_keepalive": {"interval": "60s", "timeout": "20s"},
        },
        "access_log": [_access_log()] if config.access_log else [],
        "local_reply_config": LOCAL_REPLIES,
        "route_config": route_config(offered(descriptors()), config.origins, openapi),
        "http_filters": _filters(),
    }


def _filters() -> list[dict[str, Any]]:
    by_path = {"name": ":path", "string_match": {"exact": HEALTH_PATH}}
    health = {"pass_through_mode": False, "headers": [by_path]}
    return [
        _filter("envoy.filters.http.cors", "cors.v3.Cors"),
        _filter(
            "envoy.filters.http.health_check",
            "health_check.v3.HealthCheck",
            **health,
            cluster_min_healthy_percentages={CLUSTER: {"value": 1}},
        ),
        _filter("envoy.filters.http.grpc_web", "grpc_web.v3.GrpcWeb"),
        # On for JSON alone, by the route: the transcoder bounds no text that is longer than what it may hold.
        _filter(BODY_BOUND, "buffer.v3.Buffer", max_request_bytes=MAX_MESSAGE_BYTES) | {"disabled": True},
        _filter(TRANSCODER, "grpc_json_transcoder.v3.GrpcJsonTranscoder", **_transcoding()),
        _filter("envoy.filters.http.router", "router.v3.Router", suppress_envoy_headers=True),
    ]


def _filter(name: str, kind: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_HTTP}.{kind}"} | settings}


def _transcoding() -> dict[str, Any]:
    described = descriptors()
    return {
        "proto_descriptor_bin": base64.b64encode(described).decode(),
        "services": sorted({method.name.partition("/")[0] for method in offered(described)}),
        "convert_grpc_status": True,
        "max_request_body_size": MAX_MESSAGE_BYTES,
        "max_response_body_size": MAX_MESSAGE_BYTES,
        "print_options": {
            "always_print_primitive_fields": True,
            "preserve_proto_field_names": True,
        },
        "request_validation_options": {
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
    }


def _access_log() -> dict[str, Any]:
    """Return the access log: no address, path, query string or message, any of which may name a person."""
    line = {
        "time": "%START_TIME%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "method": "%ROUTE_NAME%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        # Of gRPC: at the end of a reply, or in its head where that is all. GRPC_STATUS would make one up out
        # of the status of HTTP where an error became JSON.
        "grpc_status": "%TRAILER(GRPC-STATUS)%",
        "grpc_status_head": "%RESP(GRPC-STATUS)%",
        "duration_ms": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "server": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "flags": "%RESPONSE_FLAGS%",
    }
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": f"{_TYPES}.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": line},
        },
    }


def _overload() -> dict[str, Any]:
    connections, heap = "envoy.resource_monitors.global_downstream_max_connections", _HEAP
    monitors = [
        (connections, "downstream_connections.v3.DownstreamConnectionsConfig", _CONNECTION_BOUND),
        (heap, "fixed_heap.v3.FixedHeapConfig", {"max_heap_size_bytes": _MAX_HEAP_BYTES}),
    ]
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {"name": name, "typed_config": {"@type": f"{_TYPES}.resource_monitors.{kind}"} | bound}
            for name, kind, bound in monitors
        ],
        "actions": [
            {
                "name": "envoy.overload_actions.stop_accepting_requests",
                "triggers": [{"name": heap, "threshold": {"value": 0.95}}],
            }
        ],
    }


_HEAP = "envoy.resource_monitors.fixed_heap"
_CONNECTION_BOUND = {"max_active_downstream_connections": _MAX_CONNECTIONS}
