"""Commands with `--home s3://…`, on a real S3 server: train, reindex, evaluate, index, export, artifacts."""

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow.parquet as pq
import pytest

from encoder.config import TowerConfig
from indexer.publish import current_index, load_index
from server.app import running
from server.config import ServerConfig
from store.artifact import artifacts, verify
from store.home import Home
from store.ledger import read_ledger
from store.objects import (
    CURRENT,
    KINDS,
    LATEST,
    HomeBucket,
    HomeDirectory,
    ObjectStorage,
    ObjectStorageError,
)
from tests.command_line import Run
from triptych_client import Client


@pytest.fixture
def settings(tmp_path: Path) -> tuple[str, Path]:
    """Options of `train` that leave nothing to choose: a closed form with fixed settings."""
    file = tmp_path / "tower.json"
    file.write_text(json.dumps(TowerConfig(dim=16).as_json()))
    return "--config", file


def test_a_home_goes_to_a_bucket_and_back(home: Home, run: Run, url: str, tmp_path: Path) -> None:
    assert run("evaluate", "--home", home.path, "--split", "valid")[0] == 0
    code, out, err = run("artifacts", "copy", "--from", home.path, "--to", url)
    assert (code, "5 artifacts copied, 0 were there" in out) == (0, True), err
    code, out, _ = run("artifacts", "copy", "--from", home.path, "--to", url)
    assert (code, "0 artifacts copied, 5 were there" in out) == (0, True)
    code, out, _ = run("artifacts", "list", "--home", url)
    assert (code, out.count("*")) == (0, 2)
    assert all(one in out for kind in KINDS for one in HomeDirectory(home).ids(kind))
    code, _, err = run("artifacts", "copy", "--from", url, "--to", tmp_path / "back")
    assert code == 0, err
    back = Home(tmp_path / "back")
    for kind in KINDS:
        (one,) = HomeDirectory(home).ids(kind)
        assert verify(back.path / kind / one) == verify(home.path / kind / one)
    assert back.current_index.read_bytes() == home.current_index.read_bytes()
    assert back.latest_model.read_bytes() == home.latest_model.read_bytes()
    load_index(back, current_index(back).name)
    assert run("artifacts", "copy", "--from", url, "--to", f"{url}2", "--serving")[0] == 0
    assert [len(HomeBucket(f"{url}2").ids(kind)) for kind in KINDS] == [0, 1, 1, 1, 0]


def test_training_and_reindexing_need_the_bucket_alone(
    home: Home, run: Run, bare_url: str, settings: tuple[str, Path]
) -> None:
    assert run("artifacts", "copy", "--from", home.path, "--to", bare_url)[0] == 0
    bucket = HomeBucket(bare_url)
    first = bucket.pointer(CURRENT).artifact_id
    code, out, err = run("train", "--home", bare_url, *settings)
    assert code == 0, err
    models, text_models = bucket.ids("models"), bucket.ids("text_models")
    assert (len(models), len(text_models), bucket.pointer(LATEST).artifact_id) == (2, 1, models[1])
    assert f"model {models[1]}" in out
    assert bucket.pointer(CURRENT).artifact_id == first
    code, out, err = run("reindex", "--home", bare_url)
    assert code == 0, err
    second = bucket.pointer(CURRENT).artifact_id
    assert (second in out, bucket.manifest("indexes", second)["model_id"]) == (True, models[1])
    code, out, _ = run("index", "list", "--home", bare_url)
    assert (code, out.count("ok"), out.count("*")) == (0, 2, 1)
    code, out, _ = run("index", "rollback", "--home", bare_url)
    assert (code, out, bucket.pointer(CURRENT).artifact_id) == (0, f"index {first} serves\n", first)
    code, _, err = run("index", "rollback", "--home", bare_url)
    assert (code, "no index older than" in err) == (1, True)
    code, out, _ = run("index", "show", second, "--home", bare_url)
    assert (code, "ok: every file of the index" in out, "it is CURRENT" in out) == (0, True, False)
    assert run("index", "publish", second, "--home", bare_url)[0] == 0
    code, out, _ = run("index", "prune", "--keep", "1", "--home", bare_url)
    assert (code, f"removed {first}" in out, bucket.ids("indexes")) == (0, True, [second])
    code, _, err = run("index", "publish", first, "--home", bare_url)
    assert (code, f"there is no index '{first}'; there are: {second}" in err) == (1, True)
    assert (home.path / "indexes" / first).is_dir()  # the directory that was copied has nothing to do with it


