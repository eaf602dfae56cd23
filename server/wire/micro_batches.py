"""Micro-batches: unary calls that wait are answered together, on one thread that hands nothing over.

gRPC runs a unary call on a thread of a pool, which first waits for the message: two hand-overs of Python's
lock for each call, and as many threads that then wait for the lock as there are callers. Here the message is
asked for on gRPC's own thread. A call goes on when it has come, on one thread that takes all calls that wait,
answers them together and sends their replies, while the next ones gather. There is no timer: a call that
comes alone is answered alone, at once. One whose deadline is nearer than an answer usually takes is refused.

This leans on the inside of `grpc._server` where the names below say so; `CallPool.submit` is the place where
gRPC hands a call over. A submission that looks otherwise is run as before.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

from google.rpc import code_pb2
from grpc import _server as inside

from server.query import QueryPriority
from server.status import Failure, abort_with
from server.telemetry import TracedCall, hand_over
from server.wire.observed import MethodObserver

cygrpc: Any = vars(inside)["cygrpc"]
log = logging.getLogger(__name__)

MOST_TOGETHER = 16  # below 20, FAISS compares with centroids by the same arithmetic as for one query

_Method = TypeVar("_Method", bound=Callable[..., Any])
AnswerTogether: TypeAlias = Callable[[Sequence[Any]], "list[bytes | Failure | None]"]
"""Answers requests, each as alone: a serialized reply, a failure, or None for one to be answered apart."""


def answered_together_by(name: str) -> Callable[[_Method], _Method]:
    """Say which method of a servicer, an `AnswerTogether`, answers calls of the decorated one together."""

    def mark(method: _Method) -> _Method:
        method.answered_together_by = name  # type: ignore[attr-defined]
        return method

    return mark


def together_of(behavior: Any) -> AnswerTogether | None:
    """Return what answers calls of a servicer's method together; None where nothing does."""
    name = getattr(behavior, "answered_together_by", None)
    return None if name is None else getattr(behavior.__self__, name)


_TOO_LATE = Failure(
    code_pb2.DEADLINE_EXCEEDED,
    "TOO_LATE",
    "the answer would come after the deadline of the call, so it was not computed",
)
_NEWEST = 0.1  # share of the newest micro-batch in the time that one usually takes
_DOUBT = 0.9  # what is left of that time with each call that it refuses: it is soon measured again


