"""The RPCs of Ingest: translate, call, translate back."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

import grpc

from server.cancellation import result_of
from server.live.ingest import Ingest, NotThisMachineError
from server.pb.triptych.v1 import ingest_pb2 as pb
from server.pb.triptych.v1 import ingest_pb2_grpc as rpc
from server.status import status_of_errors
from server.wire.ingest import MAX_ROWS, Write, folder_of, parts_of, person_of, request_of
from store.writes.rows import Written

_IN_FLIGHT = 8  # requests of one stream, so that several share a transaction
_LOOPBACK = ("ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D", "unix:")


class IngestServicer(rpc.IngestServicer):
    """triptych.v1.Ingest."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    def PutItems(self, request: pb.PutItemsRequest, context: grpc.ServicerContext) -> pb.WriteResponse:
        """Write items.  Status: INVALID_ARGUMENT, FAILED_PRECONDITION (request id reused), UNAVAILABLE."""
        return self._write(request, context)

    def DeleteItems(self, request: pb.DeleteItemsRequest, context: grpc.ServicerContext) -> pb.WriteResponse:
        """Empty items.  Status: as PutItems."""
        return self._write(request, context)

    def AppendBehaviors(
        self, request: pb.AppendBehaviorsRequest, context: grpc.ServicerContext
    ) -> pb.WriteResponse:
        """Write behaviours.  Status: as PutItems."""
        return self._write(request, context)

    def AppendTexts(self, request: pb.AppendTextsRequest, context: grpc.ServicerContext) -> pb.WriteResponse:
        """Write texts; queries see them when they are encoded.  Status: as PutItems."""
        return self._write(request, context)

    def PutFriends(self, request: pb.PutFriendsRequest, context: grpc.ServicerContext) -> pb.WriteResponse:
        """Write ties.  Status: as PutItems."""
        return self._write(request, context)

    def StreamItems(
        self, request_iterator: Iterator[pb.PutItemsRequest], context: grpc.ServicerContext
    ) -> pb.StreamResponse:
        """Write items.  Status: as PutItems, and RESOURCE_EXHAUSTED."""
        return self._stream(request_iterator, context)

    def StreamDeletions(
        self, request_iterator: Iterator[pb.DeleteItemsRequest], context: grpc.ServicerContext
    ) -> pb.StreamResponse:
        """Empty items.  Status: as StreamItems."""
        return self._stream(request_iterator, context)

    def StreamBehaviors(
        self, request_iterator: Iterator[pb.AppendBehaviorsRequest], context: grpc.ServicerContext
    ) -> pb.StreamResponse:
        """Write behaviours.  Status: as StreamItems."""
        return self._stream(request_iterator, context)

    def StreamTexts(
        self, request_iterator: Iterator[pb.AppendTextsRequest], context: grpc.ServicerContext
    ) -> pb.StreamResponse:
        """Write texts.  Status: as StreamItems."""
        return self._stream(request_iterator, context)

    def StreamFriends(
        self, request_iterator: Iterator[pb.PutFriendsRequest], context: grpc.ServicerContext
    ) -> pb.StreamResponse:
        """Write ties.  Status: as StreamItems."""
        return self._stream(request_iterator, context)

    def EraseUser(self, request: pb.EraseUserRequest, context: grpc.ServicerContext) -> pb.EraseUserResponse:
        """Remove a person.  Status: INVALID_ARGUMENT; an unknown person is no error."""
        with status_of_errors(context):
            done = self._ingest.erase(person_of(request), context.peer())
            return pb.EraseUserResponse(
                removed=done.removed,
                models=done.models,
                unknown_models=done.unknown_models,
                indexes=done.indexes,
            )

    def ExportUser(
        self, request: pb.ExportUserRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportUserResponse]:
        """Tell all that is stored about a person, in messages below 4 MB.  Status: INVALID_ARGUMENT."""
        with status_of_errors(context):
            for table, rows in self._ingest.export(person_of(request), context.peer()):
                yield from parts_of(table, rows)

    def ImportFolder(
        self, request: pb.ImportFolderRequest, context: grpc.ServicerContext
    ) -> pb.ImportFolderResponse:
        """Import a folder of this machine.  Status: PERMISSION_DENIED, INVALID_ARGUMENT."""
        with status_of_errors(context):
            if not context.peer().startswith(_LOOPBACK):
                raise NotThisMachineError(context.peer())
            report = self._ingest.import_folder(*folder_of(request))
            tables = [
                pb.TableReport(
                    table=name,
                    file=str(one.file),
                    read=one.read,
                    inserted=one.inserted,
                    updated=one.updated,
                    unchanged=one.unchanged,
                    rejected=one.rejected,
                    ignored_columns=one.ignored_columns,
                    rejects_file=str(one.rejects_file or ""),
                    without_text=one.without_text,
                    items_made=one.items_made,
                    remarks=one.remarks,
                )
                for name, one in report.tables.items()
            ]
            return pb.ImportFolderResponse(import_id=report.import_id, tables=tables, seconds=report.seconds)

    def _write(self, request: Write, context: grpc.ServicerContext) -> pb.WriteResponse:
        with status_of_errors(context):
            done = result_of(self._ingest.commit.submit(request_of(request)))
            return pb.WriteResponse(
                inserted=done.inserted,
                updated=done.updated,
                unchanged=done.unchanged,
                rejected=[pb.RejectedRow(position=i, reason=reason) for i, reason in done.rejected],
                repeated_request=done.repeated,
                without_text=done.without_text,
            )

    def _stream(self, requests: Iterator[Write], context: grpc.ServicerContext) -> pb.StreamResponse:
        total = pb.StreamResponse()
        waiting: deque[Future[Written]] = deque()
        with status_of_errors(context):
            try:
                for request in requests:
                    waiting.append(self._ingest.commit.submit(request_of(request)))
                    if len(waiting) == _IN_FLIGHT:
                        _add(total, result_of(waiting.popleft()))
                for result in waiting:
                    _add(total, result_of(result))
            except grpc.RpcError:  # the client went away; what has begun is being written
                return total
        return total


def _add(total: pb.StreamResponse, done: Written) -> None:
    total.inserted += done.inserted
    total.updated += done.updated
    total.unchanged += done.unchanged
    total.rejected_rows += len(done.rejected)
    total.repeated_requests += done.repeated
    total.without_text += done.without_text
    room = MAX_ROWS - len(total.rejected)
    total.rejected.extend(
        pb.RejectedRow(position=i, reason=reason, request=total.requests)
        for i, reason in done.rejected[:room]
    )
    total.requests += 1
