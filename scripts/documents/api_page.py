"""The reference of the API, docs/api.md, from the comments of the proto."""

import html
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2 as schema
from google.protobuf import descriptor_pool, message_factory

PACKAGE = "triptych.v1"
_SERVICES = ("Retrieval", "Ingest", "Admin")  # in the order of a reader
_OPTIONS_FILE = "google/protobuf/descriptor.proto"  # asked for: a proto without options does not bring it
_HTTP = "google.api.http"
_VERBS = ("get", "put", "post", "delete", "patch")
_Field = schema.FieldDescriptorProto
_SCALARS = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in schema.FieldDescriptorProto.Type.items()
    if name not in ("TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP")
}
_INTRODUCTION = """# API reference

Made from the comments in `proto/triptych/v1/` by `python -m scripts.documents api`; change them there.
Every call may be made with `triptych-client` (Python) or with any language's gRPC; where a method has a
route, `triptych gateway` answers it as REST, too.

The scope is what a token must have, on a server that asks for one. In a field's type, *optional* means
that a value which is not sent is told from one that is zero; *one of* means that at most one of the group
is set."""


class ProtoError(RuntimeError):
    """The proto does not compile; says where."""


@dataclass(frozen=True)
class _File:
    """One proto file, and the comments in it by path, as SourceCodeInfo numbers paths."""

    proto: schema.FileDescriptorProto
    comments: dict[tuple[int, ...], str]

    def comment(self, *path: int) -> str:
        return self.comments.get(path, "")


def api_page(proto: Path) -> str:
    """Return the page for the public proto files below a folder.

    Raises:
        ProtoError: a file does not compile.
    """
    compiled = _compile(proto)
    options = _options_reader(compiled)
    files = [_with_comments(one) for one in compiled.file if one.package == PACKAGE]
    services = {
        service.name: (file, number) for file in files for number, service in enumerate(file.proto.service)
    }
    parts = [_INTRODUCTION]
    for name in sorted(services, key=_SERVICES.index):
        parts.extend(_service(*services[name], options))
    parts.append("## Messages")
    messages = {one.name: (file, n) for file in files for n, one in enumerate(file.proto.message_type)}
    for name in sorted(messages):
        parts.extend(_message(*messages[name]))
    parts.append("## Enumerations")
    enums = {one.name: (file, n) for file in files for n, one in enumerate(file.proto.enum_type)}
    for name in sorted(enums):
        parts.extend(_enum(*enums[name]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _compile(proto: Path) -> schema.FileDescriptorSet:
    """Return the public files and all that they import, comments included.  Raises: ProtoError."""
    import grpc_tools
    from grpc_tools import protoc

    wanted = sorted(str(path) for path in (proto / "triptych" / "v1").glob("*.proto"))
    standard = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "api.binpb"
        words = ["protoc", f"-I{proto}", f"-I{standard}", "--include_imports", "--include_source_info"]
        if protoc.main([*words, f"--descriptor_set_out={out}", _OPTIONS_FILE, *wanted]) != 0:
            raise ProtoError(f"{proto} does not compile: protoc says why above")
        return schema.FileDescriptorSet.FromString(out.read_bytes())


def _options_reader(compiled: schema.FileDescriptorSet) -> Any:
    """Return the class of MethodOptions that knows the extensions which the files bring."""
    pool = descriptor_pool.DescriptorPool()
    for one in compiled.file:
        pool.Add(one)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("google.protobuf.MethodOptions"))


def _with_comments(proto: schema.FileDescriptorProto) -> _File:
    return _File(
        proto,
        {
            tuple(place.path): _paragraphs(place.leading_comments or place.trailing_comments)
            for place in proto.source_code_info.location
        },
    )


def _paragraphs(comment: str) -> str:
    """Return a comment with each paragraph on one line, and safe in Markdown."""
    paragraphs = re.split(r"\n\s*\n", html.escape(comment.strip(), quote=False))
    return "\n\n".join(" ".join(one.split()) for one in paragraphs)


def _service(file: _File, number: int, options: Any) -> Iterator[str]:
    service = file.proto.service[number]
    yield f"## {service.name}"
    yield file.comment(6, number)
    for place, method in enumerate(service.method):
        yield f"### {method.name}"
        yield f"`{_signature(method)}`" + _facts(options.FromString(method.options.SerializeToString()))
        yield file.comment(6, number, 2, place)
        asked, answered = _local(method.input_type), _local(method.output_type)
        yield f"Request: {_link(asked)}. Reply: {_link(answered)}."


def _signature(method: schema.MethodDescriptorProto) -> str:
    asked = "stream " * method.client_streaming + _local(method.input_type)
    answered = "stream " * method.server_streaming + _local(method.output_type)
    return f"rpc {method.name}({asked}) returns ({answered})"


def _facts(options: Any) -> str:
    """Return the scope and the REST route of a method, where it has them."""
    said = ""
    for field, value in options.ListFields():
        if field.full_name.startswith(PACKAGE):
            said += f" · scope `{value}`"
        elif field.full_name == _HTTP:
            rules = [value, *value.additional_bindings]
            routes = [
                f"`{verb.upper()} {getattr(one, verb)}`"
                for one in rules
                for verb in _VERBS
                if getattr(one, verb)
            ]
            said += f" · REST {', '.join(routes)}"
    return said


def _message(file: _File, number: int) -> Iterator[str]:
    message = file.proto.message_type[number]
    yield f"### {message.name}"
    yield file.comment(4, number)
    if not message.field:
        yield "It has no fields."
        return
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for place, field in enumerate(message.field):
        meaning = file.comment(4, number, 2, place).replace("\n\n", " ").replace("|", "\\|")
        rows.append(f"| `{field.name}` | {_type(message, field)} | {meaning} |")
    yield "\n".join(rows)


def _type(message: schema.DescriptorProto, field: _Field) -> str:
    kind = _local(field.type_name)
    entry = next((one for one in message.nested_type if one.name == kind and one.options.map_entry), None)
    if entry is not None:
        key, value = (_plain(one) for one in entry.field)
        return f"map of {key} to {value}"
    name = _plain(field)
    if field.label == _Field.LABEL_REPEATED:
        return f"list of {name}"
    if field.proto3_optional:
        return f"optional {name}"
    if field.HasField("oneof_index"):
        return f"{name}, one of *{message.oneof_decl[field.oneof_index].name}*"
    return name


def _plain(field: _Field) -> str:
    return _SCALARS.get(field.type) or _link(_local(field.type_name))


def _enum(file: _File, number: int) -> Iterator[str]:
    enum = file.proto.enum_type[number]
    yield f"### {enum.name}"
    yield file.comment(5, number)
    rows = ["| value | number | meaning |", "|---|---|---|"]
    for place, value in enumerate(enum.value):
        rows.append(f"| `{value.name}` | {value.number} | {file.comment(5, number, 2, place)} |")
    yield "\n".join(rows)


def _local(name: str) -> str:
    """Return the name of a message without the package, where it is ours."""
    return (
        name.removeprefix(f".{PACKAGE}.").rpartition(".")[2] if name.startswith(f".{PACKAGE}.") else name[1:]
    )


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})" if "." not in name else f"`{name}`"
