"""The RPCs of Ingest: translate, call, translate back."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

import grpc

from server.access import granted
from server.cancellation import result_of
from server.live import Ingest
from server.peer import peer_of, sees_available_alone
from server.status import status_of_errors
from server.wire.ingest import (
    Write,
    add_to,
    attributes_reply,
    batch_of,
    erase_reply,
    export_replies,
    folder_of,
    found_reply,
    import_reply,
    item_search_of,
    log_of,
    part_of,
    request_of,
    standing_reply,
    user_of,
    write_reply,
)
from store.writes import LogStanding, WriteResult
from triptych_client.pb.v1 import ingest_pb2 as pb
from triptych_client.pb.v1 import ingest_pb2_grpc as rpc

_IN_FLIGHT = 8  # requests of one stream, so that several share a transaction


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
        """Write texts; queries use them once they are encoded.  Status: as PutItems."""
        return self._write(request, context)

    def PutFriends(self, request: pb.PutFriendsRequest, context: grpc.ServicerContext) -> pb.WriteResponse:
        """Write ties.  Status: as PutItems."""
        return self._write(request, context)

    def AppendImpressions(
        self, request: pb.AppendImpressionsRequest, context: grpc.ServicerContext
    ) -> pb.WriteResponse:
        """Write impressions.  Status: as PutItems."""
        return self._write(request, context)

    def SetConsent(self, request: pb.SetConsentRequest, context: grpc.ServicerContext) -> pb.WriteResponse:
        """Write consents.  Status: as PutItems."""
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

    def StreamImpressions(
        self, request_iterator: Iterator[pb.AppendImpressionsRequest], context: grpc.ServicerContext
    ) -> pb.StreamResponse:
        """Write impressions.  Status: as StreamItems."""
        return self._stream(request_iterator, context)

    def ApplyLog(self, request: pb.ApplyLogRequest, context: grpc.ServicerContext) -> pb.ApplyLogResponse:
        """Write events of a log.  Status: INVALID_ARGUMENT, UNAVAILABLE."""
        with status_of_errors(context):
            if request.HasField("through"):
                standing = result_of(self._ingest.write(batch_of(request))).standing or LogStanding()
            else:
                standing = self._ingest.standing(log_of(request))
            return standing_reply(standing, self._ingest.home_id)

    def EraseUser(self, request: pb.EraseUserRequest, context: grpc.ServicerContext) -> pb.EraseUserResponse:
        """Erase a user.  Status: INVALID_ARGUMENT; an unknown user is no error."""
        with status_of_errors(context):
            erased = self._ingest.erase(user_of(request), peer_of(context))
            return erase_reply(erased, self._ingest.commit_number())

    def ExportUser(
        self, request: pb.ExportUserRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportUserResponse]:
        """Send all that is stored about a user, in messages below 4 MB.  Status: INVALID_ARGUMENT."""
        with status_of_errors(context):
            part = part_of(request)
            for table, rows, total in self._ingest.export(user_of(request), peer_of(context), part):
                yield from export_replies(table, rows, total)

    def FindItems(self, request: pb.FindItemsRequest, context: grpc.ServicerContext) -> pb.FindItemsResponse:
        """Send items as they are stored, by pages.  Status: INVALID_ARGUMENT."""
        with status_of_errors(context):
            grant = granted()
            available = sees_available_alone(context, None if grant is None else grant.token.scopes)
            return found_reply(*self._ingest.find_items(item_search_of(request, available=available)))

    def ListAttributes(
        self, request: pb.ListAttributesRequest, context: grpc.ServicerContext
    ) -> pb.ListAttributesResponse:
        """Tell what filters can ask for."""
        with status_of_errors(context):
            return attributes_reply(self._ingest.list_attributes())

    def ImportFolder(
        self, request: pb.ImportFolderRequest, context: grpc.ServicerContext
    ) -> pb.ImportFolderResponse:
        """Import a folder of this machine.  Status: PERMISSION_DENIED, INVALID_ARGUMENT."""
        with status_of_errors(context):
            path, options = folder_of(request, peer_of(context))
            report = self._ingest.import_folder(path, options)
            return import_reply(report, self._ingest.commit_number())

    def _write(self, request: Write, context: grpc.ServicerContext) -> pb.WriteResponse:
        with status_of_errors(context):
            done = result_of(self._ingest.write(request_of(request)))
            return write_reply(done, self._ingest.commit_number())

    def _stream(self, requests: Iterator[Write], context: grpc.ServicerContext) -> pb.StreamResponse:
        total = pb.StreamResponse()
        waiting: deque[Future[WriteResult]] = deque()
        with status_of_errors(context):
            try:
                for request in requests:
                    waiting.append(self._ingest.write(request_of(request)))
                    if len(waiting) == _IN_FLIGHT:
                        add_to(total, result_of(waiting.popleft()))
                for result in waiting:
                    add_to(total, result_of(result))
                total.commit = self._ingest.commit_number()
            except grpc.RpcError:  # the client went away; what was submitted before may be written
                return total
        return total
