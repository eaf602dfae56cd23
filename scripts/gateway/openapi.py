"""The JSON form of the API as OpenAPI 3.1 describes it, made from the descriptors of the proto."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from scripts.gateway.bounds import BOUNDS, REQUIRED
from scripts.gateway.methods import PACKAGE, ApiMethod, api_files, offered

_Schema: TypeAlias = dict[str, Any]
_Comments: TypeAlias = dict[str, str]
_Types: TypeAlias = dict[str, DescriptorProto | EnumDescriptorProto]

_Kind = FieldDescriptorProto
_MESSAGES, _ENUMS, _SERVICES, _FIELDS, _METHODS, _VALUES = 4, 5, 6, 2, 2, 2  # in paths of comments
_TIME = ".google.protobuf.Timestamp"
_PLAIN: dict[int, _Schema] = {
    _Kind.TYPE_DOUBLE: {"type": "number", "format": "double"},
    _Kind.TYPE_FLOAT: {"type": "number", "format": "float"},
    _Kind.TYPE_INT32: {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    _Kind.TYPE_UINT32: {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 2**32 - 1},
    _Kind.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"},
    _Kind.TYPE_UINT64: {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"},
    _Kind.TYPE_BOOL: {"type": "boolean"},
    _Kind.TYPE_STRING: {"type": "string"},
    _Kind.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
_ABOUT = (
    "One interest vector per user from what they did, wrote and whom they know, and the items nearest to it. "
    "This is the API of proto/triptych/v1 as JSON, which `triptych gateway` answers; the same address "
    "answers gRPC and gRPC-Web. Names are those of the proto; 64-bit integers are strings, times are RFC "
    "3339 texts, and enums are names. A field that is not listed here is left out unread. Replies name "
    "fields without a value, too, but for messages and optional fields."
)
_EXAMPLES: dict[str, Any] = {
    "Query": {"user_id": "alice", "k": 5},
    "QueryBatch": {"requests": [{"user_id": "alice"}, {"text": "slow jazz", "k": 3}]},
    "EncodeUser": {"user_id": "alice"},
    "Predict": {"user_id": "alice", "item_ids": ["i00012"]},
    "PutItems": {"items": [{"item_id": "i00012", "title": "Blue in Green", "kind": "track"}]},
    "DeleteItems": {"item_ids": ["i00012"]},
    "AppendBehaviors": {"behaviors": [{"user_id": "alice", "item_id": "i00012", "action": "play"}]},
    "AppendTexts": {"texts": [{"user_id": "alice", "text": "I like slow jazz"}]},
    "PutFriends": {"friends": [{"user_id": "alice", "friend_id": "bob"}]},
    "AppendImpressions": {
        "impressions": [
            {"user_id": "alice", "item_id": "i00012", "ts": "2030-01-01T12:00:00Z", "clicked": True}
        ]
    },
    "SetConsent": {"consents": [{"user_id": "alice", "view": "S", "share": False}]},
    "ApplyLog": {
        "log": "queue/clicks",
        "after": {"sequence": "41"},
        "through": {"sequence": "42"},
        "entries": [
            {
                "sequence": "42",
                "event": {"append_behaviors": {"behaviors": [{"user_id": "alice", "item_id": "i00012"}]}},
            }
        ],
    },
    "FindItems": {"contains": "blue", "kinds": ["track"], "limit": 20},
    "EraseUser": {"user_id": "alice"},
    "ExportUser": {"user_id": "alice"},
    "QueryIndex": {"index_id": "20300101T120000000000-abcd", "query": {"user_id": "alice", "k": 5}},
    "ReadMap": {"colour_by": "genre", "limit": 10000},
    "PublishIndex": {"index_id": "20300101T120000000000-abcd"},
}


def openapi(described: bytes) -> dict[str, Any]:
    """Return the description of the JSON form.

    Args:
        described: the descriptors with their comments, a FileDescriptorSet.
    """
    methods = [method for method in offered(described) if method.path]
    comments = {name: said for file in api_files(described) for name, said in _comments(file)}
    types = {name: one for file in api_files(described) for name, one in _types(file)}
    asked = _reached([method.input_type for method in methods], types)
    told = _reached([method.output_type for method in methods], types)
    paths: dict[str, Any] = {}
    for method in methods:
        paths.setdefault(method.path, {})[method.verb.lower()] = _operation(method, comments, types)
    schemas = {
        name.removeprefix(f"{PACKAGE}."): _schema(name, types[name], comments, asked=name in asked - told)
        for name in sorted(asked | told)
    }
    services = [service for file in api_files(described) for service in file.service]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Triptych",
            "version": "1",
            "summary": _ABOUT.split(".", maxsplit=1)[0] + ".",
            "description": _ABOUT,
        },
        "servers": [{"url": "/", "description": "the gateway that shows this"}],
        "tags": [{"name": one.name, "description": comments[f"{PACKAGE}.{one.name}"]} for one in services],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Of `triptych token create`."}
            },
            "responses": {"Error": _error_response()},
            "schemas": schemas | _ERROR_SCHEMAS,
        },
    }


def _operation(method: ApiMethod, comments: _Comments, types: _Types) -> _Schema:
    service, _, name = method.name.removeprefix(f"{PACKAGE}.").partition("/")
    said = comments[f"{PACKAGE}.{service}.{name}"]
    one = _reference(method.output_type)
    reply: _Schema = {"schema": {"type": "array", "items": one} if method.gives_stream else one}
    operation: _Schema = {
        "operationId": name,
        "tags": [service],
        "summary": said.split(". ")[0].split(": ")[0].rstrip("."),
        "description": f"{said}\n\nScope of the token, where one is asked for: {method.scope}.",
        "responses": {
            "200": {"description": "What the call returns.", "content": {"application/json": reply}},
            "4XX": {"$ref": "#/components/responses/Error"},
            "5XX": {"$ref": "#/components/responses/Error"},
        },
    }
    message = types[method.input_type]
    if method.verb == "GET" and isinstance(message, DescriptorProto) and message.field:
        operation["parameters"] = [_parameter(method.input_type, field, comments) for field in message.field]
    if method.verb != "GET":
        body: _Schema = {"schema": _reference(method.input_type)}
        if name in _EXAMPLES:
            body["example"] = _EXAMPLES[name]
        needed = REQUIRED.get(message.name) or (isinstance(message, DescriptorProto) and _choices(message))
        operation["requestBody"] = {"required": bool(needed), "content": {"application/json": body}}
    return operation


def _schema(
    name: str, one: DescriptorProto | EnumDescriptorProto, comments: _Comments, *, asked: bool
) -> _Schema:
    if isinstance(one, EnumDescriptorProto):
        return _enum(name, one, comments)
    short = name.removeprefix(f"{PACKAGE}.")
    fields = {field.name: _field(name, field, one, comments) for field in one.field}
    schema: _Schema = {"type": "object"} | _described(comments.get(name)) | {"properties": fields}
    if not asked:
        return schema
    for field, bound in BOUNDS.get(short, {}).items():
        _narrow(fields[field], bound)
    schema["additionalProperties"] = False
    if needed := REQUIRED.get(short):
        schema["required"] = list(needed)
    if choices := _choices(one):
        schema["oneOf"] = [{"required": [choice]} for choice in choices]
    return schema


def _enum(name: str, one: EnumDescriptorProto, comments: _Comments) -> _Schema:
    values = [value.name for value in one.value]
    said = [f"{value}: {comments[f'{name}.{value}']}" for value in values if f"{name}.{value}" in comments]
    text = "\n".join(filter(None, [comments.get(name), *said]))
    return {"type": "string", "enum": values} | _described(text)


def _described(said: str | None) -> _Schema:
    return {"description": said} if said else {}


def _field(owner: str, field: FieldDescriptorProto, message: DescriptorProto, comments: _Comments) -> _Schema:
    entry = next((one for one in message.nested_type if field.type_name == f".{owner}.{one.name}"), None)
    if entry is not None:
        schema: _Schema = {"type": "object", "additionalProperties": _value(entry.field[1])}
    elif field.label == _Kind.LABEL_REPEATED:
        schema = {"type": "array", "items": _value(field)}
    else:
        schema = _value(field)
    return schema | _described(comments.get(f"{owner}.{field.name}"))


def _parameter(owner: str, field: FieldDescriptorProto, comments: _Comments) -> _Schema:
    """Return a field of a request without a body as a query parameter."""
    said = _described(comments.get(f"{owner}.{field.name}"))
    short = owner.removeprefix(f"{PACKAGE}.")
    bound, needed = BOUNDS.get(short, {}).get(field.name, {}), field.name in REQUIRED.get(short, ())
    parameter = {"name": field.name, "in": "query", "schema": _value(field) | bound}
    return parameter | ({"required": True} if needed else {}) | said


def _value(field: FieldDescriptorProto) -> _Schema:
    if field.type_name == _TIME:
        return {"type": "string", "format": "date-time"}
    if field.type_name:
        return _reference(field.type_name.removeprefix("."))
    return dict(_PLAIN[field.type])


def _narrow(schema: _Schema, bound: _Schema) -> None:
    """Put a bound into the schema of a field, and that of its entries into theirs."""
    entries = bound.get("items")
    schema |= {name: value for name, value in bound.items() if name != "items"}
    if entries is not None:
        schema["items"] |= entries


def _choices(message: DescriptorProto) -> list[str]:
    """Return the fields one of which must be set."""
    return [
        field.name for field in message.field if field.HasField("oneof_index") and not field.proto3_optional
    ]


def _reference(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name.removeprefix(f'{PACKAGE}.')}"}


def _types(file: FileDescriptorProto) -> Iterator[tuple[str, DescriptorProto | EnumDescriptorProto]]:
    yield from ((f"{PACKAGE}.{one.name}", one) for one in file.message_type)
    yield from ((f"{PACKAGE}.{one.name}", one) for one in file.enum_type)


def _reached(roots: Sequence[str], types: _Types) -> set[str]:
    """Return the names of messages and enums that messages hold, these among them."""
    found, left = set[str](), list(roots)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        one = types[name]
        if isinstance(one, DescriptorProto):
            names = (field.type_name.removeprefix(".") for field in one.field)
            left += [name for name in names if name in types]
    return found


def _comments(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """Yield the comment of each thing in a file by its full name, in one paragraph."""
    names = dict(_named(file))
    for place in file.source_code_info.location:
        name = names.get(tuple(place.path))
        said = " ".join(f"{place.leading_comments} {place.trailing_comments}".split())
        if name is not None and said:
            yield name, said


def _named(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield the full name of what lies at each path of a file."""
    for i, service in enumerate(file.service):
        yield (_SERVICES, i), f"{PACKAGE}.{service.name}"
        for j, method in enumerate(service.method):
            yield (_SERVICES, i, _METHODS, j), f"{PACKAGE}.{service.name}.{method.name}"
    for i, message in enumerate(file.message_type):
        yield (_MESSAGES, i), f"{PACKAGE}.{message.name}"
        for j, field in enumerate(message.field):
            yield (_MESSAGES, i, _FIELDS, j), f"{PACKAGE}.{message.name}.{field.name}"
    for i, enum in enumerate(file.enum_type):
        yield (_ENUMS, i), f"{PACKAGE}.{enum.name}"
        for j, value in enumerate(enum.value):
            yield (_ENUMS, i, _VALUES, j), f"{PACKAGE}.{enum.name}.{value.name}"


