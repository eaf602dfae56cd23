"""The log of a process, as text or as JSON, without what is personal.

No call of ours puts ids of people or texts of theirs into a log. The message of an error may hold what a
person wrote, so of an error the log has its kind and where it was raised; the messages of those errors alone
are kept that speak of files.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from structlog.typing import EventDict

current_trace: ContextVar[str] = ContextVar("trace", default="")
"""The id of the trace that this thread works for, "" for none; of several, with blanks between them."""

_ABOUT_FILES = frozenset(  # by name: the process that only watches others does not load what raises them
    (
        "DamagedArtifactError",
        "DamagedStateError",
        "DamagedTextCacheError",
        "DamagedTokensError",
    )
)
_OTHERS = ("grpc", "asyncio", "concurrent")  # loggers that put messages of our errors into theirs
_QUIET = ("faiss.loader",)


def log_as(log_format: str, process: str = "", stream: TextIO | None = None) -> None:
    """Have this process write its log as text or as JSON, a line each, in the place of what it did before.

    Args:
        log_format: what a line is, text or json.
        process: who it is among the processes of a server.
        stream: where to; standard error by default.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_without_arguments)
    handler.setFormatter(_json_lines(process) if log_format == "json" else _TextLines(process))
    root = logging.getLogger()
    for one in list(root.handlers):
        root.removeHandler(one)
    root.addHandler(handler)
    root.setLevel(min(root.level, logging.INFO))  # a command may want more
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def error_without_message(error: BaseException) -> str:
    """Return the traceback of an error, and of those that it came from, with messages about files alone."""
    return "\n".join(_described(error))


def _described(error: BaseException) -> Iterator[str]:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _described(before)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    kind = type(error).__qualname__
    about_files = isinstance(error, OSError) or kind in _ABOUT_FILES
    yield f"{kind}: {error}" if about_files else f"{kind} (its message is not logged)"


def _without_arguments(record: logging.LogRecord) -> bool:
    """Take from a line of a library what it was told, such as an error of ours; keep every line."""
    if record.name.partition(".")[0] in _OTHERS:
        record.args = ()  # and so the line has its places, and not what belongs there
    return True


class _TextLines(logging.Formatter):
    def __init__(self, process: str) -> None:
        who = f" {process} {os.getpid()}:" if process else ""
        super().__init__(f"%(asctime)s{who} %(message)s")

    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging's name
        return error_without_message(ei[1]) if ei[1] is not None else ""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the ids that a reader may search for behind it."""
        record.exc_text = None  # as another handler may have made it
        known = {"query": getattr(record, "query_id", ""), "trace": current_trace.get()}
        ids = " ".join(f"{name} {value}" for name, value in known.items() if value)
        first, line_end, rest = super().format(record).partition("\n")
        return f"{first} [{ids}]{line_end}{rest}" if ids else f"{first}{line_end}{rest}"


def _json_lines(process: str) -> logging.Formatter:
    import structlog  # noqa: PLC0415  # loads rich and pygments, which no process with lines of text needs

    def add_ours(_: Any, __: str, event: "EventDict") -> "EventDict":
        record: logging.LogRecord = event["_record"]
        ours = {
            "process": process,
            "pid": os.getpid(),
            "thread": record.threadName,
            "query_id": getattr(record, "query_id", ""),
            "trace_id": current_trace.get(),
        }
        event.update({name: value for name, value in ours.items() if value})
        _, error, _ = event.pop("exc_info", None) or (None, None, None)
        if error is not None:
            event["error"] = error_without_message(error)
        return event

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            add_ours,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )
