"""`triptych index`: list, show, publish, rollback and prune, as a user runs them."""

import shutil
from pathlib import Path
from typing import Any

from scripts.index import check_index, creation_time
from store.artifact import artifacts, build, read_manifest, read_pointer
from store.home import Home
from store.objects import HomeDirectory
from tests.command_line import Run
from tests.live_server import flip
from tests.small_stores import ROWS, make_store


def described(home: Home) -> tuple[Path, dict[str, Any]]:
    directory = home.indexes / artifacts(home.indexes)[0]
    return directory, read_manifest(directory)


def test_index_list_marks_what_serves_and_what_is_damaged(home: Home, run: Run) -> None:
    (first,) = artifacts(home.indexes)
    second = "20990101T000000000000-ffff"
    shutil.copytree(home.indexes / first, home.indexes / second)
    flip(home.indexes / second / "vectors.safetensors")
    (home.indexes / "20990102T000000000000-ffff").mkdir()
    code, out, _ = run("index", "list", "--home", home.path)
    assert code == 0
    lines = {line.split("│")[2].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert lines[first].startswith("│ * │")
    assert "│ ok " in lines[first]
    assert "vectors.safetensors is damaged" in lines[second]
    assert "2099-01-01 00:00:00 UTC" in lines[second]
    assert "manifest.json is missing" in lines["20990102T000000000000-ffff"]
    assert run("index", "show", second, "--home", home.path)[0] == 1
    code, out, _ = run("index", "show", first, "--home", home.path)
    assert (code, "it is CURRENT" in out) == (0, True)
    code, _, err = run("index", "show", "nope", "--home", home.path)
    assert (code, "there is no index 'nope'" in err) == (1, True)


def test_an_index_without_its_model_is_of_no_use(home: Home) -> None:
    (first,) = artifacts(home.indexes)
    model_id = read_manifest(home.indexes / first)["model_id"]
    assert check_index(HomeDirectory(home), first).damage is None
    shutil.rmtree(home.models / model_id)
    assert check_index(HomeDirectory(home), first).damage == f"of no use: model {model_id} is missing"
    with build(home.indexes, "a") as draft:
        draft.facts["kind"] = "export"
    assert check_index(HomeDirectory(home), "a").damage == "damaged: it is a 'export', not an index"
    assert creation_time("a") == "–"


def test_publish_rollback_and_prune(home: Home, run: Run) -> None:
    (first,) = artifacts(home.indexes)
    ids = [f"2099010{n}T000000000000-ffff" for n in range(1, 5)]
    for index_id in ids:
        shutil.copytree(home.indexes / first, home.indexes / index_id)
    assert run("index", "publish", ids[0], "--home", home.path)[0] == 0
    assert read_pointer(home.current_index, home.indexes).name == ids[0]
    code, out, _ = run("index", "rollback", "--home", home.path)
    assert (code, out.strip()) == (0, f"index {first} serves")
    code, _, err = run("index", "rollback", "--home", home.path)
    assert (code, "no index older" in err) == (1, True)
    code, out, _ = run("index", "prune", "--keep", 2, "--home", home.path)
    assert (code, "3 of 5 indexes stay" in out) == (0, True)
    assert artifacts(home.indexes) == [first, *ids[2:]]  # what serves stays, however old
    assert run("index", "prune", "--keep", 0, "--home", home.path)[0] == 2


def test_a_home_without_indexes_says_what_to_do(tmp_path: Path, run: Run) -> None:
    home = make_store(tmp_path, ROWS)
    code, out, _ = run("index", "list", "--home", home.path)
    assert (code, "triptych reindex" in out) == (0, True)


def test_index_list_names_a_damaged_file_of_the_user_index(home: Home) -> None:
    directory, _ = described(home)
    flip(directory / "users" / "vectors.safetensors")
    assert "users/vectors.safetensors" in str(check_index(HomeDirectory(home), directory.name).damage)
