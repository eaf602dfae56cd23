"""Channels to a server, and when a failed call is repeated."""

import json
import math
import random
import re
import time

import grpc
import grpc.aio

from triptych_client.addresses import target_of
from triptych_client.errors import CallError
from triptych_client.tls import Tls

TIMEOUT = 10.0  # seconds
ADMIN_TIMEOUT = 600.0
IMPORT_TIMEOUT = 3600.0
CONNECTIONS = 4
MAX_MESSAGE_BYTES = 32 * 1024 * 1024  # that a server takes, and sends

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between repetitions
_THIS_MACHINE = ("127.", "localhost:", "[::1]:", "unix:")
_TOKEN = re.compile(r"[A-Za-z0-9_-]+")  # what metadata can hold, and no line break

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
    ("grpc.use_local_subchannel_pool", 1),  # else all channels to an address share one connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


class Patience:
    """Decides how often a failed call is repeated within its time, and after which pauses.

    Most calls may be repeated: reads change nothing, and writes carry a request id.
    """

    def __init__(self, seconds: float, *, repeats: bool = True) -> None:
        self._end = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE
        self._repeats = repeats

    @property
    def left(self) -> float:
        """Seconds until the time of the call is over."""
        return max(0.0, self._end - time.monotonic())

    @property
    def timeout(self) -> float | None:
        """The same as gRPC takes it: None for a call without an end."""
        return None if math.isinf(self._end) else self.left

    def pause(self, error: CallError) -> float:
        """Return the seconds to wait before the call is repeated.

        They double up to one second while the server cannot be reached or does not serve yet; a server that
        is too busy names them itself. Each is shortened by up to half at random.

        Raises:
            CallError: the given one, where the time is over or a repetition cannot help, or may do harm.
        """
        if not self._repeats:
            raise error
        pause = error.retry_after
        if pause is None and error.not_reached:
            pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        if pause is None:
            raise error
        pause *= random.uniform(0.5, 1.0)  # noqa: S311  # so that the clients of one server spread
        if pause >= self.left:
            raise error
        return pause


def _options(target: str) -> list[tuple[str, str | int]]:
    """Return the options of a channel; a proxy of the environment is not asked for this machine."""
    return [*_OPTIONS, ("grpc.enable_http_proxy", 0)] if target.startswith(_THIS_MACHINE) else _OPTIONS


def connect(address: str, tls: Tls | None = None) -> grpc.Channel:
    """Return a channel to a server.

    Raises:
        BadAddressError: the address is not written as one.
        TlsFilesError, OSError: a certificate cannot be used, or not be read.
    """
    target = target_of(address)
    if tls is None:
        return grpc.insecure_channel(target, _options(target))
    return grpc.secure_channel(target, tls.credentials(), _options(target))


def connect_async(address: str, tls: Tls | None = None) -> grpc.aio.Channel:
    """Return a channel for an event loop.  Raises: as `connect`."""
    target = target_of(address)
    if tls is None:
        return grpc.aio.insecure_channel(target, _options(target))
    return grpc.aio.secure_channel(target, tls.credentials(), _options(target))


def metadata_of(token: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata by which a call says who makes it.

    Raises:
        ValueError: the token is none that `triptych token` prints; the message does not say which.
    """
    if token is None:
        return ()
    if not _TOKEN.fullmatch(token):
        raise ValueError("the token is none that `triptych token create` prints")
    return (("authorization", f"Bearer {token}"),)
