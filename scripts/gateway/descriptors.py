"""python -m scripts.gateway.descriptors: write what the gateway knows of the proto; `make proto` runs it."""

import json
import tempfile
from pathlib import Path

import google.rpc

from scripts.gateway.openapi import openapi

ROOT = Path(__file__).resolve().parents[2]
_OURS = ("triptych/v1/triptych.proto", "triptych/v1/ingest.proto")
# The transcoder makes an error readable with these.
_ERRORS = ("google/rpc/status.proto", "google/rpc/error_details.proto")


class ProtoCompilerError(ValueError):
    """The proto cannot be compiled; protoc has said why."""


def compiled(proto: Path, *, comments: bool) -> bytes:
    """Return the descriptors of the API in a folder of protos, and of its errors: a FileDescriptorSet.

    Raises:
        ProtoCompilerError: they cannot be compiled.
    """
    import grpc_tools
    from grpc_tools import protoc

    places = (proto, Path(google.rpc.__path__[0]).parents[1], Path(grpc_tools.__file__).parent / "_proto")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "descriptors"
        words = [f"-I{place}" for place in places] + ["--include_imports", f"-o{target}"]
        words += ["--include_source_info"] * comments
        if protoc.main(["protoc", *words, *_OURS, *_ERRORS]) != 0:
            raise ProtoCompilerError(f"{proto} cannot be compiled")
        return target.read_bytes()


def write(folder: Path) -> None:
    """Write the descriptors and the description of the JSON form into a folder."""
    (folder / "triptych.binpb").write_bytes(compiled(ROOT / "proto", comments=False))
    described = openapi(compiled(ROOT / "proto", comments=True))
    (folder / "openapi.json").write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
