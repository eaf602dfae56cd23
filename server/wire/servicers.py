"""The RPCs of Retrieval and Admin: translate the request, call, translate the result."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import grpc

from encoder.model_files import list_models
from indexer.index import VectorDimError
from server.access import granted
from server.identity import Identity
from server.live import HomeArtifacts, Published, Publisher
from server.query import (
    Candidates,
    IndexChangedError,
    ItemMaps,
    NotReadyError,
    OtherIndex,
    Query,
    Retriever,
)
from server.status import (
    Failure,
    InvalidRequestError,
    NothingCountedError,
    outcome,
    status_of_errors,
)
from server.supervisor import Supervisor
from server.telemetry import RecentFigures
from server.wire.figures import figures_reply
from server.wire.gate import visible_items
from server.wire.item_map import checked_map, map_replies
from server.wire.listed import index_list, listed_at_most, model_summary, report_summary
from server.wire.micro_batches import answered_together_by
from server.wire.observed import AnswerObserver
from server.wire.packed import packed_batch, packed_reply
from server.wire.predict import predict_reply, question_of
from server.wire.query import (
    checked_id,
    compared_query,
    encode_reply,
    place_of,
    queries_of,
    query_of,
    query_reply,
    stream_reply,
    user_of,
)
from store.attribute_summary import CatalogSummary
from store.export import create_export
from store.home import Home
from store.listing import list_artifacts
from store.reports import read_report
from store.store import ItemNotFoundError, Store
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

_Answer = TypeVar("_Answer")
_Reply = TypeVar("_Reply")


class RetrievalServicer(rpc.RetrievalServicer):
    """triptych.v1.Retrieval."""

    def __init__(self, retriever: Retriever, observer: AnswerObserver | None = None) -> None:
        self._retriever = retriever
        self._observer = observer

    @answered_together_by("answer_together")
    def Query(self, request: pb.QueryRequest, context: grpc.ServicerContext) -> pb.QueryResponse:
        """Top-k candidates of one subject.  Status: as `status.py` says."""
        with status_of_errors(context):
            return self._noted(self._answer(request), query_reply)

    def answer_together(self, requests: Sequence[Any]) -> list[bytes | Failure | None]:
        """Answer the requests of calls of Query that wait; None for one that would hold up the others.

        Each has the answer, or the failure, that it has alone.

        Args:
            requests: QueryRequest, or what is wrong with one that could not be parsed.
        """
        return _answer_small(self._retriever, requests, self._observer)

    def QueryBatch(
        self, request: pb.QueryBatchRequest, context: grpc.ServicerContext
    ) -> pb.QueryBatchResponse:
        """Top-k candidates of each subject, or one error for all.  Status: as Query."""
        with status_of_errors(context):
            queries = queries_of(request, visible_items())
            grant = granted()
            if grant is not None:
                grant.use(len(queries) - 1)  # one was counted with the call
            try:
                answers = self._retriever.retrieve(queries)
            except (ItemNotFoundError, VectorDimError, IndexChangedError) as error:
                error.add_note(place_of(error, queries))
                raise
            reply_began = time.perf_counter()
            replies = [packed_reply(candidates) for candidates in answers]
            if self._observer is not None:
                self._observer.answered(answers, reply_began)
            return pb.QueryBatchResponse.FromString(packed_batch(replies))

    def QueryStream(
        self, request_iterator: Iterator[pb.QueryRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.QueryStreamResponse]:
        """Top-k candidates, or an error, for each request in turn.  Status: RESOURCE_EXHAUSTED."""
        with status_of_errors(context):
            try:
                for request in request_iterator:
                    yield self._noted(outcome(partial(self._answer, request)), stream_reply)
            except grpc.RpcError:  # the client ended the call
                return

    def EncodeUser(
        self, request: pb.EncodeUserRequest, context: grpc.ServicerContext
    ) -> pb.EncodeUserResponse:
        """The vector of a user and its parts.  Status: INVALID_ARGUMENT, UNAVAILABLE."""
        with status_of_errors(context):
            subject, visible = user_of(request), visible_items()
            return encode_reply(self._retriever.encode(subject, visible, request.min_commit))

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        """What a head says of a subject.  Status: INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION."""
        with status_of_errors(context):
            return predict_reply(self._retriever.predict(question_of(request, visible_items())))

    def _answer(self, request: pb.QueryRequest) -> Candidates:
        return _first(self._retriever, query_of(request, visible_items()))

    def _noted(self, answer: _Answer, reply_of: Callable[[_Answer], _Reply]) -> _Reply:
        """Make the reply of an answer, and count it."""
        reply_began = time.perf_counter()
        reply = reply_of(answer)
        if self._observer is not None:
            self._observer.answered([answer], reply_began)
        return reply


def _answer_small(
    retriever: Retriever, requests: Sequence[Any], observer: AnswerObserver | None
) -> list[bytes | Failure | None]:
    """Answer those requests that are small; as `RetrievalServicer.answer_together`."""
    parsed = [outcome(partial(_parsed, request)) for request in requests]
    small = [one for one in parsed if isinstance(one, Query) and one.is_small]
    answers = _found(retriever, small)
    found, reply_began = iter(answers), time.perf_counter()
    outcomes: list[bytes | Failure | None] = []
    for query in parsed:
        if isinstance(query, Failure):
            outcomes.append(query)
        elif query.is_small:
            candidates = next(found)
            outcomes.append(packed_reply(candidates) if isinstance(candidates, Candidates) else candidates)
        else:
            outcomes.append(None)
    if observer is not None:
        observer.answered(answers, reply_began, small)
    return outcomes


def _found(retriever: Retriever, queries: Sequence[Query]) -> Sequence[Candidates | Failure | None]:
    """Find the candidates of each query; one that fails does not fail the others."""
    if not queries:
        return []
    together = outcome(partial(retriever.retrieve_together, queries))
    if not isinstance(together, Failure):
        return together
    if len(queries) == 1:
        return [together]
    return [one for query in queries for one in _found(retriever, [query])]


def _first(retriever: Retriever, query: Query) -> Candidates:
    return retriever.retrieve([query])[0]


def _parsed(request: pb.QueryRequest | InvalidRequestError) -> Query:
    if isinstance(request, InvalidRequestError):
        raise request
    return query_of(request)


class AdminServicer(rpc.AdminServicer):
    """triptych.v1.Admin."""

    def __init__(
        self,
        home: Home,
        store: Store,
        retriever: Retriever,
        publisher: Publisher,
        identity: Identity,
        supervisor: Supervisor,
        shared: HomeArtifacts,
        others: OtherIndex,
        catalog: Callable[[], CatalogSummary],
        recent: RecentFigures | None = None,
        tenant: str = "",
    ) -> None:
        """Take what answers.

        Args:
            home: whose indexes are listed.
            store: of the home.
            retriever: answers from the index that serves.
            publisher: makes another index serve.
            identity: of the home and the server.
            supervisor: of the background work.
            shared: indexes and models, here and in object storage.
            others: answers from other indexes.
            catalog: tells kinds and attributes of items.
            recent: the last hour; None where nothing is counted.
            tenant: whose home it is, "" for the only one.
        """
        self._home = home
        self._store = store
        self._retriever = retriever
        self._publisher = publisher
        self._identity = identity
        self._supervisor = supervisor
        self._artifacts = shared
        self._others = others
        self._catalog = catalog
        self._recent = recent
        self._tenant = tenant
        self._maps = ItemMaps()
        self._start = time.monotonic()

    def Status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusResponse:
        """The serving index and models, the home, the state of background work, and the rows of the store."""
        with status_of_errors(context):
            reply = pb.StatusResponse(
                rows=self._store.counts(),
                uptime_seconds=time.monotonic() - self._start,
                version=version("triptych"),
                home=self._identity.message(),
                workers=self._supervisor.workers(),
                process=answering_process(self._retriever),
            )
            try:
                snapshot = self._retriever.snapshot
            except NotReadyError:
                return reply
            reply.serving = True
            reply.model_id = snapshot.model.model_id
            reply.index_id = snapshot.index.index_id
            reply.text_model_id = snapshot.encoder.text_model_id
            reply.indexed_items = len(snapshot.index)
            reply.dim = snapshot.index.dim
            reply.items_without_vector = snapshot.index.without_vector
            reply.items_left_out = self._publisher.items_left_out
            return reply

    def CreateExport(
        self,
        request: pb.CreateExportRequest,
        context: grpc.ServicerContext,
    ) -> pb.CreateExportResponse:
        """Write an immutable copy of the store below exports/; upload it to the bucket, where there is one.

        Status: UNAVAILABLE where the bucket cannot be reached.
        """
        with status_of_errors(context):
            export_id = create_export(self._store, self._home.exports)
            self._artifacts.export_made(export_id)
            return pb.CreateExportResponse(export_id=export_id)

    def ListIndexes(
        self, request: pb.ListIndexesRequest, context: grpc.ServicerContext
    ) -> pb.ListIndexesResponse:
        """The newest indexes here and in the bucket, newest first.  Status: INVALID_ARGUMENT, UNAVAILABLE."""
        with status_of_errors(context):
            listed = self._artifacts.indexes.newest(listed_at_most(request.limit))
            serving, _ = self._serving()
            return index_list(listed, serving)

    def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        """The newest models of the home, newest first, with their figures.  Status: INVALID_ARGUMENT."""
        with status_of_errors(context):
            listed = list_models(self._home, listed_at_most(request.limit))
            _, serving = self._serving()
            return pb.ListModelsResponse(models=[model_summary(one, serving) for one in listed])

    def ListReports(
        self, request: pb.ListReportsRequest, context: grpc.ServicerContext
    ) -> pb.ListReportsResponse:
        """The newest evaluation reports of the home, newest first.  Status: INVALID_ARGUMENT."""
        with status_of_errors(context):
            listed = list_artifacts(self._home.reports, listed_at_most(request.limit))
            return pb.ListReportsResponse(reports=[report_summary(one) for one in listed])

    def GetReport(self, request: pb.GetReportRequest, context: grpc.ServicerContext) -> pb.GetReportResponse:
        """One evaluation report.  Status: INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, DATA_LOSS."""
        with status_of_errors(context):
            report_id = checked_id("report_id", request.report_id)
            return pb.GetReportResponse(report_id=report_id, json=read_report(self._home, report_id))

    def _serving(self) -> tuple[str, str]:
        """Return the ids of the index and the model that serve, "" where none does."""
        try:
            snapshot = self._retriever.snapshot
        except NotReadyError:
            return "", ""
        return snapshot.index.index_id, snapshot.model.model_id

    def PublishIndex(
        self, request: pb.PublishIndexRequest, context: grpc.ServicerContext
    ) -> pb.PublishIndexResponse:
        """Check and serve an index.  Status: NOT_FOUND, DATA_LOSS; then the index before goes on serving."""
        with status_of_errors(context):
            return _publish_reply(self._publisher.publish(checked_id("index_id", request.index_id)))

    def RollbackIndex(
        self,
        request: pb.RollbackIndexRequest,
        context: grpc.ServicerContext,
    ) -> pb.PublishIndexResponse:
        """Serve the index before this one.  Status: FAILED_PRECONDITION where there is none."""
        with status_of_errors(context):
            return _publish_reply(self._publisher.roll_back())

    def GetFigures(
        self, request: pb.GetFiguresRequest, context: grpc.ServicerContext
    ) -> pb.GetFiguresResponse:
        """The last hour.  Status: INVALID_ARGUMENT, FAILED_PRECONDITION where nothing is counted."""
        with status_of_errors(context):
            if self._recent is None:
                raise NothingCountedError
            return figures_reply(request, self._recent, self._tenant)

    def QueryIndex(self, request: pb.QueryIndexRequest, context: grpc.ServicerContext) -> pb.QueryResponse:
        """Top-k candidates from another index.  Status: as Query, NOT_FOUND, FAILED_PRECONDITION."""
        with status_of_errors(context):
            index_id = checked_id("index_id", request.index_id)
            return query_reply(self._others.retrieve(index_id, compared_query(request)))

    def ReadMap(
        self, request: pb.ReadMapRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ReadMapResponse]:
        """The items of the serving index in two dimensions.  Status: INVALID_ARGUMENT, UNAVAILABLE."""
        with status_of_errors(context):
            points, index = checked_map(request), self._retriever.snapshot.index
            yield from map_replies(index, self._maps.of(index), points, request.colour_by, self._catalog)


def answering_process(retriever: Retriever) -> pb.AnsweringProcess:
    """Return what this process has kept of users, and how often that was asked for."""
    counts = retriever.user_vectors.counts()
    return pb.AnsweringProcess(
        pid=os.getpid(),
        user_vectors=counts.users,
        user_vector_bytes=counts.nbytes,
        user_vector_hits=counts.hits,
        user_vector_misses=counts.misses,
        commit=retriever.commit,
        state_age_seconds=retriever.state_age,
    )


def _publish_reply(published: Published) -> pb.PublishIndexResponse:
    return pb.PublishIndexResponse(
        index_id=published.snapshot.index.index_id,
        model_id=published.snapshot.model.model_id,
        previous_index_id=published.previous,
    )
