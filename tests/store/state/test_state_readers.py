"""A second process that reads the state sees each commit of the one that writes it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from store.state import EVENT, DamagedStateError, StateDraft, UserState

_READER = """
import json, sys
from pathlib import Path
from store.state import DamagedStateError, StateReplacedError, UserState
with UserState.open_reader(Path(sys.argv[1])) as state:
    def ask(user_id):
        print(json.dumps(["repair", user_id]), flush=True)
        sys.stdin.readline()
    state.repair_by(ask)
    print("ready", flush=True)
    while user_id := sys.stdin.readline().strip():
        try:
            (record,) = state.users([user_id])
        except (DamagedStateError, StateReplacedError) as error:
            print(json.dumps([type(error).__name__]), flush=True)
            continue
        print(json.dumps([state.items.names[code] for code in record.events["item"]]), flush=True)
"""


@contextmanager
def reading(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Yield a process that reads a state, and answers `ask`."""
    command = [sys.executable, "-c", _READER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def ask(process: subprocess.Popen[str], user_id: str) -> list[str]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(user_id + "\n")
    process.stdin.flush()
    items: list[str] = json.loads(process.stdout.readline())
    return items


def test_a_reader_sees_what_was_committed_and_codes_that_are_new(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with UserState.open(path) as state, reading(path) as process:
        assert ask(process, "ann") == []
        for number in range(3):
            with state.writing() as draft:
                rows = np.zeros(1, EVENT)
                rows["item"] = draft.items.code(f"item-{number}")
                draft.put("events", "ann", draft.get("events", "ann") + rows.tobytes())
            assert ask(process, "ann") == [f"item-{i}" for i in range(number + 1)]


def test_a_reader_is_told_that_the_state_was_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with UserState.open(path), reading(path) as process:
        (path / "data.mdb").rename(path / "old.mdb")
        (path / "data.mdb").touch()
        assert ask(process, "ann") == ["StateReplacedError"]
        (path / "old.mdb").rename(path / "data.mdb")


def test_a_damaged_record_is_read_again_after_the_writer_has_repaired_it(tmp_path: Path) -> None:
    path = tmp_path / "state"

    def put_right(draft: StateDraft, table: str, user_id: str) -> None:
        draft.put(table, user_id, np.zeros(1, EVENT).tobytes())

    with UserState.open(path) as state, reading(path) as process:
        with state.writing() as draft:
            draft.items.code("item-0")
            draft.put("events", "ann", np.zeros(1, EVENT).tobytes())
        state.repair_with(put_right)
        for repaired, answer in ((True, ["item-0"]), (False, ["DamagedStateError"])):
            with state._env.begin(write=True) as transaction:
                transaction.put(b"ann", b"no checksum", db=state._tables["events"])
            assert ask(process, "ann") == ["repair", "ann"]
            if repaired:
                assert len(state.users(["ann"])[0].events) == 1
            assert ask(process, "go on") == answer


def test_there_is_nothing_to_read_where_no_state_is(tmp_path: Path) -> None:
    with pytest.raises(DamagedStateError, match="state"):
        UserState.open_reader(tmp_path / "state")
