"""The log has lines for programs and for people, and nothing personal."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from encoder.text import DamagedTextCacheError
from server.access import DamagedTokensError
from server.telemetry import current_trace, log_as
from server.telemetry.logs import _ABOUT_FILES
from store.artifact import DamagedArtifactError
from store.disk import DiskFullError
from store.state import DamagedStateError

SECRET = "@".join(["alice", "example.com"])  # not as it stands in a line of this file
log = logging.getLogger("server.test")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    level = root.level
    yield io.StringIO()
    root.handlers[:] = before
    root.setLevel(level)


def fail_about(text: str) -> None:
    try:
        raise KeyError(text)
    except KeyError as error:
        raise ValueError(f"no place for {text!r}") from error


def test_a_line_is_a_json_object(stream: io.StringIO) -> None:
    log_as("json", "query", stream)
    current_trace.set("0af7651916cd43dd8448eb211c80319c")
    log.warning("index %s serves", "i1", extra={"query_id": "q7"})
    current_trace.set("")
    log.info("two\nlines")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["message"] == "index i1 serves"
    assert (first["level"], first["logger"], first["process"]) == ("warning", "server.test", "query")
    assert (first["query_id"], first["trace_id"]) == ("q7", "0af7651916cd43dd8448eb211c80319c")
    assert first["timestamp"].endswith("Z")
    assert second["message"] == "two\nlines"
    assert not {"query_id", "trace_id"} & second.keys()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_an_error_says_of_people_is_not_logged(log_format: str, stream: io.StringIO) -> None:
    log_as(log_format, "", stream)  # type: ignore[arg-type]
    try:
        fail_about(SECRET)
    except ValueError as error:
        log.exception("unexpected error in a call")
        log.error("failed", exc_info=error)
        logging.getLogger("grpc._server").error("Exception calling application: %s", error, exc_info=error)
    said = stream.getvalue()
    assert SECRET not in said
    assert said.count("fail_about") >= 3  # where it was raised
    assert "KeyError" in said
    assert "ValueError" in said
    assert "Exception calling application" in said


def test_what_an_error_says_of_files_is_logged(stream: io.StringIO) -> None:
    log_as("text", "", stream)
    for error in (DamagedArtifactError(Path("indexes/i1"), "is missing"), DiskFullError("home", "quota")):
        log.error("failed", exc_info=error)
    assert "indexes/i1: is missing" in stream.getvalue()
    assert "home" in stream.getvalue()


def test_errors_that_speak_of_files_are_known_by_their_names() -> None:
    for kind in (DamagedArtifactError, DamagedStateError, DamagedTextCacheError, DamagedTokensError):
        assert kind.__qualname__ in _ABOUT_FILES
    assert len(_ABOUT_FILES) == 4  # DiskFullError and its like are OSErrors


def test_ids_follow_a_line_of_text(stream: io.StringIO) -> None:
    log_as("text", "owner", stream)
    log.error("unexpected error", extra={"query_id": "q7"})
    assert stream.getvalue().rstrip("\n").endswith(": unexpected error [query q7]")
