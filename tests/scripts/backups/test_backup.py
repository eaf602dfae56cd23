"""`triptych backup` and `triptych restore`: a home that holds and answers the same."""

import json
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.backups.from_backup import (
    HomeInUseError,
    IncompleteRestoreError,
    NoBackupError,
    find_backup,
    restore,
)
from scripts.doctor.check import State
from scripts.doctor.command import checks
from server.app import running
from server.config import ServerConfig
from store.artifact import DamagedArtifactError, artifacts, build, new_id, read_manifest, read_pointer, verify
from store.home import Home
from tests.command_line import Run
from tests.live_server import SOON, flip
from tests.small_stores import ROWS, make_store, table_rows
from triptych_client import Behavior, Client
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc


def answers(home: Home, users: list[str]) -> list[tuple[list[str], list[float]]]:
    with running(ServerConfig(home, port=0)) as address, grpc.insecure_channel(address) as channel:
        requests = [pb.QueryRequest(user_id=user, k=20) for user in users]
        reply = rpc.RetrievalStub(channel).QueryBatch(pb.QueryBatchRequest(requests=requests))
        return [(list(one.item_ids), list(one.scores)) for one in reply.responses]


def test_a_restored_home_holds_and_answers_the_same(home: Home, run: Run, tmp_path: Path) -> None:
    vectors = {"user_id": ["u-new"] * 2, "text": ["seen"] * 2, "vector": [[0.6, 0.8]] * 2}
    (tmp_path / "more").mkdir()
    pq.write_table(pa.table(vectors | {"text_model_id": ["m"] * 2}), tmp_path / "more" / "texts.parquet")
    assert run("import", tmp_path / "more", "--home", home.path, "--strict")[0] == 0
    assert run("backup", "--home", home.path, "--to", tmp_path / "backups")[0] == 0
    code, out, _ = run("backup", "--home", home.path, "--to", tmp_path / "backups")
    assert (code, "412 texts" in out) == (0, True)
    copy = Home(tmp_path / "copy")
    copy.path.mkdir()  # an empty directory is free
    code, out, _ = run("restore", "--from", tmp_path / "backups", "--home", copy.path)
    assert (code, artifacts(tmp_path / "backups")[1] in out) == (0, True)
    assert table_rows(copy) == table_rows(home)
    assert copy.latest_model.read_text() == home.latest_model.read_text()
    assert copy.current_index.read_text() == home.current_index.read_text()
    assert [check for check in checks(copy) if check.state is State.FAILED] == []
    shutil.copytree(home.text_cache, copy.text_cache)  # saves the test from encoding again
    users = [f"u{n:05d}" for n in range(40)] + ["nobody"]
    assert answers(copy, users) == answers(home, users)


def test_a_damaged_byte_is_refused_and_leaves_no_home(home: Home, run: Run, tmp_path: Path) -> None:
    assert run("backup", "--home", home.path, "--to", tmp_path / "backups")[0] == 0
    (backup,) = (tmp_path / "backups").iterdir()
    damaged = next(backup.glob("exports/*/texts.parquet"))
    flip(damaged)
    code, _, err = run("restore", "--from", backup, "--home", tmp_path / "copy")
    assert (code, str(damaged) in err) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", "home"]
    flip(damaged)  # the same bit back
    left = tmp_path / ".restoring-copy-1"
    left.mkdir()  # of a restore that was killed
    assert run("restore", "--from", backup, "--home", tmp_path / "copy")[0] == 0
    assert not left.exists()


def test_a_backup_of_damaged_files_fails_and_leaves_nothing(home: Home, run: Run, tmp_path: Path) -> None:
    file = read_pointer(home.current_index, home.indexes) / "vectors.safetensors"
    flip(file)
    code, _, err = run("backup", "--home", home.path, "--to", tmp_path / "backups")
    assert (code, str(file) in err) == (1, True)
    assert artifacts(tmp_path / "backups") == []
    assert run("backup", "--home", home.path, "--to", tmp_path / "backups", "--without-index")[0] == 0
    code, out, _ = run("restore", "--from", tmp_path / "backups", "--home", tmp_path / "copy")
    assert (code, "triptych train" in out) == (0, True)
    copy = Home(tmp_path / "copy")
    assert table_rows(copy) == table_rows(home)
    assert not copy.current_index.exists()
    assert not copy.models.exists()


