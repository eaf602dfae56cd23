"""A bare gRPC server: the settings of ours, but replies that were made once; the floor to compare with.

Example: python -m scripts.bench.bare_grpc REPLIES ANNOUNCED --workers 8
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import grpc
import typer

from server.config import MAX_MESSAGE_BYTES, ServerConfig
from server.pb.triptych.v1 import triptych_pb2 as pb
from server.pb.triptych.v1 import triptych_pb2_grpc as rpc

BATCH = "batch"
_QUEUE = ServerConfig.queue


class BareServicer(rpc.RetrievalServicer):
    """Answers every call with the one reply of its kind; does no work."""

    def __init__(self, replies: Path) -> None:
        self._query = {
            path.stem: pb.QueryResponse.FromString(path.read_bytes())
            for path in replies.glob("*.bin")
            if path.stem != BATCH
        }
        batch = replies / f"{BATCH}.bin"
        self._batch = pb.QueryBatchResponse.FromString(batch.read_bytes() if batch.exists() else b"")

    def EncodeUser(  # noqa: N802
        self,
        request: pb.EncodeUserRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.EncodeUserResponse:
        """Return nothing; no benchmark asks for it."""
        return pb.EncodeUserResponse()

    def Predict(  # noqa: N802
        self,
        request: pb.PredictRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.PredictResponse:
        """Return nothing; no benchmark asks for it."""
        return pb.PredictResponse()

    def Query(self, request: pb.QueryRequest, context: grpc.ServicerContext) -> pb.QueryResponse:  # noqa: ARG002, N802
        """Return the reply for this kind of subject."""
        return self._query[request.WhichOneof("subject") or ""]

    def QueryStream(  # noqa: N802
        self,
        requests: Iterator[pb.QueryRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[pb.QueryStreamResponse]:
        """Yield the reply for each request's kind of subject."""
        for request in requests:
            yield pb.QueryStreamResponse(response=self.Query(request, context))

    def QueryBatch(  # noqa: N802
        self,
        request: pb.QueryBatchRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.QueryBatchResponse:
        """Return the reply for a batch."""
        return self._batch


def serve_bare(
    replies: Annotated[Path, typer.Argument(help="Folder of KIND.bin, serialised replies.")],
    announced: Annotated[Path, typer.Argument(help="Where to write address and pid.")],
    workers: Annotated[int, typer.Option(min=1)] = 8,
) -> None:
    """Serve until SIGTERM on a free loopback port."""
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda received, _: signals.append(received))
    server = grpc.server(
        ThreadPoolExecutor(workers),
        maximum_concurrent_rpcs=workers + _QUEUE,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ],
    )
    rpc.add_RetrievalServicer_to_server(BareServicer(replies), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    announce(announced, f"127.0.0.1:{port}")
    while not signals:  # a signal that another thread receives does not wake a wait without end
        time.sleep(0.1)
    server.stop(None).wait()


def announce(path: Path, address: str) -> None:
    """Write address and pid, whole or not at all."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps({"address": address, "pid": os.getpid()}), "utf-8")
    draft.replace(path)


if __name__ == "__main__":
    typer.run(serve_bare)
