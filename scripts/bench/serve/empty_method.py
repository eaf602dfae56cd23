"""An empty gRPC method: the settings of our server, bytes in, a reply that was made once; what nothing beats.

Example: python -m scripts.bench.serve.empty_method REPLIES ANNOUNCED --workers 8
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import grpc
import typer

from scripts.bench.serve.work import EMPTY_SERVICE
from server.app import OPTIONS
from server.config import ServerConfig

_SWITCH_SECONDS = 0.0005  # as our server
_QUEUE = ServerConfig.queue


def serve_empty(
    replies: Annotated[Path, typer.Argument(help="Folder of KIND.bin, the replies.")],
    announced: Annotated[Path, typer.Argument(help="Where to write address and pid.")],
    workers: Annotated[int, typer.Option(min=1)] = 8,
    port: Annotated[int, typer.Option(min=0, help="0 takes a free one.")] = 0,
    shared: Annotated[bool, typer.Option(help="Share the port with other processes.")] = False,
) -> None:
    """Serve on loopback until SIGTERM."""
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda received, _: signals.append(received))
    sys.setswitchinterval(_SWITCH_SECONDS)
    options = [(name, value) for name, value in OPTIONS if name != "grpc.so_reuseport"]
    server = grpc.server(
        ThreadPoolExecutor(workers),
        handlers=[empty_methods(replies)],
        maximum_concurrent_rpcs=workers + _QUEUE,
        options=[*options, ("grpc.so_reuseport", int(shared))],
    )
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    announce(announced, f"127.0.0.1:{bound}")
    while not signals:  # a signal that another thread receives does not wake a wait without end
        time.sleep(0.1)
    server.stop(None).wait()


def empty_methods(replies: Path) -> "grpc.GenericRpcHandler[bytes, bytes]":
    """Return methods that read nothing and answer with the bytes of KIND.bin in a folder."""
    made = {path.stem: path.read_bytes() for path in replies.glob("*.bin")}
    handlers = {kind: grpc.unary_unary_rpc_method_handler(_constant(reply)) for kind, reply in made.items()}
    return grpc.method_handlers_generic_handler(EMPTY_SERVICE, handlers)


def announce(path: Path, address: str) -> None:
    """Write address and pid, whole or not at all."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps({"address": address, "pid": os.getpid()}), "utf-8")
    draft.replace(path)


def _constant(reply: bytes) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    return lambda request, context: reply  # noqa: ARG005


if __name__ == "__main__":
    typer.run(serve_empty)
