"""Details of an error are read as Google's own classes read them, without these."""

import subprocess
import sys

import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from triptych_client.details import ErrorDetails, parse_details

REASON, SENTENCES = (
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=9), st.text(max_size=20), max_size=3),
)
# Seconds and a part of a second: a number of them would be rounded in another place.
DELAY = st.tuples(st.integers(0, 10**6), st.integers(0, 999_999_999))


def packed(*details: object) -> bytes:
    status = status_pb2.Status(code=8, message="no")
    for detail in details:
        one = any_pb2.Any()
        one.Pack(detail)  # type: ignore[arg-type]
        status.details.append(one)
    return status.SerializeToString()


@given(REASON, SENTENCES, DELAY)
def test_details_are_what_google_wrote(reason: str, fields: dict[str, str], delay: tuple[int, int]) -> None:
    violations = [
        error_details_pb2.BadRequest.FieldViolation(field=name, description=said, reason="other")
        for name, said in fields.items()
    ]
    retry = duration_pb2.Duration(seconds=delay[0], nanos=delay[1])
    status = packed(
        error_details_pb2.ErrorInfo(reason=reason, domain="triptych", metadata={"more": "facts"}),
        error_details_pb2.BadRequest(field_violations=violations),
        error_details_pb2.RetryInfo(retry_delay=retry),
        error_details_pb2.DebugInfo(detail="of no interest"),
    )
    assert parse_details(status) == ErrorDetails(reason, fields, delay[0] + delay[1] / 1e9)


def test_what_is_not_there_is_nothing_and_a_pause_is_never_negative() -> None:
    assert parse_details(b"") == parse_details(packed()) == ErrorDetails("", {}, None)
    early = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=-5))
    assert parse_details(packed(early)).retry_after == 0.0


@pytest.mark.parametrize(
    "status", [b"\xff", b"\x1a\x7f", packed(error_details_pb2.ErrorInfo(reason="R"))[:-2]]
)
def test_bytes_that_are_no_status_say_nothing(status: bytes) -> None:
    assert parse_details(status) == ErrorDetails()


def test_the_client_loads_none_of_googles_packages_and_gets_on_with_them() -> None:
    code = (
        "import sys, triptych_client; theirs = ('google.rpc', 'google.api', 'grpc_status'); "
        "print([name for name in sys.modules if name.startswith(theirs)]); "
        "import google.rpc.error_details_pb2, google.api.annotations_pb2, grpc_status.rpc_status; "
        "from triptych_client.details import parse_details; print(parse_details(b''))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["[]", "ErrorDetails(reason='', fields={}, retry_after=None)"]
