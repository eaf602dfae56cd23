"""`triptych split`, as a user runs it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from store.home import Home
from store.store import Store
from tests.command_line import Run
from tests.small_stores import ROWS, make_store


def splits(home: Home) -> dict[tuple[Any, ...], str | None]:
    with Store.open(home.database) as store:
        rows = store.visible_events(held_out=True).to_pylist()
    return {(row["user_id"], row["item_id"], row["action"], row["ts"]): row["split"] for row in rows}


def test_split_by_last_marks_each_users_last_two_events(tmp_path: Path, run: Run) -> None:
    home = make_store(tmp_path, ROWS)
    code, out, _ = run("split", "--home", home.path, "--by", "last")
    assert code == 0
    by_user = Counter((key[0], split) for key, split in splits(home).items())
    assert by_user == {
        ("a", None): 1,
        ("a", "valid"): 1,
        ("a", "test"): 1,
        ("b", None): 1,
        ("b", "valid"): 1,
        ("b", "test"): 1,
        ("c", None): 1,
    }
    assert "2 of 3 users with behaviour have held-out rows" in out
    assert "triptych train" in out
    assert "triptych reindex" in out


def test_a_random_split_depends_on_the_rows_and_the_seed_only(tmp_path: Path, run: Run) -> None:
    rows: list[tuple[str, str, int | None]] = [(f"u{n % 9}", f"i{n}", n) for n in range(90)]
    one = make_store(tmp_path / "1", rows)
    other = make_store(tmp_path / "2", rows[::-1])
    for home in (one, other):
        assert run("split", "--home", home.path, "--by", "random", "--seed", 3)[0] == 0
    first = splits(one)
    assert first == splits(other)
    assert {"valid", "test"} <= set(first.values())
    assert run("split", "--home", one.path, "--by", "random", "--seed", 4, "--replace")[0] == 0
    assert splits(one) != first


def test_split_replaces_marks_only_when_told_to(tmp_path: Path, run: Run) -> None:
    home = make_store(tmp_path, ROWS)
    assert run("split", "--home", home.path, "--by", "last")[0] == 0
    before = splits(home)
    code, _, err = run("split", "--home", home.path, "--by", "random")
    assert code == 1
    assert "4 behaviours are held out already" in err
    assert "--replace" in err
    assert splits(home) == before
    words = ("--by", "random", "--valid", 0, "--test", 0, "--replace")
    assert run("split", "--home", home.path, *words)[0] == 0
    assert set(splits(home).values()) == {None}


@pytest.mark.parametrize("by", ["random", "time", "last"])
def test_a_split_that_holds_out_nothing_fails(tmp_path: Path, run: Run, by: str) -> None:
    home = make_store(tmp_path, [("a", "x", 1), ("a", "y", 2), ("b", "x", 3)])
    code, _, err = run("split", "--home", home.path, "--by", by)
    assert code == 1
    assert (
        f"--by {by} would hold out none of 3 behaviours of 2 users: rows are only taken from users with 3"
        in err
    )
    assert set(splits(home).values()) == {None}


def test_split_says_what_is_wrong(tmp_path: Path, run: Run) -> None:
    undated = make_store(tmp_path / "undated", [*ROWS, ("a", "w", None)])
    code, _, err = run("split", "--home", undated.path, "--by", "time")
    assert (code, "1 of 8 rows have none: `--by random` needs none" in err) == (1, True)
    assert set(splits(undated).values()) == {None}
    assert run("split", "--home", undated.path, "--by", "random", "--valid", 0.5, "--test", 0.5)[0] == 2
    empty = Home(tmp_path / "empty")
    Store.open(empty.database).close()
    code, _, err = run("split", "--home", empty.path, "--by", "random")
    assert (code, "no behaviours to split" in err) == (1, True)
    code, _, err = run("split", "--home", tmp_path / "nothing", "--by", "random")
    assert (code, "triptych import" in err) == (1, True)
    assert not (tmp_path / "nothing").exists()
