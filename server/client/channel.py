"""Channels to a server, and when a failed call is repeated."""

import json
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from server.addresses import target_of
from server.client.errors import CallError
from server.config import MAX_MESSAGE_BYTES
from server.tls import channel_credentials

TIMEOUT = 10.0  # seconds
IMPORT_TIMEOUT = 3600.0
CONNECTIONS = 4

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between repetitions
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

    Every call may be repeated: reads change nothing, and writes carry a request id.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE

    @property
    def left(self) -> float:
        """Seconds until the time of the call is over."""
        return max(0.0, self._end - time.monotonic())

    def pause(self, error: CallError) -> float:
        """Return the seconds to wait before the call is repeated.

        They double up to one second while the server cannot be reached or does not serve yet; a server that
        is too busy names them itself. Each is shortened by up to half at random.

        Raises:
            CallError: the given one, where the time is over or a repetition cannot help.
        """
        pause = error.retry_after
        if pause is None and error.not_reached:
            pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        if pause is None:
            raise error
        pause *= random.uniform(0.5, 1.0)  # noqa: S311  # so that the clients of one server spread
        if pause >= self.left:
            raise error
        return pause


@dataclass(frozen=True)
class Tls:
    """PEM files of a client.

    Attributes:
        ca: root certificates that the client trusts.
        certificate: the client's own, where the server asks for one.
        key: of that.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials.  Raises: TlsFilesError, OSError."""
        return channel_credentials(self.ca, self.certificate, self.key)


def connect(address: str, tls: Tls | None = None) -> grpc.Channel:
    """Return a channel to a server.

    Raises:
        BadAddressError: the address is not written as one.
        TlsFilesError, OSError: a certificate cannot be used, or not be read.
    """
    target = target_of(address)
    if tls is None:
        return grpc.insecure_channel(target, _OPTIONS)
    return grpc.secure_channel(target, tls.credentials(), _OPTIONS)


def connect_async(address: str, tls: Tls | None = None) -> grpc.aio.Channel:
    """Return a channel for an event loop.  Raises: as `connect`."""
    target = target_of(address)
    if tls is None:
        return grpc.aio.insecure_channel(target, _OPTIONS)
    return grpc.aio.secure_channel(target, tls.credentials(), _OPTIONS)


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
