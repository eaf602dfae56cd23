"""Calls and answers, counted and traced where somebody wants to know, by micro-batch where they come so."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import code_pb2

from server.peer import is_passed_on
from server.query import Candidates, DriftSampler, Query, Retriever, Timings
from server.telemetry import (
    METHODS,
    STAGES,
    VIEWS,
    AnswerStage,
    Figures,
    Telemetry,
    add_stages,
    bounds_of,
    current_trace,
    handed_over,
    note_stages,
    noted_stages,
    stages_wanted,
)

if TYPE_CHECKING:
    from server.wire.micro_batches import UnaryCall

_PACKAGE = "triptych.v1."


class MethodObserver:
    """Counts and traces the calls of one method; threads may share it."""

    def __init__(self, telemetry: Telemetry, method: str, kind: str) -> None:
        """Take what a process notes.

        Args:
            telemetry: of the process.
            method: such as Retrieval/Query, one of METHODS.
            kind: of its calls.
        """
        self._method = method
        self._tracer = telemetry.tracer
        self._counts_passed_on = telemetry.counts_passed_on
        figures = telemetry.figures or Figures()  # without any, numbers that nobody reads
        self._lock = figures.lock
        self._codes = figures.cells("calls", method)
        self._seconds = figures.cells("call_seconds", method)
        self._sizes = figures.histogram("micro_batch_calls")
        self._add_refused = figures.counter("calls_refused", kind)
        self._bounds = bounds_of("call_seconds")

    def observing(self, behavior: Callable[..., Any], *, streams: bool) -> Callable[..., Any]:
        """Wrap what answers a call, so that the call is counted when it has ended.

        Args:
            behavior: takes a request, or several, and the context of the call.
            streams: whether it returns several replies.
        """

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            with self._observed(context):
                return behavior(request, context)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._observed(context):
                yield from behavior(request, context)

        return stream if streams else unary

    def refused(self) -> None:
        """Count a call that found no room."""
        self._add_refused(1.0)
        with self._lock:
            self._codes[code_pb2.RESOURCE_EXHAUSTED] += 1.0

    def arrived(self, call: "UnaryCall", metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Decide whether a call is traced that will be answered with others."""
        if self._tracer is not None:
            call.traced = self._tracer.sampled(self._method, metadata, call.began)

    def begin_together(self, calls: "Sequence[UnaryCall]") -> None:
        """Note the stages of calls that this thread is about to answer together, where one is traced."""
        if self._tracer is None:
            return
        traced = [call.traced for call in calls if call.traced is not None]
        if traced:
            note_stages()
            current_trace.set(" ".join(one.trace_id for one in traced if one.trace_id))

    def ended_together(self, calls: "Sequence[tuple[UnaryCall, int]]", began: float | None = None) -> None:
        """Count calls that end together, with their codes, and trace them.

        Args:
            calls: that end.
            began: when their micro-batch was begun; None where they were not answered.
        """
        now, bounds, codes, seconds = time.perf_counter(), self._bounds, self._codes, self._seconds
        with self._lock:
            for call, code in calls:
                codes[code] += 1.0
                took = now - call.began
                seconds[bisect_left(bounds, took)] += 1.0
                seconds[-1] += took
        if began is not None and calls:
            self._sizes(len(calls))
        if self._tracer is None:
            return
        stages = noted_stages()
        current_trace.set("")
        traced = [(call.traced, code) for call, code in calls if call.traced is not None]
        if began is None or len(calls) == 1:
            for one, code in traced:
                self._tracer.end(one, code, now, stages)
        elif traced:
            self._tracer.end_together(traced, len(calls), began, now, stages)

    @contextmanager
    def _observed(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Count, and perhaps trace, the call that the block answers."""
        now = time.perf_counter()
        began = handed_over() or now
        traced = None
        if self._tracer is not None:
            traced = self._tracer.sampled(self._method, context.invocation_metadata() or (), began)
        if traced is not None:
            note_stages()
            current_trace.set(traced.trace_id)
        failed = True
        try:
            yield
            failed = False
        finally:
            now, code = time.perf_counter(), _code_of(context, failed=failed)
            if self._counts_passed_on or not is_passed_on(context):
                with self._lock:
                    self._codes[code] += 1.0
                    self._seconds[bisect_left(self._bounds, now - began)] += 1.0
                    self._seconds[-1] += now - began
            if traced is not None and self._tracer is not None:
                self._tracer.end(traced, code, now, noted_stages())


def observer_of(telemetry: Telemetry | None, method: str, kind: str) -> MethodObserver | None:
    """Return what observes the calls of a method, /triptych.v1.Admin/Status for one; None for nothing."""
    name = method.removeprefix("/").removeprefix(_PACKAGE).removeprefix("grpc.health.v1.")
    if telemetry is None or not telemetry.wanted or name not in METHODS:
        return None
    return MethodObserver(telemetry, name, kind)


class AnswerObserver:
    """Counts what queries were answered with, and how long each stage took; threads may share it."""

    def __init__(self, telemetry: Telemetry, drift: DriftSampler | None) -> None:
        """Take what a process notes, and what samples people."""
        figures = telemetry.figures or Figures()
        self._drift = drift
        self._lock = figures.lock
        self._answers = figures.cells("queries")
        self._views = figures.cells("views_used")
        self._stages = [figures.cells("stage_seconds", stage) for stage in STAGES]
        self._bounds = bounds_of("stage_seconds")

    def answered(self, answers: Sequence[Candidates], reply_began: float) -> None:
        """Count answers that were made together, whose replies were begun at a moment and are made now."""
        if not answers:
            return
        now, bounds, views = time.perf_counter(), self._bounds, self._views
        # One, unless some were asked again because another one failed.
        together = {id(one.timings): one.timings for one in answers}.values()
        stages = [seconds for timings in together for seconds in _seconds_of(timings)]
        stages.append((_REPLY, now - reply_began))
        with self._lock:
            for one in answers:
                self._answers[one.fallback] += 1.0
                for view in one.views_used:
                    views[_PLACE[view]] += 1.0
            for stage, took in stages:
                cells = self._stages[stage]
                cells[bisect_left(bounds, took)] += 1.0
                cells[-1] += took
        if stages_wanted():
            add_stages(_stages_until(now, stages))

    def offer(self, queries: Sequence[Query], answers: Sequence[object]) -> None:
        """Let drift be told from queries and their answers; what is not Candidates is no answer."""
        if self._drift is not None:
            self._drift.offer(time.perf_counter(), queries, answers)


def answer_observer_of(telemetry: Telemetry, models: Path, retriever: Retriever) -> AnswerObserver | None:
    """Return what observes the answers of a process; None where nothing is noted.

    Args:
        telemetry: of the process.
        models: folder of the models, which know how people were when they were trained.
        retriever: that answers.
    """
    if not telemetry.wanted:
        return None
    figures = telemetry.figures
    return AnswerObserver(telemetry, None if figures is None else DriftSampler(figures, models, retriever))


_PLACE = {view: place for place, view in enumerate(VIEWS)}
_VIEWS, _ENCODE, _SEARCH, _PAGE, _REPLY = range(len(STAGES))


def _seconds_of(timings: Timings) -> list[tuple[int, float]]:
    """Return the seconds of each stage before the reply."""
    milliseconds = (
        (_VIEWS, timings.views_ms),
        (_ENCODE, timings.encode_ms),
        (_SEARCH, timings.search_ms - timings.page_ms),
        (_PAGE, timings.page_ms),
    )
    return [(stage, one / 1e3) for stage, one in milliseconds]


def _stages_until(now: float, stages: Sequence[tuple[int, float]]) -> list[AnswerStage]:
    """Return stages that followed each other until now."""
    found, began = [], now - sum(took for _, took in stages)
    for stage, took in stages:
        found.append(AnswerStage(STAGES[stage], began, began + took))
        began += took
    return found


def _code_of(context: grpc.ServicerContext, *, failed: bool) -> int:
    """Return the number of the code that a call ends with."""
    if not context.is_active():
        late = context.time_remaining() <= 0
        return int(code_pb2.DEADLINE_EXCEEDED if late else code_pb2.CANCELLED)
    code: Any = context.code()  # type: ignore[attr-defined]  # not in the stubs
    if code is not None:
        return int(code.value[0])
    return int(code_pb2.UNKNOWN if failed else code_pb2.OK)
