"""How the gateway reaches servers: discovery, balancing, health, bounds and TLS."""

import ipaddress
from collections.abc import Sequence
from typing import Any

from scripts.gateway.routing import CLUSTER, IDLE_SECONDS
from triptych_client import Tls, target_of

_TYPES = "type.googleapis.com/envoy.extensions"
_CALLS_AT_ONCE = 4_096  # further ones get UNAVAILABLE
_CALLS_AT_ONCE_PER_CONNECTION = 4


class MixedAddressesError(ValueError):
    """Names and unix sockets cannot be addresses of one gateway."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__(
            f"{', '.join(addresses)}: a unix socket goes together with IP addresses, not with names; "
            "write IP addresses"
        )
        self.addresses = addresses


def cluster(addresses: Sequence[str], tls: Tls | None, calls_per_connection: int) -> dict[str, Any]:
    """Return the cluster of servers that answer alike; all are asked where none is healthy, so one says why.

    Args:
        addresses: host:port, [IPv6]:port or unix:/path; a name stands for all that it resolves to.
        tls: what to trust and what to show; None for servers without TLS. The certificate of a server is for
            the host of its address.
        calls_per_connection: after which a connection is replaced by another; 0 for never. Where several
            processes listen on one port, the kernel draws the process of each connection by lot, and many
            connections that do not live long share the calls out.

    Raises:
        BadAddressError: an address is not written as one.
        MixedAddressesError: names and unix sockets.
    """
    endpoints = [{"endpoint": {"address": _endpoint(address)}} for address in addresses]
    made: dict[str, Any] = {
        "name": CLUSTER,
        "type": _discovery(addresses),
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _protocol(calls_per_connection)
        },
        "health_checks": [_HEALTH_CHECK],
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
        "outlier_detection": _EJECTION,
        "circuit_breakers": {"thresholds": [_BREAKER]},
    }
    return made if tls is None else made | {"transport_socket": _tls(tls)}


def _tls(files: Tls) -> dict[str, Any]:
    context: dict[str, Any] = {
        "alpn_protocols": ["h2"],
        "validation_context": {"trusted_ca": {"filename": str(files.ca)}},
    }
    if files.certificate is not None:
        own = {
            "certificate_chain": {"filename": str(files.certificate)},
            "private_key": {"filename": str(files.key)},
        }
        context["tls_certificates"] = [own]
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": context,
            "auto_host_sni": True,
            "auto_sni_san_validation": True,
        },
    }


def _protocol(calls_per_connection: int) -> dict[str, Any]:
    common: dict[str, Any] = {"idle_timeout": f"{IDLE_SECONDS}s"}
    if calls_per_connection:
        common["max_requests_per_connection"] = calls_per_connection
    return {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": common,
        "explicit_http_config": {
            "http2_protocol_options": {
                "max_concurrent_streams": _CALLS_AT_ONCE_PER_CONNECTION,
                "initial_stream_window_size": 1 << 20,
                "initial_connection_window_size": 1 << 22,
                "connection_keepalive": {"interval": "60s", "timeout": "20s"},
            }
        },
    }


_HEALTH_CHECK = {
    "grpc_health_check": {"service_name": "triptych.v1.Retrieval"},
    "timeout": "2s",
    "interval": "2s",
    "no_traffic_interval": "5s",
    "unhealthy_threshold": 2,
    "healthy_threshold": 1,
}
_EJECTION = {  # of a server that cannot be reached or says so, five times in a row
    "consecutive_gateway_failure": 5,
    "enforcing_consecutive_gateway_failure": 100,
    "enforcing_consecutive_5xx": 0,
    "enforcing_success_rate": 0,
    "interval": "5s",
    "base_ejection_time": "10s",
    "max_ejection_percent": 50,
}
_BREAKER = {
    "max_connections": _CALLS_AT_ONCE,
    "max_pending_requests": _CALLS_AT_ONCE,
    "max_requests": _CALLS_AT_ONCE,
    "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 8},
}


def _discovery(addresses: Sequence[str]) -> str:
    hosts = [_split(address)[0] for address in addresses]
    if all(host == "" or is_ip(host) for host in hosts):
        return "STATIC"
    if "" in hosts:
        raise MixedAddressesError(addresses)
    return "STRICT_DNS"


def _endpoint(address: str) -> dict[str, Any]:
    host, rest = _split(address)
    if not host:
        return {"pipe": {"path": rest}}
    return {"socket_address": {"address": host, "port_value": int(rest)}}


def _split(address: str) -> tuple[str, str]:
    """Return host and port, or "" and the path of a unix socket.  Raises: BadAddressError."""
    target = target_of(address)
    if target.startswith("unix:"):
        return "", target.removeprefix("unix:")
    host, _, port = target.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port


def is_ip(host: str) -> bool:
    """Return whether a host is an IP address, written without brackets."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
