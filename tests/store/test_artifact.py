"""Artifacts: published whole or not at all, and every changed byte is found."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import artifact
from store.artifact import DamagedArtifactError, NotPublishedError, build, read_manifest, read_pointer, verify


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    with build(tmp_path, "a1") as draft:
        (draft.path / "part").mkdir()
        (draft.path / "part" / "二.bin").write_bytes(bytes(range(64)))
        (draft.path / "one.txt").write_text("eins")
        draft.facts["kind"] = "test"
    return tmp_path / "a1"


def test_a_built_artifact_names_its_files_by_sha256(whole: Path) -> None:
    manifest = verify(whole)
    assert manifest == {
        "kind": "test",
        "files": {
            "one.txt": hashlib.sha256(b"eins").hexdigest(),
            "part/二.bin": hashlib.sha256(bytes(range(64))).hexdigest(),
        },
    }


def test_ids_sort_by_time_of_creation() -> None:
    ids = [artifact.new_id() for _ in range(50)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 50


def test_every_flipped_bit_of_every_file_is_found(whole: Path) -> None:
    for name in ("manifest.json", "one.txt", "part/二.bin"):
        path = whole / name
        intact = path.read_bytes()
        for position in range(len(intact)):
            for bit in (1, 0x80):
                damaged = bytearray(intact)
                damaged[position] ^= bit
                path.write_bytes(damaged)
                with pytest.raises(DamagedArtifactError) as caught:
                    verify(whole)
                assert name in str(caught.value)
        path.write_bytes(intact)
    verify(whole)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), extra=st.binary(max_size=20))
def test_a_cut_or_lengthened_manifest_is_found(whole: Path, cut: int, extra: bytes) -> None:
    path = whole / "manifest.json"
    intact = path.read_bytes()
    changed = intact[:cut] + extra
    if changed == intact:
        return
    path.write_bytes(changed)
    try:
        with pytest.raises(DamagedArtifactError):
            read_manifest(whole)
    finally:
        path.write_bytes(intact)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{}", b'"checksum"', b"\xff\xfe", b'{"checksum": 1}']
)
def test_a_manifest_that_is_none_is_damage(whole: Path, content: bytes) -> None:
    (whole / "manifest.json").write_bytes(content)
    with pytest.raises(DamagedArtifactError):
        verify(whole)


def test_missing_and_added_files_are_damage(whole: Path) -> None:
    (whole / "part" / "extra").write_text("x")
    with pytest.raises(DamagedArtifactError, match=r"extra: is not named by"):
        verify(whole)
    (whole / "part" / "extra").unlink()
    (whole / "one.txt").unlink()
    with pytest.raises(DamagedArtifactError, match=r"one.txt: is missing"):
        verify(whole)
    (whole / "manifest.json").unlink()
    with pytest.raises(DamagedArtifactError, match=r"manifest.json: is missing"):
        verify(whole)


def test_a_rewritten_manifest_with_a_forged_fact_is_damage(whole: Path) -> None:
    path = whole / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["kind"] = "other"
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedArtifactError, match="checksum"):
        verify(whole)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="void"), build(tmp_path, "a1") as draft:
        (draft.path / "void" / "x").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_what_is_published_is_immutable(whole: Path) -> None:
    with pytest.raises(FileExistsError, match="immutable"), build(whole.parent, "a1"):
        pass
    verify(whole)


def test_a_killed_build_is_never_seen_and_is_swept_by_the_next(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, time; from store.artifact import build\n"
        "with build(pathlib.Path(sys.argv[1]), 'a1') as draft:\n"
        "    (draft.path / 'x').write_text('x'); print('in', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        os.kill(process.pid, signal.SIGKILL)
    assert artifact.artifacts(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 1
    with build(tmp_path, "a2"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["a2"]


def test_a_pointer_names_an_artifact_or_says_why_not(whole: Path) -> None:
    pointer = whole.parent / "CURRENT"
    with pytest.raises(NotPublishedError, match="CURRENT does not exist"):
        read_pointer(pointer, whole.parent)
    artifact.set_pointer(pointer, "a1")
    assert read_pointer(pointer, whole.parent) == whole
    pointer.write_bytes(b"a2\n")
    with pytest.raises(DamagedArtifactError, match="names 'a2'"):
        read_pointer(pointer, whole.parent)
    pointer.write_bytes(b"\xff")
    with pytest.raises(DamagedArtifactError):
        read_pointer(pointer, whole.parent)
