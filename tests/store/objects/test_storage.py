"""Object storage itself: conditions honoured or refused aloud, large files, what cannot be reached."""

import subprocess
import sys
from pathlib import Path

import pytest

from store.home import Home
from store.objects import (
    CURRENT,
    ConditionFailedError,
    HomeBucket,
    NoConditionsError,
    ObjectStorage,
    ObjectStorageError,
    PointerVersion,
)
from store.objects import storage as module


def test_a_put_on_a_condition_succeeds_once(url: str) -> None:
    storage = ObjectStorage(url)
    first = storage.put_if("a", b"1", None)
    with pytest.raises(ConditionFailedError, match=f"{url}/a was written by somebody else"):
        storage.put_if("a", b"2", None)
    second = storage.put_if("a", b"2", first)
    with pytest.raises(ConditionFailedError):
        storage.put_if("a", b"3", first)
    with pytest.raises(ConditionFailedError):
        storage.put_if("none", b"3", first)
    assert storage.read_version("a") == (b"2", second)
    storage.check_conditions()
    assert list(storage.files()) == ["a"]


@pytest.mark.parametrize("ignored", ["IfNoneMatch", "IfMatch"])
def test_a_storage_that_ignores_conditions_is_refused(
    url: str, made: Path, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    bucket = HomeBucket(url)
    call = bucket.storage._files._call_s3
    monkeypatch.setattr(
        bucket.storage._files,
        "_call_s3",
        lambda method, *some, **asked: call(
            method, *some, **{k: v for k, v in asked.items() if k != ignored}
        ),
    )
    with pytest.raises(NoConditionsError, match="ignores If-"):
        bucket.add("indexes", made)
    assert list(bucket.storage.files()) == []
    bucket._checked = True
    bucket.add("indexes", made)
    bucket._checked = False
    with pytest.raises(NoConditionsError, match="keep it in a bucket of S3"):
        bucket.move_pointer(CURRENT, "a1", bucket.pointer(CURRENT))
    assert bucket.pointer(CURRENT) == PointerVersion()


def test_other_storage_than_s3_holds_no_home(made: Path) -> None:
    with pytest.raises(NoConditionsError, match="cannot put an object on a condition"):
        HomeBucket("memory://somewhere/home").add("indexes", made)


def test_a_large_file_goes_in_parts(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART_BYTES", 5 << 20)
    storage, methods, told = ObjectStorage(url), list[str](), list[int]()
    call = storage._files._call_s3
    monkeypatch.setattr(
        storage._files,
        "_call_s3",
        lambda method, *some, **asked: (methods.append(method), call(method, *some, **asked))[1],
    )
    content = bytes(range(256)) * (47 << 10)  # 12 MB
    (tmp_path / "large").write_bytes(content)
    storage.put(tmp_path / "large", "large", "its sha256", told.append)
    assert methods.count("upload_part") == 3
    assert storage.sha256("large") == "its sha256"
    storage.get("large", tmp_path / "back", told.append)
    assert sum(told) == 2 * len(content)
    assert (tmp_path / "back").read_bytes() == content


@pytest.mark.parametrize("what", ["nobody", "no bucket", "no server"])
def test_what_cannot_be_reached_is_named(url: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASK_SECONDS", 5.0)
    if what == "nobody":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    elif what == "no bucket":
        url = "s3://nowhere/home"
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    bucket = HomeBucket(url)
    asked = [lambda: bucket.ids("indexes"), lambda: bucket.pointer(CURRENT)]
    for ask in asked if what != "no bucket" else asked[1:]:
        with pytest.raises(ObjectStorageError, match=url) as caught:
            ask()
        assert "a-secret-key" not in str(caught.value)


def test_a_disk_that_is_full_is_no_fault_of_the_storage(
    url: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from store.disk import DiskFullError

    bucket = HomeBucket(url)
    bucket.add("indexes", made)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bucket.storage._files, "get_file", full)
    with pytest.raises(DiskFullError):
        bucket.fetch("indexes", "a1", Home(tmp_path / "elsewhere"))


LARGE = """
import resource, sys
from pathlib import Path
from store.objects import ObjectStorage
url, source, target = sys.argv[1:]
storage = ObjectStorage(url)
storage.write("small", b"1")  # what is loaded once is loaded now
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
storage.put(Path(source), "large")
storage.get("large", Path(target))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_a_large_file_takes_little_memory(url: str, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(320 << 20)
    command = [sys.executable, "-c", LARGE, url, str(tmp_path / "large"), str(tmp_path / "back")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "back").stat().st_size == 320 << 20
    assert int(ended.stdout) < 150  # MiB; 92 when it was written
