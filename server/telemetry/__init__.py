"""What a server tells of itself: numbers for Prometheus, traces for OpenTelemetry, and its log.

`families` is the table of all metrics. `figures` has the numbers of one process, which cost an addition each;
`exposition` adds up those of all processes when Prometheus asks. `traces` makes the spans of sampled calls
out of the `stages` that a thread has noted. `recent` keeps the last hour for the API, with the `alerts` that
hold. `logs` writes text or JSON without what is personal.
"""

from server.telemetry.alerts import FAILED, HeldAlert
from server.telemetry.exposition import FiguresSource, ProcessFiles, exposed
from server.telemetry.families import DENIALS, KINDS, METHODS, STAGES, VIEWS, WORKERS, bounds_of, code_of
from server.telemetry.figures import Figures, UnknownSeriesError, quantile
from server.telemetry.logs import current_trace, log_as
from server.telemetry.process import watch_process
from server.telemetry.recent import MINUTES, HomeMinute, RecentFigures, series_of, summed
from server.telemetry.stages import (
    AnswerStage,
    TracedCall,
    add_stages,
    hand_over,
    handed_over,
    note_stages,
    noted_stages,
    stages_wanted,
)
from server.telemetry.telemetry import ProcessTelemetry, Telemetry, TracesNotInstalledError, noting

__all__ = [
    "DENIALS",
    "FAILED",
    "KINDS",
    "METHODS",
    "MINUTES",
    "STAGES",
    "VIEWS",
    "WORKERS",
    "AnswerStage",
    "Figures",
    "FiguresSource",
    "HeldAlert",
    "HomeMinute",
    "ProcessFiles",
    "ProcessTelemetry",
    "RecentFigures",
    "Telemetry",
    "TracedCall",
    "TracesNotInstalledError",
    "UnknownSeriesError",
    "add_stages",
    "bounds_of",
    "code_of",
    "current_trace",
    "exposed",
    "hand_over",
    "handed_over",
    "log_as",
    "note_stages",
    "noted_stages",
    "noting",
    "quantile",
    "series_of",
    "stages_wanted",
    "summed",
    "watch_process",
]