def test_restore_overwrites_nothing(tmp_path: Path) -> None:
    source = make_store(tmp_path, ROWS)
    used = Home(tmp_path / "used")
    used.path.mkdir()
    (used.path / "a file").write_text("mine")
    with pytest.raises(HomeInUseError, match="is not empty"):
        restore(tmp_path, used)
    with pytest.raises(HomeInUseError, match="is a file"):
        restore(tmp_path, Home(used.path / "a file"))
    with pytest.raises(HomeInUseError, match="is a mount point"):
        restore(tmp_path, Home(Path("/")))
    with pytest.raises(NoBackupError):
        find_backup(source.path)
    with build(tmp_path / "backups", new_id()) as draft:
        draft.facts["kind"] = "export"
    with pytest.raises(DamagedArtifactError, match="is a 'export', not a backup"):
        restore(find_backup(tmp_path / "backups"), Home(tmp_path / "copy"))


def test_a_backup_whose_rows_do_not_add_up_is_refused(tmp_path: Path, run: Run) -> None:
    source = make_store(tmp_path, ROWS)
    assert run("backup", "--home", source.path, "--to", tmp_path / "backups")[0] == 0
    whole = find_backup(tmp_path / "backups")
    facts = read_manifest(whole)
    del facts["files"]
    with build(tmp_path / "backups", new_id()) as draft:
        shutil.copytree(whole / "exports", draft.path / "exports")
        draft.facts = facts | {"counts": facts["counts"] | {"texts": 7}}
    with pytest.raises(IncompleteRestoreError, match="'texts': 7"):
        restore(find_backup(tmp_path / "backups"), Home(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_a_backup_shares_what_the_one_before_has(home: Home, run: Run, tmp_path: Path) -> None:
    to = tmp_path / "backups"
    for _ in range(2):
        assert run("backup", "--home", home.path, "--to", to)[0] == 0
    first, second = (to / name for name in artifacts(to))
    shared = read_manifest(second)["shared"]
    index = read_pointer(home.current_index, home.indexes).relative_to(home.path)
    assert str(index) in shared
    assert read_manifest(first)["shared"] == []
    one, other = (folder / index / "vectors.safetensors" for folder in (first, second))
    assert one.samefile(other)
    shutil.rmtree(first)  # the other one is whole without it
    assert run("restore", "--from", second, "--home", tmp_path / "copy")[0] == 0
    assert answers(Home(tmp_path / "copy"), ["u00001"]) == answers(home, ["u00001"])


def test_a_damaged_backup_is_shared_with_none(home: Home, run: Run, tmp_path: Path) -> None:
    to = tmp_path / "backups"
    assert run("backup", "--home", home.path, "--to", to)[0] == 0
    model = read_pointer(home.latest_model, home.models).relative_to(home.path)
    flip(to / artifacts(to)[0] / model / "item_tables.safetensors")
    assert run("backup", "--home", home.path, "--to", to)[0] == 0
    second = to / artifacts(to)[1]
    assert str(model) not in read_manifest(second)["shared"]
    assert verify(second)
    assert run("backup", "--home", home.path, "--to", to, "--full")[0] == 0
    assert read_manifest(to / artifacts(to)[2])["shared"] == []


def test_a_backup_beside_writes_answers_and_is_evaluated_as_its_home(
    home: Home, run: Run, tmp_path: Path
) -> None:
    """Who writes meanwhile is stored whole or not at all, and what was acknowledged before is there."""
    begun, over, written = threading.Event(), threading.Event(), list[str]()

    def write(client: Client) -> None:
        items = list(client.query(user_id="u00001", k=2).item_ids)
        while not over.is_set():
            user_id = f"writer-{len(written)}"
            client.append_behaviors([Behavior(user_id, item) for item in items])
            written.append(user_id)
            begun.set()

    with (
        running(ServerConfig(home, port=0)) as address,
        Client(address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        writing = pool.submit(write, client)
        assert begun.wait(SOON)
        acknowledged = list(written)
        code, _, err = run("backup", "--home", home.path, "--to", tmp_path / "backups")
        over.set()
        writing.result(SOON)
        assert (code, err) == (0, ""), err
    copy = Home(tmp_path / "copy")
    assert run("restore", "--from", tmp_path / "backups", "--home", copy.path)[0] == 0
    counts = Counter(row[0] for row in table_rows(copy)["behaviors"] if str(row[0]).startswith("writer-"))
    assert set(counts) >= set(acknowledged)
    assert set(counts.values()) == {2}
    shutil.copytree(home.text_cache, copy.text_cache)  # saves the test from encoding again
    users = [f"u{n:05d}" for n in range(20)]
    assert answers(copy, users) == answers(home, users)
    figures = []
    for place in (home, copy):
        report = tmp_path / f"{place.path.name}.json"
        assert run("evaluate", "--home", place.path, "--split", "test", "--json", report)[0] == 0
        figures.append(json.loads(report.read_text("utf-8"))["k"])
    assert figures[0] == figures[1]