def test_reindexing_takes_over_the_files_of_the_serving_index(
    home: Home, run: Run, url: str, tmp_path: Path
) -> None:
    assert run("artifacts", "copy", "--from", home.path, "--to", url)[0] == 0
    bucket = HomeBucket(url)
    first = bucket.pointer(CURRENT).artifact_id
    code, _, err = run("reindex", "--home", url)
    assert code == 0, err
    second = bucket.pointer(CURRENT).artifact_id
    assert bucket.manifest("indexes", second)["base"] == first


def test_what_cannot_be_uploaded_is_kept_and_named(
    home: Home, run: Run, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert run("artifacts", "copy", "--from", home.path, "--to", url)[0] == 0
    bucket, put = HomeBucket(url), ObjectStorage.put

    def failing(self: ObjectStorage, path: Path, name: str, *args: Any) -> None:
        if name.endswith("vectors.safetensors"):
            raise ObjectStorageError(self.url, OSError("the line is dead"))
        put(self, path, name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStorage, "put", failing)
        code, _, err = run("reindex", "--home", url)
    assert (code, "the line is dead" in err, len(bucket.ids("indexes"))) == (1, True, 1)
    words = caplog.text.partition("later: triptych ")[2].split()[:7]
    assert words[:2] == ["artifacts", "copy"]
    assert run("index", "list", "--home", url)[0] == 0  # which tidies up
    code, out, err = run(*words)
    assert (code, "1 artifacts copied" in out) == (0, True), err
    assert len(bucket.ids("indexes")) == 2
    assert bucket.pointer(CURRENT).artifact_id == bucket.ids("indexes")[0]


def test_evaluate_writes_its_report_to_the_bucket(home: Home, run: Run, url: str, tmp_path: Path) -> None:
    assert run("artifacts", "copy", "--from", home.path, "--to", url)[0] == 0
    code, _, err = run("evaluate", "--home", url, "--split", "valid", "--json", tmp_path / "there.json")
    assert code == 0, err
    assert run("evaluate", "--home", home.path, "--split", "valid", "--json", tmp_path / "here.json")[0] == 0
    there, here = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("there", "here"))
    assert (there["k"], there["dataset"]) == (here["k"], "home")
    (report_id,) = HomeBucket(url).ids("reports")
    HomeBucket(url).check("reports", report_id)


