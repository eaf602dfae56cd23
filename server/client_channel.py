"""Connections of clients: message sizes, TLS, and what is repeated when the server cannot be reached."""

import json
from pathlib import Path

import grpc
import grpc.aio

from server.config import MAX_MESSAGE_BYTES

TIMEOUT = 10.0  # seconds
IMPORT_TIMEOUT = 3600.0

# Every call may be repeated: reads change nothing, and writes carry a request id.
_SERVICES = ("triptych.v1.Retrieval", "triptych.v1.Ingest")
_RETRIES = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_CONFIG = {
    "methodConfig": [
        {
            "name": [
                *({"service": service} for service in _SERVICES),
                {"service": "triptych.v1.Admin", "method": "Status"},
            ],
            "retryPolicy": _RETRIES,
        }
    ]
}
_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.service_config", json.dumps(_CONFIG)),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


def connect(address: str, tls_ca: Path | None = None) -> grpc.Channel:
    """Return a channel to a server, with TLS where a PEM root certificate is given."""
    if tls_ca is None:
        return grpc.insecure_channel(address, _OPTIONS)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(tls_ca.read_bytes()), _OPTIONS)


def connect_async(address: str, tls_ca: Path | None = None) -> grpc.aio.Channel:
    """Return the same for an event loop."""
    if tls_ca is None:
        return grpc.aio.insecure_channel(address, _OPTIONS)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(tls_ca.read_bytes()), _OPTIONS)
