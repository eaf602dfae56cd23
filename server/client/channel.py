"""Connections of clients: message sizes, TLS, and what is repeated when the server cannot be reached."""

import json
import random
import time
from pathlib import Path

import grpc
import grpc.aio

from server.addresses import target_of
from server.client.errors import CallError
from server.config import MAX_MESSAGE_BYTES
from server.tls import channel_credentials

TIMEOUT = 10.0  # seconds
IMPORT_TIMEOUT = 3600.0

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between repetitions

# gRPC itself repeats a stream, until its first reply; it knows no more than five attempts.
_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "triptych.v1.Retrieval", "method": "QueryStream"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
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


class Patience:
    """The time that a call has, and when within it the call may be repeated.

    Every call may be: reads change nothing, and writes carry a request id.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self._end - time.monotonic())

    def pause(self, error: CallError) -> float:
        """Return the seconds to wait before the call is repeated.

        A server that cannot be reached, or does not serve yet, is tried until the time is over; one that
        is too busy, when it says so.

        Raises:
            CallError: the given one, where the time is over or repeating cannot help.
        """
        pause = error.retry_after
        if pause is None and error.code is grpc.StatusCode.UNAVAILABLE and not error.about_tls:
            pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        if pause is None:
            raise error
        pause *= random.uniform(0.5, 1.0)  # noqa: S311  # clients of one server do not all come back at once
        if pause >= self.left:
            raise error
        return pause


def connect(address: str, tls_ca: Path | None = None) -> grpc.Channel:
    """Return a channel to a server, with TLS where a PEM root certificate is given.

    Raises:
        BadAddressError, TlsFilesError.
    """
    target = target_of(address)
    if tls_ca is None:
        return grpc.insecure_channel(target, _OPTIONS)
    return grpc.secure_channel(target, channel_credentials(tls_ca), _OPTIONS)


def connect_async(address: str, tls_ca: Path | None = None) -> grpc.aio.Channel:
    """Return the same for an event loop.  Raises: as `connect`."""
    target = target_of(address)
    if tls_ca is None:
        return grpc.aio.insecure_channel(target, _OPTIONS)
    return grpc.aio.secure_channel(target, channel_credentials(tls_ca), _OPTIONS)
