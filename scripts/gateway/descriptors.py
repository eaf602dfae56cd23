"""python -m scripts.gateway.descriptors: write what the gateway knows of the proto; `make proto` runs it."""

import json
import tempfile
from pathlib import Path

import google.rpc

from scripts.gateway.openapi import openapi
from scripts.stubs.descriptors import protoc

ROOT = Path(__file__).resolve().parents[2]
_OURS = ("triptych/v1/triptych.proto", "triptych/v1/ingest.proto")
# Envoy reads the details of an error with these.
_ERRORS = ("google/rpc/status.proto", "google/rpc/error_details.proto")


def compiled(proto: Path, *, comments: bool) -> bytes:
    """Return the descriptors of the API in a folder of protos, and of its errors: a FileDescriptorSet.

    Raises:
        ProtocError: a file is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "described.binpb"
        options = ("--include_imports", f"--descriptor_set_out={made}", *["--include_source_info"] * comments)
        protoc("-I.", f"-I{Path(google.rpc.__path__[0]).parents[1]}", *options, *_OURS, *_ERRORS, cwd=proto)
        return made.read_bytes()


def write(folder: Path, proto: Path = ROOT / "proto") -> None:
    """Write the descriptors and the description of the JSON form into a folder.  Raises: as `compiled`."""
    (folder / "triptych.binpb").write_bytes(compiled(proto, comments=False))
    described = openapi(compiled(proto, comments=True))
    (folder / "openapi.json").write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
