"""Every method has a path or a reason, and what is kept beside the code is what proto/ says."""

import json
import re
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from scripts.gateway.bounds import BOUNDS, REQUIRED
from scripts.gateway.descriptors import ROOT, compiled, write
from scripts.gateway.methods import NOT_OFFERED, descriptors, methods_of, offered, openapi_text
from server.access import SCOPES
from server.wire import ingest, predict, query
from store.tables import MAX_VECTOR_LENGTH, MAX_WEIGHT
from tests.messages import methods
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2

METHODS = methods_of(descriptors())


def test_every_method_is_known_and_has_a_path_unless_it_takes_a_stream_or_is_not_offered() -> None:
    names = {f"{method.containing_service.full_name}/{method.name}" for method in methods()}
    assert {method.name for method in METHODS} == names
    for method in METHODS:
        has_path = bool(method.path)
        assert has_path == (not method.takes_stream and method.name not in NOT_OFFERED), method.name
        assert method.scope in SCOPES


def test_no_path_has_a_place_for_an_id_and_none_is_given_twice() -> None:
    paths = [(method.verb, method.path) for method in METHODS if method.path]
    assert len(set(paths)) == len(paths)
    assert all(path.startswith("/v1/") and "{" not in path for _, path in paths)


def test_what_reads_files_of_the_server_is_not_offered() -> None:
    assert {method.name for method in METHODS} - {method.name for method in offered(descriptors())} == set(
        NOT_OFFERED
    )
    assert set(NOT_OFFERED) == {"triptych.v1.Ingest/ImportFolder"}


def test_descriptors_and_description_are_as_make_proto_writes_them(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / "triptych.binpb").read_bytes() == descriptors()
    assert (tmp_path / "openapi.json").read_text("utf-8") == openapi_text()


def test_a_method_that_is_new_is_in_the_descriptors(tmp_path: Path) -> None:
    proto = tmp_path / "triptych" / "v1"
    proto.mkdir(parents=True)
    (tmp_path / "google" / "api").mkdir(parents=True)
    for name in ("google/api/annotations.proto", "google/api/http.proto", "triptych/v1/ingest.proto"):
        (tmp_path / name).write_text((ROOT / "proto" / name).read_text("utf-8"), "utf-8")
    text = (ROOT / "proto" / "triptych" / "v1" / "triptych.proto").read_text("utf-8")
    new = 'service Admin {\n  rpc Ping(StatusRequest) returns (StatusResponse) { option (scope) = "admin"; }'
    (proto / "triptych.proto").write_text(text.replace("service Admin {", new), "utf-8")
    found = {method.name: method for method in methods_of(compiled(tmp_path, comments=False))}
    assert found["triptych.v1.Admin/Ping"].path == ""  # the first test would fail


def test_the_description_is_valid_and_names_every_path() -> None:
    described = json.loads(openapi_text())
    validate(described)
    assert described["openapi"] == "3.1.0"
    found = {(verb.upper(), path) for path, verbs in described["paths"].items() for verb in verbs}
    assert found == {(method.verb, method.path) for method in METHODS if method.path}
    for verbs in described["paths"].values():
        for operation in verbs.values():
            assert operation["summary"]
            assert "scope" in operation["description"].lower()
    told = described["components"]["schemas"]
    assert told["QueryRequest"]["oneOf"][0] == {"required": ["user_id"]}
    assert "inner products" in told["QueryResponse"]["properties"]["scores"]["description"]


def test_the_guide_names_every_path_with_its_scope() -> None:
    text = (ROOT / "docs" / "gateway.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w+) (/v1/\S+) \| (\w+) \| (\w+) \|$", text, re.MULTILINE)
    named = [(one.verb, one.path, one.name.rpartition("/")[2], one.scope) for one in METHODS if one.path]
    assert sorted(rows) == sorted(named)


def test_bounds_are_those_that_the_server_checks() -> None:
    def most(message: str, field: str) -> float:
        bound = BOUNDS[message][field]
        return next(bound[name] for name in ("maximum", "maxItems", "maxLength") if name in bound)

    assert most("QueryRequest", "k") == query.MAX_K == most("QueryRequest", "offset") + 1
    assert most("QueryRequest", "user_id") == query.MAX_ID_BYTES
    assert most("QueryRequest", "text") == query.MAX_TEXT_BYTES
    assert most("QueryRequest", "min_score") == query.MAX_MIN_SCORE
    assert most("QueryBatchRequest", "requests") == query.MAX_BATCH
    assert most("Views", "events") == query.MAX_EVENTS
    assert most("Views", "texts") == query.MAX_TEXTS
    assert most("Views", "friends") == query.MAX_FRIENDS
    assert most("Vector", "values") == query.MAX_DIM
    assert most("ViewWeights", "text") == query.MAX_VIEW_WEIGHT
    assert most("Event", "weight") == MAX_WEIGHT
    assert most("Filter", "kinds") == query.MAX_KINDS
    assert most("Filter", "attributes") == query.MAX_CONDITIONS
    assert most("AttributeCondition", "any_of") == query.MAX_VALUES
    assert most("ItemIds", "item_ids") == query.MAX_FILTER_IDS
    assert most("PredictRequest", "item_ids") == predict.MAX_PREDICTED
    assert most("PutItemsRequest", "items") == ingest.MAX_ROWS
    assert most("AppendTextsRequest", "texts") == ingest.MAX_TEXT_ROWS
    assert most("AppendTextsRequest", "request_id") == ingest.MAX_REQUEST_ID_BYTES
    assert most("ItemRow", "vector") == MAX_VECTOR_LENGTH


@pytest.mark.parametrize("message", sorted(set(BOUNDS) | set(REQUIRED)))
def test_bounds_are_of_fields_that_exist(message: str) -> None:
    kind = getattr(triptych_pb2, message, None) or getattr(ingest_pb2, message)
    fields = set(kind.DESCRIPTOR.fields_by_name)
    assert set(BOUNDS.get(message, {})) | set(REQUIRED.get(message, ())) <= fields
