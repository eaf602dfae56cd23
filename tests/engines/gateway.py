"""A running gateway, and what a client of REST sees of it."""

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from scripts.gateway.process import RunningGateway
from tests.live_server import SOON

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Reply:
    """What came back: the status of HTTP, the headers in small letters, and the body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """Of the ErrorInfo of an error."""
        return next(one["reason"] for one in self.json["details"] if "reason" in one)


@dataclass(frozen=True)
class Gateway:
    """A gateway, its address, a gRPC channel to it, and the file with its access log."""

    running: RunningGateway
    address: str
    channel: grpc.Channel
    log: Path

    def call(
        self, verb: str, path: str, body: bytes | str | None = None, headers: dict[str, str] = JSON
    ) -> Reply:
        """Make a request of HTTP over a connection of its own."""
        connection = http.client.HTTPConnection(self.address, timeout=SOON)
        try:
            connection.request(verb, path, body, headers)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, named, response.read())
        finally:
            connection.close()

    def ask(self, path: str, message: object, **headers: str) -> Reply:
        """Post a message as JSON."""
        return self.call("POST", path, json.dumps(message), JSON | headers)

    def lines(self) -> list[dict[str, Any]]:
        """Return the access log."""
        text = self.log.read_text("utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
