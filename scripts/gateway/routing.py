"""The routes of the gateway: those of each method of the API, and nothing else."""

from collections.abc import Sequence
from typing import Any

from scripts.gateway.errors import error_body
from scripts.gateway.methods import OTHERS, ApiMethod

CLUSTER = "triptych"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
BODY_BOUND = "envoy.filters.http.buffer"
OPENAPI_PATH = "/v1/openapi.json"
# Seconds that a call has where its caller names none, by the scope that it needs; a stream has no end.
SECONDS = {"query": 30, "ingest": 90, "admin": 600}
IDLE_SECONDS = 300  # of a connection or a stream

_FILTER = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
_OFF = {TRANSCODER: {"@type": _FILTER, "disabled": True}}
_BOUNDED = {BODY_BOUND: {"@type": _FILTER, "config": {}}}
_IS_GRPC = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
_IS_JSON = {"name": "content-type", "string_match": {"prefix": "application/json", "ignore_case": True}}
_NO_LIMIT = {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"}  # but what the caller names
_ALLOWED_HEADERS = (
    "authorization,content-type,grpc-timeout,traceparent,tracestate,x-grpc-web,x-requested-with,x-user-agent"
)
_SHOWN_HEADERS = "grpc-message,grpc-status,grpc-status-details-bin,x-request-id"


def route_config(methods: Sequence[ApiMethod], origins: Sequence[str], openapi: str) -> dict[str, Any]:
    """Return the routes.

    A request that JSON made finds a route twice: by its path, and again as the gRPC that the transcoder made
    of it. The names of routes go into the access log, so each is that of a method.

    Args:
        methods: that others reach.
        origins: whose pages browsers let call; "*" for all.
        openapi: the description that is shown.
    """
    routes = [
        *([_preflight()] if origins else []),
        _shown(OPENAPI_PATH, openapi),
        *(_grpc_route(method) for method in methods),
        *(_unbounded_route(name, retry=None) for name in OTHERS),
        *(route for method in methods if method.path for route in _json_routes(method)),
        _refusing("unknown", {"prefix": "/"}, 404, "UNKNOWN_METHOD", "there is no such path or method here"),
    ]
    # Who says that a call was passed on by a process of the server is none.
    host: dict[str, Any] = {
        "name": "triptych",
        "domains": ["*"],
        "routes": routes,
        "request_headers_to_remove": ["triptych-peer"],
    }
    if origins:
        host["typed_per_filter_config"] = {"envoy.filters.http.cors": _cors(origins)}
    return {
        "name": "triptych",
        "virtual_hosts": [host],
        "validate_clusters": False,  # the preflight names none
        "max_direct_response_body_size_bytes": 1 << 20,
    }


def _grpc_route(method: ApiMethod) -> dict[str, Any]:
    """Return the route of a method called by gRPC, by gRPC-Web, or by JSON that became gRPC."""
    retry = _retries(reads=method.scope == "query" or method.verb == "GET")
    route = _unbounded_route(method.name, retry)
    if method.streams:
        return route
    seconds = SECONDS[method.scope]
    route["route"]["max_stream_duration"] = _NO_LIMIT | {"max_stream_duration": f"{seconds}s"}
    # So that the server computes no answer that nobody waits for.
    added = {"key": "grpc-timeout", "value": f"{seconds}S"}
    return route | {"request_headers_to_add": [{"header": added, "append_action": "ADD_IF_ABSENT"}]}


def _unbounded_route(name: str, retry: dict[str, Any] | None) -> dict[str, Any]:
    action: dict[str, Any] = {
        "cluster": CLUSTER,
        "timeout": "0s",
        "idle_timeout": f"{IDLE_SECONDS}s",
        "max_stream_duration": _NO_LIMIT,
    }
    if retry is not None:
        action["retry_policy"] = retry
    return {"name": name, "match": {"path": f"/{name}", "headers": [_IS_GRPC]}, "route": action}


def _json_routes(method: ApiMethod) -> list[dict[str, Any]]:
    """Return the routes of a method's path, which the transcoder has not seen yet.

    A body must say that it is JSON: what a browser lets a page of any origin send is refused by that.
    """
    verb = {"name": ":method", "string_match": {"exact": method.verb}}
    takes_body = method.verb != "GET"
    refused = f"{method.path} takes {method.verb} alone"
    routes = [
        {
            "name": method.name,
            "match": {"path": method.path, "headers": [verb, *([_IS_JSON] if takes_body else [])]},
            "route": {"cluster": CLUSTER},
            "typed_per_filter_config": _BOUNDED,
        },
        _refusing(method.name, {"path": method.path}, 405, "WRONG_VERB", refused),
    ]
    if takes_body:
        match = {"path": method.path, "headers": [verb]}
        said = "the body must be JSON, with the header content-type: application/json"
        routes.insert(1, _refusing(method.name, match, 415, "NOT_JSON", said))
    return routes


def _preflight() -> dict[str, Any]:
    """Return the route of what browsers ask before a call; from an origin that may not call, it ends here."""
    match = {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "OPTIONS"}}]}
    action = {"cluster": "none", "cluster_not_found_response_code": "NOT_FOUND"}
    return {"name": "preflight", "match": match, "route": action, "typed_per_filter_config": _OFF}


def _refusing(name: str, match: dict[str, Any], status: int, reason: str, message: str) -> dict[str, Any]:
    return _direct(name, match, status, error_body(status, reason, message))


def _shown(path: str, content: str) -> dict[str, Any]:
    is_get = {"name": ":method", "string_match": {"exact": "GET"}}
    return _direct("openapi", {"path": path, "headers": [is_get]}, 200, content)


def _direct(name: str, match: dict[str, Any], status: int, body: str) -> dict[str, Any]:
    """Return a route that the gateway itself answers with JSON."""
    kind = {"key": "content-type", "value": "application/json"}
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": body}},
        "response_headers_to_add": [{"header": kind, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
        "typed_per_filter_config": _OFF,
    }


def _retries(*, reads: bool) -> dict[str, Any]:
    """Return when a call is made again: where no server got it; one that only reads, where none answers."""
    previous = "envoy.retry_host_predicates.previous_hosts"
    kind = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": "connect-failure,refused-stream" + ",unavailable" * reads,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_host_predicate": [{"name": previous, "typed_config": {"@type": kind}}],
        "host_selection_retry_max_attempts": 3,
    }


def _cors(origins: Sequence[str]) -> dict[str, Any]:
    matches = [{"safe_regex": {"regex": ".*"}} if one == "*" else {"exact": one} for one in origins]
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": matches,
        "allow_methods": "GET,POST,PUT",
        "allow_headers": _ALLOWED_HEADERS,
        "expose_headers": _SHOWN_HEADERS,
        "max_age": "600",
    }
