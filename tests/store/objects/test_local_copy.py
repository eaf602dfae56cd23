"""The copy of a home in a bucket: checked, bounded, shared by processes, and of use without the bucket."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from store.artifact import DamagedArtifactError, NotPublishedError, build, verify
from store.home import Home
from store.objects import CURRENT, HomeBucket, LocalCopy, ObjectStorageError, ServingIndex, storage
from tests.engines.s3 import BUCKET, environment, s3_process
from tests.live_server import stopped

BYTES = 10_000


@pytest.fixture
def bucket(url: str, tmp_path: Path) -> HomeBucket:
    """A home in a bucket: two indexes of one model, and a third one of another; i1 serves."""
    bucket = HomeBucket(url)
    fill(bucket, tmp_path / "source")
    return bucket


def fill(bucket: HomeBucket, source: Path) -> None:
    parts = [
        ("text_models", "t1", {}),
        ("models", "m1", {"text_model_id": "t1"}),
        ("models", "m2", {"text_model_id": "t1"}),
        ("indexes", "i1", {"model_id": "m1"}),
        ("indexes", "i2", {"model_id": "m1"}),
        ("indexes", "i3", {"model_id": "m2"}),
    ]
    for kind, artifact_id, facts in parts:
        with build(source / kind, artifact_id) as draft:
            (draft.path / "file").write_bytes(artifact_id.encode() * (BYTES // 2))
            draft.facts |= facts
        bucket.add(kind, source / kind / artifact_id)
    bucket.move_pointer(CURRENT, "i1", bucket.pointer(CURRENT))


def kept(home: Home) -> set[str]:
    paths = [path for kind in ("text_models", "models", "indexes") for path in (home.path / kind).glob("*")]
    return {path.name for path in paths if not path.name.startswith(".")}


def test_an_index_comes_with_its_models_and_once(
    bucket: HomeBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCopy(bucket.name, tmp_path / "cache") as copy:
        assert copy.serving() == ServingIndex("i1", confirmed=True)
        assert copy.fetch_index("i1") == copy.home.indexes / "i1"
        assert kept(copy.home) == {"i1", "m1", "t1"}
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        with LocalCopy(bucket.name, tmp_path / "cache") as other:
            assert other.home == copy.home
            assert verify(other.fetch_index("i1"))["model_id"] == "m1"  # without the bucket
            with pytest.raises(ObjectStorageError):
                other.fetch_index("i2")
        assert (copy.home.path.stat().st_mode & 0o777) == 0o700  # exports hold personal data


def test_without_the_bucket_what_it_said_last_serves_and_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with s3_process(tmp_path / "s3") as (endpoint, server):
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        bucket = HomeBucket(f"s3://{BUCKET}/home")
        fill(bucket, tmp_path / "source")
        with LocalCopy(bucket.name, tmp_path / "cache") as copy:
            assert copy.serving() == ServingIndex("i1", confirmed=True)
            copy.fetch_index("i1")
            with stopped(server.pid), pytest.MonkeyPatch.context() as patience:
                patience.setattr(storage, "_ASK_SECONDS", 1.5)
                begun = time.monotonic()
                assert copy.serving() == ServingIndex("i1", confirmed=False)
                assert time.monotonic() - begun < 10
                assert "going on with the copy of index i1" in caplog.text
                assert copy.fetch_index("i1").is_dir()
                with pytest.raises(ObjectStorageError):
                    LocalCopy(bucket.name, tmp_path / "another").serving()  # which has never been told
            bucket.move_pointer(CURRENT, "i2", bucket.pointer(CURRENT))
            assert copy.serving() == ServingIndex("i2", confirmed=True)
            server.send_signal(signal.SIGKILL)
            server.wait()
            assert copy.serving() == ServingIndex("i2", confirmed=False)


def test_where_nothing_is_published_that_is_said(url: str, tmp_path: Path) -> None:
    with LocalCopy(url, tmp_path) as copy, pytest.raises(NotPublishedError, match="CURRENT does not exist"):
        copy.serving()


def test_a_damaged_copy_is_fetched_anew(
    bucket: HomeBucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with LocalCopy(bucket.name, tmp_path) as copy:
        file = copy.fetch_index("i1") / "file"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    with LocalCopy(bucket.name, tmp_path) as copy:
        assert (copy.fetch_index("i1") / "file").read_bytes() == whole
    assert "is fetched anew" in caplog.text


def test_what_is_damaged_in_the_bucket_does_not_arrive(bucket: HomeBucket, tmp_path: Path) -> None:
    bucket.storage._files.pipe_file(bucket.storage._path("models/m1/file"), b"m1" * (BYTES // 2 - 1) + b"m2")
    with LocalCopy(bucket.name, tmp_path / "cache") as copy:
        with pytest.raises(DamagedArtifactError, match=r"models/m1/file: is damaged"):
            copy.fetch_index("i1")
        assert "m1" not in kept(copy.home)


def test_what_was_used_least_recently_makes_room(bucket: HomeBucket, tmp_path: Path) -> None:
    with LocalCopy(bucket.name, tmp_path / "cache", max_bytes=4 * BYTES + BYTES // 2) as copy:
        copy.fetch_index("i1")
        copy.fetch_index("i2")
        assert kept(copy.home) == {"t1", "m1", "i1", "i2"}
        os.utime(copy.home.indexes / "i1")
        copy.release(but=["i1"])
        copy.fetch_index("i3")
        assert kept(copy.home) == {"t1", "m1", "m2", "i1", "i3"}  # i1 is in use: more than the bound
        copy.release(but=["i3"])
        copy.tidy()
        assert {"t1", "m2", "i3"} <= kept(copy.home)
        assert len(kept(copy.home)) == 4


USING = """
import sys
from pathlib import Path
from store.objects import LocalCopy
with LocalCopy(sys.argv[1], Path(sys.argv[2])) as copy:
    copy.fetch_index("i1")
    print("in", flush=True)
    sys.stdin.readline()
