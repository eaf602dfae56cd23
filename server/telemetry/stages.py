"""The stages of an answer, noted on the thread that makes it where its call is traced."""

import threading
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AnswerStage:
    """One stage of an answer: from when until when, in seconds of `time.perf_counter`."""

    name: str
    began: float
    ended: float


@dataclass(frozen=True)
class TracedCall:
    """A call that is traced.

    Attributes:
        method: such as Retrieval/Query.
        context: of OpenTelemetry, with the span of the caller where there is one.
        began: when it was handed over, in seconds of `time.perf_counter`.
        trace_id: of the caller's trace, "" where the caller has none.
    """

    method: str
    context: Any
    began: float
    trace_id: str = ""


class _Notes(threading.local):
    stages: list[AnswerStage] | None = None
    handed_over: float | None = None


_notes = _Notes()


def note_stages() -> None:
    """Keep the stages that this thread is told of, until `noted_stages`."""
    _notes.stages = []


def noted_stages() -> list[AnswerStage]:
    """Return the stages that this thread was told of since `note_stages`, and keep no more."""
    stages, _notes.stages = _notes.stages or [], None
    return stages


def stages_wanted() -> bool:
    """Whether this thread keeps stages."""
    return _notes.stages is not None


def add_stages(stages: list[AnswerStage]) -> None:
    """Tell this thread of stages; they are kept where `note_stages` was called."""
    if _notes.stages is not None:
        _notes.stages += stages


def hand_over(moment: float) -> None:
    """Note when the call that this thread is about to answer was handed over to the server."""
    _notes.handed_over = moment


def handed_over() -> float | None:
    """Return when this thread's call was handed over, and forget it; None where nobody has said."""
    moment, _notes.handed_over = _notes.handed_over, None
    return moment
