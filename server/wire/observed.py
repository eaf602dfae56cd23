"""Calls and answers, counted and traced where somebody wants to know, by micro-batch where they come so."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
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
        self._sizes = figures.cells("micro_batch_calls")
        self._size_bounds = bounds_of("micro_batch_calls")
        self._traces_together = False  # whether one of the calls that are being answered together is traced
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

    def arrived(self, call: "UnaryCall", metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Decide whether a call is traced that will be answered with others."""
        if self._tracer is not None:
            call.traced = self._tracer.sampled(self._method, metadata, call.began)

    def begin_together(self, calls: "Sequence[UnaryCall]") -> None:
        """Note the stages of calls that this thread is about to answer together, where one is traced."""
        if self._tracer is None:
            return
        for call in calls:
            if call.traced is not None:
                break
        else:
            return
        self._traces_together = True
        note_stages()
        ids = [call.traced.trace_id for call in calls if call.traced is not None]
        current_trace.set(" ".join(filter(None, ids)))

    def ended_together(self, calls: "Sequence[tuple[UnaryCall, int]]", began: float | None = None) -> None:
        """Count calls that end together, with their codes, and trace them.

        Args:
            calls: that end.
            began: when their micro-batch was begun; None where they were not answered.
        """
        now, bounds, codes, seconds = time.perf_counter(), self._bounds, self._codes, self._seconds
        number = len(calls)
        with self._lock:
            for call, code in calls:
                codes[code] += 1.0
                took = now - call.began
                seconds[bisect_left(bounds, took)] += 1.0
                seconds[-1] += took
            if began is not None and number:
                self._sizes[bisect_left(self._size_bounds, number)] += 1.0
                self._sizes[-1] += number
        if began is None or not self._traces_together or self._tracer is None:
            return
        self._traces_together = False
        stages = noted_stages()
        current_trace.set("")
        traced = [(call.traced, code) for call, code in calls if call.traced is not None]
        if number > 1 and traced:
            self._tracer.end_together(traced, number, began, now, stages)
            return
        for one, code in traced:
            self._tracer.end(one, code, now, stages)

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

    def answered(self, found: Sequence[object], reply_began: float, queries: Sequence[Query] = ()) -> None:
        """Count answers that were made together, and whose replies are made now.

        Args:
            found: the answers; what is not Candidates is none.
            reply_began: when their replies were begun.
            queries: that they are answers to, which drift may be told from.
        """
        answers = [one for one in found if isinstance(one, Candidates)]
        if not answers:
            return
        now, bounds, views = time.perf_counter(), self._bounds, self._views
        stages = [_seconds_of(answers[0].timings)]
        if answers[-1].timings is not answers[0].timings:  # some were asked again because another one failed
            stages = [_seconds_of(one) for one in {id(one.timings): one.timings for one in answers}.values()]
        reply = now - reply_began
        with self._lock:
            for one in answers:
                self._answers[one.fallback] += 1.0
                for view in one.views_used:
                    views[_PLACE[view]] += 1.0
            for each in stages:
                for cells, took in zip(self._stages, each, strict=False):
                    cells[bisect_left(bounds, took)] += 1.0
                    cells[-1] += took
            cells = self._stages[-1]
            cells[bisect_left(bounds, reply)] += 1.0
            cells[-1] += reply
        if self._drift is not None and queries:
            self._drift.offer(now, queries, found)
        if stages_wanted():
            add_stages(_stages_until(now, [*chain.from_iterable(stages), reply], len(stages)))


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


def _seconds_of(timings: Timings) -> tuple[float, float, float, float]:
    """Return the seconds of each stage before the reply, in the order of STAGES."""
    page = timings.page_ms / 1e3
    return timings.views_ms / 1e3, timings.encode_ms / 1e3, timings.search_ms / 1e3 - page, page


def _stages_until(now: float, seconds: Sequence[float], times: int) -> list[AnswerStage]:
    """Return stages that followed each other until now: so many times those before the reply, and it."""
    found, began = [], now - sum(seconds)
    for name, took in zip([*STAGES[:-1] * times, STAGES[-1]], seconds, strict=True):
        found.append(AnswerStage(name, began, began + took))
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