def test_who_publishes_second_loses(
    home: Home, run: Run, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("artifacts", "copy", "--from", home.path, "--to", url)[0] == 0
    bucket, moved = HomeBucket(url), list[str]()
    first = bucket.pointer(CURRENT).artifact_id
    import indexer.reindex

    reindex = indexer.reindex.reindex

    def slow(*args: object, **options: object) -> Path:
        """Build an index while another machine builds and publishes one."""
        directory = reindex(*args, **options)  # type: ignore[arg-type]
        if not moved:
            moved.append("begun")
            with monkeypatch.context() as there:
                there.setenv("TRIPTYCH_CACHE", str(tmp_path / "another-machine"))
                code, _, err = run("reindex", "--home", url, "--full")
                assert code == 0, err
            moved.append(bucket.pointer(CURRENT).artifact_id)
        return directory

    monkeypatch.setattr(indexer.reindex, "reindex", slow)
    code, _, err = run("reindex", "--home", url, "--full")
    winner = moved[1]
    assert (code, f"was moved to {winner} by somebody else" in err) == (1, True), err
    assert bucket.pointer(CURRENT).artifact_id == winner != first
    assert len(bucket.ids("indexes")) == 3  # the other one is complete
    (other,) = set(bucket.ids("indexes")) - {winner, first}
    assert run("index", "publish", other, "--home", url)[0] == 0
    assert bucket.pointer(CURRENT).artifact_id == other


def test_an_owner_s_exports_models_and_indexes_belong_in_the_bucket(
    home: Home, run: Run, url: str, settings: tuple[str, Path]
) -> None:
    with running(ServerConfig(home, port=0)) as address, Client(address) as client:
        client.erase_user("u00003")
    (home.path / "triptych.toml").write_text(f'[storage]\nartifacts = "{url}"\n')
    code, out, err = run("export", "--home", home.path)
    bucket = HomeBucket(url)
    (export_id,) = bucket.ids("exports")
    assert (code, out) == (0, f"{url}/exports/{export_id}\n"), err
    assert bucket.ledger() == list(read_ledger(home.erasures)) != []
    code, _, err = run("train", "--home", home.path, *settings)
    assert code == 0, err
    latest = bucket.pointer(LATEST).artifact_id
    assert home.latest_model.read_text() == f"{latest}\n"
    code, _, err = run("reindex", "--home", home.path)
    assert code == 0, err
    assert home.current_index.read_text() == f"{bucket.pointer(CURRENT).artifact_id}\n"
    assert bucket.manifest("indexes", bucket.pointer(CURRENT).artifact_id)["model_id"] == latest
    code, _, err = run("train", "--home", url, "--from", "LATEST")  # another machine goes on
    assert code == 0, err
    trained = bucket.pointer(LATEST).artifact_id
    assert bucket.manifest("models", trained)["started_from"][-1]["model_id"] == latest
    code, _, err = run("reindex", "--home", home.path)  # with the model that was made there
    assert code == 0, err
    assert trained in artifacts(home.models)
    assert bucket.manifest("indexes", bucket.pointer(CURRENT).artifact_id)["model_id"] == trained


def test_pyarrow_and_duckdb_read_an_export_in_the_bucket(home: Home, run: Run, url: str) -> None:
    assert run("artifacts", "copy", "--from", home.path, "--to", url)[0] == 0
    (export_id,) = HomeBucket(url).ids("exports")
    files = fsspec.filesystem("s3")
    path = f"{url.removeprefix('s3://')}/exports/{export_id}/items.parquet"
    wanted = pq.read_table(home.exports / export_id / "items.parquet").num_rows
    assert pq.read_table(path, filesystem=files).num_rows == wanted
    with duckdb.connect() as db:
        db.register_filesystem(files)
        assert db.execute(f"SELECT count(*) FROM 's3://{path}'").fetchall() == [(wanted,)]


def test_erasures_follow_the_artifacts(home: Home, run: Run, url: str, tmp_path: Path) -> None:
    """An export of before an erasure does not show the person, wherever it is read."""
    with running(ServerConfig(home, port=0)) as address, Client(address) as client:
        client.erase_user("u00003")
    assert run("export", "--home", home.path)[0] == 0  # writes the ledger
    code, _, err = run("artifacts", "copy", "--from", home.path, "--to", url)
    assert code == 0, err
    assert run("artifacts", "copy", "--from", url, "--to", tmp_path / "back")[0] == 0
    assert read_ledger(tmp_path / "back" / "erasures.json") == read_ledger(home.erasures)
    out = tmp_path / "recbole"
    bucket = HomeBucket(url)
    bucket.remove("exports", bucket.ids("exports")[1])
    code, _, err = run("export", "--home", url, "--format", "recbole", "--out", out)
    assert code == 0, err
    text = "".join(path.read_text() for path in out.rglob("*") if path.is_file())
    assert ("u00003" in text, "u00004" in text) == (False, True)


def test_tune_searches_in_a_copy_and_goes_on(home: Home, run: Run, url: str, tmp_path: Path) -> None:
    code, _, err = run("artifacts", "copy", "--from", home.path, "--to", url)
    assert code == 0, err
    words = ("tune", "--home", url, "--fusion", "ridge", "--trials")
    code, out, err = run(*words, 1)
    assert (code, "0 trials are done on this data, 1 to go" in out) == (0, True), err
    code, out, err = run(*words, 2)
    assert (code, "1 trials are done on this data, 1 to go" in out) == (0, True), err
    (tuned,) = (tmp_path / "cache").glob("*/tuned.json")
    assert f"triptych train --home {url} --config {tuned}" in out
    assert not (home.path / "tuned.json").exists()
    assert json.loads(tuned.read_text())["fusion"] == "ridge"


@pytest.mark.nightly
def test_a_text_model_is_compressed_and_trained_with(
    home: Home, run: Run, url: str, settings: tuple[str, Path]
) -> None:
    assert run("artifacts", "copy", "--from", home.path, "--to", url)[0] == 0
    code, out, err = run("compress-text", "--home", url, "--layers", 1, "--epochs", 1, "--texts", 16)
    assert code == 0, err
    words = out.splitlines()[-1].split()
    assert words[:4] == ["triptych", "train", "--home", url]
    code, _, err = run(*words[1:], *settings)
    assert code == 0, err
    bucket = HomeBucket(url)
    (text_model_id,) = set(bucket.ids("text_models")) - set(HomeDirectory(home).ids("text_models"))
    assert bucket.manifest("models", bucket.pointer(LATEST).artifact_id)["text_model_id"] == text_model_id


def test_doctor_examines_a_bucket(home: Home, run: Run, url: str, tmp_path: Path) -> None:
    code, out, err = run("doctor", "--home", url)  # nothing is there yet
    assert (code, "nothing is published" in out, "no model yet" in out) == (0, True, True), err
    assert run("artifacts", "copy", "--from", home.path, "--to", url)[0] == 0
    code, out, err = run("doctor", "--home", url)
    assert (code, "0 failed, 0 warnings" in out) == (0, True), out
    bucket = HomeBucket(url)
    model_id, index_id = (bucket.pointer(one).artifact_id for one in (LATEST, CURRENT))
    assert out.count("1, checksums as they were noted there") == 4  # there is no report
    assert f"model {model_id}, dim 32" in out
    assert f"index {index_id} of model {model_id}, 150 items" in out
    storage = bucket.storage
    path = storage._path(f"indexes/{index_id}/vectors.safetensors")
    storage._files.pipe_file(path, b"something else")
    storage._files.pipe_file(storage._path("erasures.json"), b"{")
    code, out, _ = run("doctor", "--home", url)
    said = " ".join(out.replace("│", " ").split())
    assert (code, f"{url}/indexes/{index_id}/vectors.safetensors: is damaged" in said) == (1, True), out
    assert f"or remove {url}/indexes/{index_id} and make another: triptych reindex" in said
    assert "which writes it anew" in said
    (home.path / "triptych.toml").write_text(f'[storage]\nartifacts = "{url}"\n')
    code, out, _ = run("doctor", "--home", home.path)
    assert (code, f"{url} names the index that serves here" in out) == (0, True), out


def test_an_empty_bucket_and_one_that_cannot_be_reached_are_named(
    run: Run, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run("train", "--home", url)
    assert (code, f"{url}/exports holds no export yet" in err) == (1, True), err
    code, _, err = run("reindex", "--home", url)
    assert (code, f"{url}/models/LATEST does not exist" in err) == (1, True), err
    code, out, _ = run("index", "list", "--home", url)
    assert (code, "there is no index yet" in out) == (0, True)
    assert "nothing" not in run("artifacts", "clean", "--home", url)[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    code, _, err = run("index", "list", "--home", url)
    assert (code, url in err, "a-secret-key" in err) == (1, True, False)


def test_an_owner_s_list_has_the_indexes_of_directory_and_bucket(
    home: Home, run: Run, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("artifacts", "copy", "--from", home.path, "--to", url)[0] == 0
    (home.path / "triptych.toml").write_text(f'[storage]\nartifacts = "{url}"\n')
    (first,) = artifacts(home.indexes)
    second = shutil.copytree(home.indexes / first, tmp_path / "elsewhere" / f"{first[:-4]}ffff")
    bucket = HomeBucket(url)
    bucket.add("indexes", second)  # by another machine
    bucket.move_pointer(CURRENT, second.name, bucket.pointer(CURRENT))
    (home.indexes / first).rename(home.indexes / f"{first}-here")

    def places() -> dict[str, str]:
        code, out, err = run("index", "list", "--home", home.path)
        assert code == 0, err
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
        return {f"{row[0]}{row[1]}": row[-1] for row in rows}

    assert places() == {first: "bucket", f"{first}-here": "directory", f"*{second.name}": "bucket"}
    (home.indexes / f"{first}-here").rename(home.indexes / first)
    assert places() == {first: "bucket and directory", f"*{second.name}": "bucket"}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    code, out, err = run("index", "list", "--home", home.path)
    assert (code, first in out, second.name in out) == (0, True, False), err
