"""The RPCs of Owner and StoredRows, which query processes call: joining, and what they read of the store."""

from collections.abc import Iterator

import grpc
import pyarrow as pa

from encoder.text import TextCache
from server.live import QueryProcesses
from server.pb.triptych.internal.v1 import owner_pb2 as pb
from server.pb.triptych.internal.v1 import owner_pb2_grpc as rpc
from server.status import status_of_errors
from store.state import UserState
from store.store import Store


class OwnerServicer(rpc.OwnerServicer):
    """triptych.internal.v1.Owner."""

    def __init__(self, state: UserState, cache: TextCache, processes: QueryProcesses) -> None:
        self._state = state
        self._cache = cache
        self._processes = processes

    def Join(self, request: pb.JoinRequest, context: grpc.ServicerContext) -> Iterator[pb.JoinResponse]:
        """Tell a query process what to prepare, until it or the owner ends."""
        try:
            with self._processes.joined(request.pid) as told:
                context.add_callback(lambda: told.put(None))
                while (what := told.get()) is not None:
                    yield what
        finally:
            for file in (self._state, self._cache):  # a process that was killed may have been reading
                file.free_readers()

    def Prepared(self, request: pb.PreparedRequest, context: grpc.ServicerContext) -> pb.PreparedResponse:
        """Note that a query process has prepared an index, or cannot."""
        self._processes.prepared(request.pid, request.index_id, request.error)
        return pb.PreparedResponse()

    def RepairUser(
        self, request: pb.RepairUserRequest, context: grpc.ServicerContext
    ) -> pb.RepairUserResponse:
        """Have damaged records of a user written again."""
        with status_of_errors(context):
            self._state.users([request.user_id])
            return pb.RepairUserResponse()


class StoredRowsServicer(rpc.StoredRowsServicer):
    """triptych.internal.v1.StoredRows."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ReadItem(self, request: pb.ReadItemRequest, context: grpc.ServicerContext) -> pb.ReadItemResponse:
        """Read an item of the store.  Status: NOT_FOUND."""
        with status_of_errors(context):
            table = self._store.item_table(request.item_id)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            return pb.ReadItemResponse(table=sink.getvalue().to_pybytes())

    def ReadTexts(self, request: pb.ReadTextsRequest, context: grpc.ServicerContext) -> pb.ReadTextsResponse:
        """Read the texts of a user."""
        with status_of_errors(context):
            return pb.ReadTextsResponse(texts=sorted(self._store.texts_of(request.user_id)))
