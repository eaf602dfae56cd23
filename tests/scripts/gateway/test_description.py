"""Whatever schemathesis makes of openapi.json, right or wrong: no 5xx, and replies are as described."""

import json
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from scripts.gateway.methods import openapi_text
from store.home import Home
from tests.engines.gateway import Gateway
from tests.live_server import copy_home, server
from tests.scripts.gateway.conftest import Open

SCHEMA = schemathesis.openapi.from_dict(json.loads(openapi_text()))
OPERATIONS = [one.ok() for one in SCHEMA.get_all_operations()]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
UNAVAILABLE = 503
SHARE = {"/v1/exports": 0.1}  # of the examples: each writes a folder


@pytest.fixture(scope="module")
def written(
    small_home: Home, tmp_path_factory: pytest.TempPathFactory, open_gateway: Open
) -> Iterator[Gateway]:
    """A gateway for a server that may be written to."""
    home = copy_home(small_home, tmp_path_factory.mktemp("written") / "home")
    with server(home) as behind, open_gateway(behind.address) as gateway:
        yield gateway


@pytest.mark.parametrize("operation", OPERATIONS, ids=[one.label for one in OPERATIONS])
def test_no_call_that_is_described_or_nearly_so_ends_in_a_5xx(
    operation: schemathesis.schemas.APIOperation, written: Gateway
) -> None:
    modes = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
    slow = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)
    most = max(4, int(settings().max_examples * SHARE.get(operation.path, 0.5)))

    @settings(max_examples=most, suppress_health_check=(*slow, HealthCheck.filter_too_much))
    @given(st.one_of(*modes))
    def calls(case: schemathesis.Case) -> None:
        response = case.call(base_url=written.running.url)
        if response.status_code == UNAVAILABLE and '"COMMIT_NOT_REACHED"' in response.text:
            return  # it asks for a commit that nobody made: to be tried again, as a replica may come to it
        case.validate_response(response, checks=CHECKS)

    calls()
    assert written.running.process.poll() is None
