"""Stubs know nothing of the options that only a gateway reads, and keep all others."""

from pathlib import Path

import google.api
import pytest
from google.protobuf import descriptor_pb2

from scripts.stubs.__main__ import write_stubs
from scripts.stubs.descriptors import ProtocError, describe, renamed, without_imports

PETS = """
syntax = "proto3";
package triptych.v1;
import "google/api/annotations.proto";
import "google/protobuf/descriptor.proto";
import "triptych/v1/names.proto";
extend google.protobuf.MethodOptions { string scope = 50817; }
// Keeps pets.
service Pets {
  // Feeds one.
  rpc Feed(PetName) returns (PetName) {
    option (scope) = "query";
    option (google.api.http) = {
      post: "/v1/pets:feed"
      body: "*"
    };
  }
}
"""
NAMES = """
syntax = "proto3";
package triptych.v1;
message PetName {
  string given_name = 1;
  string family_name = 2 [json_name = "surname"];
}
"""
OWNER = """
syntax = "proto3";
package triptych.internal.v1;
import "triptych/v1/names.proto";
message Owner { triptych.v1.PetName pet = 1; }
"""


@pytest.fixture
def proto(tmp_path: Path) -> Path:
    """A small API: HTTP routes in one file, imports between folders."""
    folder = tmp_path / "proto"
    for name, text in (("v1/pets", PETS), ("v1/names", NAMES), ("internal/v1/owner", OWNER)):
        file = folder / "triptych" / f"{name}.proto"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    for name in ("annotations.proto", "http.proto"):
        copy = folder / "google" / "api" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((Path(next(iter(google.api.__path__))) / name).read_bytes())
    return folder


def method_of(described: descriptor_pb2.FileDescriptorSet) -> descriptor_pb2.MethodDescriptorProto:
    (file,) = [one for one in described.file if one.service]
    return file.service[0].method[0]


def test_http_routes_go_and_scopes_stay(proto: Path) -> None:
    described = describe(proto, ["triptych/v1/pets.proto"])
    assert b"/v1/pets:feed" in method_of(described).options.SerializeToString()
    kept = without_imports(described)
    assert sorted(file.name for file in kept.file) == [
        "google/protobuf/descriptor.proto",
        "triptych/v1/names.proto",
        "triptych/v1/pets.proto",
    ]
    assert method_of(kept).options.SerializeToString() == b"\x8a\xe8\x18\x05query"  # field 50817
    assert b"google/api" not in kept.SerializeToString()
    comments = [one.leading_comments for file in kept.file for one in file.source_code_info.location]
    assert " Feeds one.\n" in comments


def test_files_and_imports_are_renamed_and_json_names_of_ones_own_stay(proto: Path) -> None:
    described = renamed(describe(proto, ["triptych/v1/pets.proto"]), {"triptych/v1": "ours/v1"})
    files = {file.name: file for file in described.file}
    assert "ours/v1/names.proto" in files["ours/v1/pets.proto"].dependency
    assert "google/api/annotations.proto" in files["ours/v1/pets.proto"].dependency
    assert [field.json_name for field in files["ours/v1/names.proto"].message_type[0].field] == [
        "",
        "surname",
    ]


def test_stubs_of_an_api_with_routes_import_no_package_of_a_gateway(proto: Path, tmp_path: Path) -> None:
    stale = tmp_path / "out" / "clients/python/triptych_client/pb/v1/gone_pb2.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("", "utf-8")
    write_stubs(proto, tmp_path / "out")
    texts = {p.name: p.read_text("utf-8") for p in (tmp_path / "out").rglob("*_pb2*")}
    assert {"pets_pb2.py", "names_pb2.pyi", "owner_pb2.py", "pets_pb2_grpc.py"} <= texts.keys()
    assert "gone_pb2.py" not in texts
    assert not [name for name, text in texts.items() if "google.api" in text or "pets:feed" in text]
    assert "from triptych_client.pb.v1 import names_pb2" in texts["pets_pb2.py"]
    assert "from triptych_client.pb.v1 import names_pb2" in texts["owner_pb2.py"]
    assert "Feeds one." in texts["pets_pb2_grpc.py"]


def test_a_wrong_file_is_named(proto: Path) -> None:
    (proto / "triptych/v1/names.proto").write_text("message {", "utf-8")
    with pytest.raises(ProtocError, match=r"triptych/v1/names\.proto"):
        describe(proto, ["triptych/v1/names.proto"])
