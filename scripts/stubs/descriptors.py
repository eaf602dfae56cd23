"""What proto/ describes, as stubs need it: without a gateway's options, named as Python imports them."""

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

LEFT_OUT = (
    "google/api/"  # HTTP routes: only a gateway reads them, and a client would have to install their package
)

_SECONDS = 120.0


class ProtocError(RuntimeError):
    """protoc refuses the files of proto/, or a plugin of it fails; the message is what it says."""


def protoc(*arguments: str, cwd: Path) -> None:
    """Run the protoc of grpcio-tools.  Raises: ProtocError."""
    command = [sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise ProtocError(done.stderr.strip() or f"protoc ended with {done.returncode}")


def describe(proto: Path, sources: Iterable[str]) -> descriptor_pb2.FileDescriptorSet:
    """Return the descriptors of files of a folder, with their comments, and of all that they import.

    Raises:
        ProtocError: a file is missing or wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "described.binpb"
        options = ("--include_imports", "--include_source_info", f"--descriptor_set_out={made}")
        protoc("-I.", *options, *sources, cwd=proto)
        return descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes())


def without_imports(
    described: descriptor_pb2.FileDescriptorSet, left_out: str = LEFT_OUT
) -> descriptor_pb2.FileDescriptorSet:
    """Return the descriptors without the files of a folder, their imports and the options they define."""
    pool = descriptor_pool.DescriptorPool()
    for file in described.file:
        pool.Add(file)
    if not any(file.name.startswith(left_out) for file in described.file):
        return described
    # Of the same pool, so that its options are fields by name instead of unknown bytes.
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("google.protobuf.FileDescriptorSet"))
    copy: Any = kind.FromString(described.SerializeToString())
    kept: Any = kind()
    for file in copy.file:
        if not file.name.startswith(left_out):
            _forget_options(file, left_out)
            imports = [name for name in file.dependency if not name.startswith(left_out)]
            del file.dependency[:], file.public_dependency[:], file.weak_dependency[:]
            file.dependency.extend(imports)
            kept.file.append(file)
    return descriptor_pb2.FileDescriptorSet.FromString(kept.SerializeToString())


def _forget_options(message: Any, left_out: str) -> None:
    """Clear all extensions in a message and what it holds that a file of a folder defines."""
    for field, value in message.ListFields():
        if field.is_extension and field.file.name.startswith(left_out):
            message.ClearExtension(field)
        elif field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                _forget_options(one, left_out)


def renamed(
    described: descriptor_pb2.FileDescriptorSet, folders: Mapping[str, str]
) -> descriptor_pb2.FileDescriptorSet:
    """Return the descriptors with each folder named as another, in files and in imports.

    Names that JSON has by default are left out: protoc writes them into a descriptor, but not into stubs.
    """
    result = descriptor_pb2.FileDescriptorSet()
    result.CopyFrom(described)
    for file in result.file:
        file.name = _renamed(file.name, folders)
        file.dependency[:] = [_renamed(name, folders) for name in file.dependency]
        for field in (*file.extension, *(field for one in file.message_type for field in _fields(one))):
            if field.json_name == _json_name(field.name):
                field.ClearField("json_name")
    return result


def _renamed(name: str, folders: Mapping[str, str]) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folders.get(folder, folder)}/{file}"


def _fields(message: descriptor_pb2.DescriptorProto) -> Iterable[descriptor_pb2.FieldDescriptorProto]:
    yield from message.field
    yield from message.extension
    for nested in message.nested_type:
        yield from _fields(nested)


def _json_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)