"""


def test_what_another_process_uses_stays(bucket: HomeBucket, tmp_path: Path) -> None:
    command = [sys.executable, "-c", USING, bucket.name, str(tmp_path / "cache")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        with LocalCopy(bucket.name, tmp_path / "cache", max_bytes=0) as copy:
            copy.tidy()
            assert kept(copy.home) == {"t1", "m1", "i1"}
            (copy.home.models / "m1" / "file").write_bytes(b"damaged")
            with pytest.raises(DamagedArtifactError, match=r"m1/file: is damaged"):
                copy.fetch_index("i1")  # the other one still has it open
            copy.release()
            process.communicate(b"\n")
            copy.tidy()
            assert kept(copy.home) == set()


def test_what_was_made_here_stays_until_the_bucket_has_it(bucket: HomeBucket, tmp_path: Path) -> None:
    with LocalCopy(bucket.name, tmp_path / "cache", max_bytes=0) as copy:
        with build(copy.home.models, "m9") as draft:
            (draft.path / "file").write_bytes(b"hours of work")
        copy.fetch("models", "m1")
        copy.release()
        copy.tidy()
        assert kept(copy.home) == {"m9"}
        bucket.add("models", copy.home.models / "m9")
        copy.tidy()
        assert [path.name for path in copy.home.models.iterdir()] == []  # no marks are left, either


def test_what_the_bucket_has_no_more_goes_from_here_too(bucket: HomeBucket, tmp_path: Path) -> None:
    with LocalCopy(bucket.name, tmp_path / "cache") as copy:
        copy.fetch_index("i2")
        bucket.remove("indexes", "i2")  # such as one that held vectors of people who were erased
        copy.tidy()
        assert "i2" in kept(copy.home)  # in use
        copy.release()
        copy.tidy()
        assert kept(copy.home) == {"t1", "m1"}
        with pytest.raises(DamagedArtifactError, match=r"i2/manifest.json: is missing"):
            copy.fetch_index("i2")