class UnaryCall:
    """A call that was handed over by gRPC, from its admission to its end; `Future` as far as gRPC looks.

    Attributes:
        began: when it was handed over, in seconds of `time.perf_counter`.
        traced: how it is traced, None where it is not.
    """

    def __init__(self, run: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Take what gRPC submits.

        Args:
            run: runs its arguments in the context variables of the call.
            arguments: of `_unary_response_in_pool`.
        """
        self.began = time.perf_counter()
        self.traced: TracedCall | None = None
        self._run = run
        self._event, self._state, self._behavior, _, self._parse, self._serialize = arguments
        self._callbacks: list[Callable[[Any], object]] = []

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call a function when the call has ended, from any thread.

        gRPC's thread adds callbacks as it hands the call over, before it can hear of the message, so that the
        call cannot end meanwhile.
        """
        self._callbacks.append(callback)

    def end(self) -> None:
        """Tell whoever asked that the call has ended."""
        for callback in self._callbacks:
            callback(self)

    def receive(self, arrived: "Callable[[UnaryCall], None]") -> None:
        """Ask for the message; `arrived` is called on gRPC's thread when it has come, or when none will."""
        state, call = self._state, self._event.call
        parsed = inside._receive_message(state, call, self._parse)

        def received(event: Any) -> Any:
            finished = parsed(event)
            arrived(self)
            return finished

        call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
        state.due.add(inside._RECEIVE_MESSAGE_TOKEN)

    @property
    def request(self) -> Any:
        """The parsed message; None where none has come."""
        return self._state.request

    @property
    def metadata(self) -> Any:
        """The metadata of the caller, pairs of key and value."""
        return self._event.invocation_metadata

    @property
    def wanted(self) -> bool:
        """Whether the caller still waits for the answer."""
        return bool(inside._is_rpc_state_active(self._state))

    @property
    def seconds_left(self) -> float:
        """Seconds until the call's deadline; very many where it has none."""
        return float(self._event.call_details.deadline) - time.time()

    def answer(self) -> None:
        """Run the call's own behavior, send what it returns or raises, and end the call."""
        hand_over(self.began)
        try:
            self._respond(self._behavior, self._serialize)
        finally:
            self.end()

    def send(self, reply: bytes) -> None:
        """Send a serialized reply and the status OK; the call ends when they are on their way.

        What `inside._status` does, but the batch is started when the lock of the call is free again:
        gRPC's thread, which wants that lock as soon as they are sent, would meet it taken each time.
        """
        state = self._state
        with state.condition:
            state.request = None
            if not self.wanted:
                reply_wanted = False
            else:
                reply_wanted = state.statused = True
                state.due.add(inside._SEND_STATUS_FROM_SERVER_TOKEN)
        if not reply_wanted:
            self.end()
            return
        finish = inside._send_status_from_server(state, inside._SEND_STATUS_FROM_SERVER_TOKEN)

        def sent(event: Any) -> Any:
            self.end()
            return finish(event)

        operations = (
            cygrpc.SendStatusFromServerOperation(None, cygrpc.StatusCode.ok, b"", 0),
            cygrpc.SendInitialMetadataOperation(None, 0),
            cygrpc.SendMessageOperation(reply, 0),
        )
        self._event.call.start_server_batch(operations, sent)

    def fail(self, failure: Failure) -> None:
        """End the call with the status of a failure."""
        self._respond(lambda _, context: abort_with(context, failure), None)
        self.end()

    def refuse_without_message(self) -> None:
        """End a call whose caller has sent no message, as gRPC does."""
        state = self._state
        with state.condition:
            if self.wanted:
                details = b"the method requires exactly one request message"
                inside._abort(state, self._event.call, cygrpc.StatusCode.unimplemented, details)
        self.end()

    def _respond(self, behavior: Callable[..., Any], serialize: Callable[[Any], bytes] | None) -> None:
        request, self._state.request = self._state.request, None
        self._run(
            inside._unary_response_in_pool,
            self._event,
            self._state,
            behavior,
            lambda: request,
            self._parse,
            serialize,
        )


class CallBatcher:
    """Answers calls together; those that are answered apart run on threads of a pool."""

    def __init__(
        self,
        answer: AnswerTogether,
        run_apart: "Callable[[Callable[[], None]], Future[None]]",
        name: str,
        priority: QueryPriority,
        observer: MethodObserver | None = None,
    ) -> None:
        """Start the thread of the micro-batches.

        Args:
            answer: answers the requests of at most MOST_TOGETHER calls.
            run_apart: runs another one on a thread of its own.
            name: of the thread.
            priority: counts a call from the moment at which its message has come.
            observer: counts the calls that end.
        """
        self._answer = answer
        self._priority = priority
        self._observer = observer
        self._run_apart = run_apart
        self._arrived: SimpleQueue[UnaryCall | None] = SimpleQueue()
        self._usual_seconds = 0.0  # of a micro-batch
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @staticmethod
    def takes(arguments: tuple[Any, ...]) -> bool:
        """Tell whether what gRPC submits is a unary call in the form known here."""
        return len(arguments) == 7 and arguments[0] is inside._unary_response_in_pool

    def submit(self, fn: Callable[..., Any], arguments: tuple[Any, ...]) -> UnaryCall:
        """Take over a call that gRPC submits, with its lock held; return it."""
        call = UnaryCall(fn, arguments[1:])
        if self._observer is not None:
            self._observer.arrived(call, call.metadata)
        call.receive(self._take)
        return call

    def _take(self, call: UnaryCall) -> None:
        self._priority.begin()  # here, for a writer may have the lock until this thread gets it again
        self._arrived.put(call)

    def shutdown(self) -> None:
        """Answer the calls that wait, and end the thread; no call may come any more."""
        self._arrived.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            calls = [self._arrived.get()]
            while len(calls) < MOST_TOGETHER and not self._arrived.empty():
                calls.append(self._arrived.get())
            wanted = [call for call in calls if call is not None]
            try:
                self._answer_all(wanted)
            finally:
                self._priority.end(len(wanted))
            if None in calls:
                return

    def _answer_all(self, calls: Sequence[UnaryCall]) -> None:
        waiting = self._still_wanted(calls)
        if not waiting:
            return
        began = time.perf_counter()
        if self._observer is not None:
            self._observer.begin_together(waiting)
        try:
            outcomes = self._answer([call.request for call in waiting])
        except Exception:  # a supervisor: without this thread no query would be answered any more
            log.exception("a micro-batch failed; its calls are answered one by one")
            outcomes = [None] * len(waiting)
        if self._observer is not None:
            self._observer.ended_together(
                [
                    (call, outcome.code if isinstance(outcome, Failure) else code_pb2.OK)
                    for call, outcome in zip(waiting, outcomes, strict=True)
                    if outcome is not None  # which is counted by itself
                ],
                began,
            )
        for call, outcome in zip(waiting, outcomes, strict=True):
            if outcome is None:
                self._run_apart(call.answer)
            elif isinstance(outcome, Failure):
                call.fail(outcome)
            else:
                call.send(outcome)
        if not all(map(_is_unavailable, outcomes)):  # else they waited for something in vain
            self._usual_seconds += _NEWEST * (time.perf_counter() - began - self._usual_seconds)

    def _still_wanted(self, calls: Sequence[UnaryCall]) -> list[UnaryCall]:
        """Return the calls that can be answered in time, and end the others."""
        waiting = []
        for call in calls:
            if call.request is None:
                self._note([(call, code_pb2.UNIMPLEMENTED)])
                call.refuse_without_message()
            elif not call.wanted:  # nobody would read an answer
                self._note([(call, code_pb2.CANCELLED)])
                call.end()
            elif call.seconds_left < self._usual_seconds:
                self._note([(call, _TOO_LATE.code)])
                call.fail(_TOO_LATE)
                self._usual_seconds *= _DOUBT
            else:
                waiting.append(call)
        return waiting

    def _note(self, calls: "Sequence[tuple[UnaryCall, int]]") -> None:
        """Count calls that end without having been answered, with their codes."""
        if self._observer is not None:
            self._observer.ended_together(calls)


def _is_unavailable(outcome: "bytes | Failure | None") -> bool:
    return isinstance(outcome, Failure) and outcome.code == code_pb2.UNAVAILABLE