def _error_response() -> _Schema:
    said = (
        "Why there is no reply: google.rpc.Status as JSON, with code, reason, message and field as by gRPC."
    )
    return {"description": said, "content": {"application/json": {"schema": _reference("Error")}}}


_TEXT: _Schema = {"type": "string"}
_OWN_REASONS = (
    "For programs. Those of the gateway itself are UNKNOWN_METHOD, WRONG_VERB, NOT_JSON, INVALID_REQUEST, "
    "TOO_LARGE, SERVER_UNREACHABLE and TOO_LATE."
)
_VIOLATION: _Schema = {
    "type": "object",
    "properties": {
        "field": _TEXT | {"description": "Its path, such as views.events[3].weight."},
        "description": _TEXT,
    },
}
_ERROR_SCHEMAS: _Schema = {
    "Error": {
        "type": "object",
        "properties": {
            "code": {"type": "integer", "minimum": 1, "maximum": 16, "description": "google.rpc.Code."},
            "message": _TEXT | {"description": "For people."},
            "details": {"type": "array", "items": _reference("ErrorDetail")},
        },
        "required": ["code", "message"],
    },
    "ErrorDetail": {
        "type": "object",
        "description": "google.rpc.ErrorInfo has the reason, google.rpc.BadRequest the field, and "
        "google.rpc.RetryInfo when to ask again.",
        "properties": {
            "@type": _TEXT,
            "reason": _TEXT | {"description": _OWN_REASONS},
            "domain": _TEXT,
            "metadata": {"type": "object", "additionalProperties": _TEXT},
            "field_violations": {"type": "array", "items": _VIOLATION},
            "retry_delay": _TEXT | {"description": "Seconds, such as 1s."},
        },
        "required": ["@type"],
    },
}
