"""Damaged derived state: nothing dies of it, nothing answers wrongly, and the log says what was made anew."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import lmdb
import numpy as np
import pytest

from encoder.text.cache import TextCache, inspect_text_cache
from scripts.doctor.check import State
from scripts.doctor.files import cache_check
from scripts.doctor.store import state_check
from store import lmdb_file as sound
from store.home import Home
from store.lmdb_file import DATA_FILE, DamagedLmdbFileError, open_checked, page_faults, seal
from store.state.packing import DamagedRecordError, with_checksum, without_checksum
from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
from store.store import Store
from store.writes.request import BehaviorRow, Behaviors, Request
from store.writes.writer import Writer
from tests.live_server import copy_home, server

FLIPS = 200
USERS = [f"user-{number}" for number in range(60)]
TEXTS = [f"text {number}" for number in range(40)]
MODEL, DIM = "model", 96


def truncated(share: float) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        with file.open("r+b") as raw:
            raw.truncate(int(file.stat().st_size * share))

    return damage


def overwritten(fill: Callable[[int], bytes], start: float = 0.0) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        size = file.stat().st_size
        at = int(size * start) // 4096 * 4096
        with file.open("r+b") as raw:
            raw.seek(at)
            raw.write(fill(size - at))

    return damage


def noise(size: int) -> bytes:
    return random.Random(0).randbytes(size)


DAMAGES = {
    "half": truncated(0.5),
    "most": truncated(0.9),
    "a page": lambda file: file.write_bytes(file.read_bytes()[:4096]),
    "a piece": truncated(0.00001),
    "nothing": truncated(0.0),
    "zeros": overwritten(bytes),
    "noise": overwritten(noise),
    "zeros in the middle": overwritten(bytes, 0.5),
    "noise behind the first pages": overwritten(noise, 0.1),
    "zeros at the end": overwritten(bytes, 0.8),
}

# What a process does with a damaged home: it must come to its end, and tell what is there afterwards.
READ_STATE = """
import json, sys
from pathlib import Path
from store.store import Store
from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
base, users = Path(sys.argv[1]), sys.argv[2].split(",")
with Store.open(base / "views.duckdb") as store:
    for line in sys.stdin:
        with UserState.open(Path(line.strip())) as state:
            bring_up_to_date(store, state)
            people = state.users(users)
            names = state.items.names
            # undated events are in no order
            said = [sorted(names[code] for code in one.events["item"].tolist()) for one in people]
        print(json.dumps(said), flush=True)
"""
READ_CACHE = """
import json, sys
from contextlib import closing
from pathlib import Path
import numpy as np
from encoder.text.cache import TextCache
model, dim, texts = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
for line in sys.stdin:
    with closing(TextCache.open(Path(line.strip()))) as cache:
        vectors, found = cache.get(model, texts, dim)
        missing = [text for text, there in zip(texts, found) if not there]
        if missing:
            cache.put(model, missing, np.zeros((len(missing), dim), np.float32))
        again = cache.get(model, texts, dim)[1].all()
    numbers = np.array([int(text.split()[1]) for text in texts])
    right = (vectors[found] == numbers[found, None]).all()
    print(json.dumps([bool(right), bool(again)]), flush=True)
"""


def read(code: str, words: list[str], folders: list[Path]) -> list[object]:
    """Return what a process tells of each folder, in order; fail where it dies."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        input="".join(f"{folder}\n" for folder in folders),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{done.returncode} at {folders[len(lines)].name}: {done.stderr[-2000:]}"
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with some people, the state of them and a text cache, both closed."""
    home = Home(tmp_path_factory.mktemp("damage"))
    with Store.open(home.database) as store, UserState.open(home.state) as state:
        with store.writing() as cursor:
            cursor.execute("INSERT INTO data.items (item_id) SELECT 'item-' || i FROM range(30) AS t(i)")
        bring_up_to_date(store, state)
        writer = Writer(store, state)
        for start in range(0, len(USERS), 10):  # some commits, so that pages are free
            rows = [
                BehaviorRow(user, f"item-{number % 30}")
                for number, user in enumerate(USERS[start : start + 10] * 3, start)
            ]
            writer.write([Request(Behaviors(rows))])
    with closing(TextCache.open(home.text_cache)) as cache:
        for number, text in enumerate(TEXTS):
            cache.put(MODEL, [text], np.full((1, DIM), number, np.float32))
    return home


@pytest.fixture(scope="module")
def right(place: Home) -> object:
    (said,) = read(READ_STATE, [str(place.path), ",".join(USERS)], [place.state])
    return said


def copies(folder: Path, to: Path, damages: list[Callable[[Path], None]], *, with_seal: bool) -> list[Path]:
    made = []
    for number, damage in enumerate(damages):
        copy = shutil.copytree(folder, to / str(number))
        (copy / "lock.mdb").unlink(missing_ok=True)
        if not with_seal:  # as after kill -9
            (copy / "SEAL").unlink()
        damage(copy / DATA_FILE)
        made.append(copy)
    return made


def flips(file: Path) -> list[Callable[[Path], None]]:
    rng = random.Random(7)
    size = file.stat().st_size

    def at(position: int, mask: int) -> Callable[[Path], None]:
        def damage(target: Path) -> None:
            raw = bytearray(target.read_bytes())
            raw[position] ^= mask
            target.write_bytes(raw)

        return damage

    return [at(rng.randrange(size), rng.randrange(1, 256)) for _ in range(FLIPS)]


@pytest.mark.parametrize("with_seal", [True, False])
def test_a_damaged_state_answers_right(place: Home, right: object, tmp_path: Path, with_seal: bool) -> None:
    damages = [*DAMAGES.values(), *flips(place.state / DATA_FILE)]
    folders = copies(place.state, tmp_path, damages, with_seal=with_seal)
    said = read(READ_STATE, [str(place.path), ",".join(USERS)], folders)
    assert [folder.name for folder, one in zip(folders, said, strict=True) if one != right] == []


@pytest.mark.parametrize("with_seal", [True, False])
def test_a_damaged_text_cache_answers_right(place: Home, tmp_path: Path, with_seal: bool) -> None:
    damages = [*DAMAGES.values(), *flips(place.text_cache / DATA_FILE)]
    folders = copies(place.text_cache, tmp_path, damages, with_seal=with_seal)
    said = read(READ_CACHE, [MODEL, str(DIM), ",".join(TEXTS)], folders)
    assert [folder.name for folder, one in zip(folders, said, strict=True) if one != [True, True]] == []


@pytest.fixture
def own(place: Home, tmp_path: Path) -> Home:
    home = Home(shutil.copytree(place.path, tmp_path / "own"))
    with Store.open(home.database) as store, UserState.open(home.state) as state:
        bring_up_to_date(store, state)  # each state that was made anew beside the store has counted a commit
    return home


def rewrite(folder: Path, table: bytes | None, change: Callable[[bytes, bytes], bytes | None]) -> None:
    """Put what `change` makes of each key and value, where that is something, by LMDB itself."""
    env = lmdb.open(str(folder), max_dbs=8, map_size=1 << 30)
    db = None if table is None else env.open_db(table)
    with env.begin(write=True) as transaction:
        for key, value in list(transaction.cursor(db)):
            if (new := change(key, value)) is not None:
                transaction.put(key, new, db=db)
    env.close()


def spoiled(key: bytes, value: bytes) -> bytes:
    return value[:-5] + bytes([value[-5] ^ 1]) + value[-4:]


def test_records_that_are_damaged_under_way_are_read_again(
    own: Home, caplog: pytest.LogCaptureFixture
) -> None:
    with Store.open(own.database) as store, UserState.open(own.state) as state:
        bring_up_to_date(store, state)
        wanted = [sorted(one.events.tolist()) for one in state.users(USERS)]
        with state.writing() as draft:
            table = draft._tables["events"]
            for key, value in list(draft._transaction.cursor(table)):
                draft._transaction.put(key, spoiled(key, value), db=table)
        assert [sorted(one.events.tolist()) for one in state.users(USERS)] == wanted
        assert caplog.text.count("the events of a user are damaged: reading them again") == len(USERS)
        assert not any(user in caplog.text for user in USERS)
        caplog.clear()
        assert [sorted(one.events.tolist()) for one in state.users(USERS)] == wanted
        assert not caplog.text
        with state.writing() as draft:
            for key, value in list(draft._transaction.cursor(table)):
                draft._transaction.put(key, spoiled(key, value), db=table)
        more = Request(Behaviors([BehaviorRow(USERS[0], "item-29"), BehaviorRow(USERS[0], "item-0")]))
        (told,), _ = Writer(store, state).write([more])  # which looks for known rows in the record
        assert (told.inserted, told.unchanged) == (1, 1)


def test_a_damaged_record_makes_a_state_that_was_not_closed_anew(
    own: Home, right: object, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(own.state, b"events", lambda key, value: spoiled(key, value) if key == b"user-7" else None)
    (said,) = read(READ_STATE, [str(own.path), ",".join(USERS)], [own.state])
    assert said == right
    rewrite(own.state, b"items", lambda key, value: spoiled(key, value) if key == bytes(4) else None)
    with Store.open(own.database) as store, UserState.open(own.state) as state:
        bring_up_to_date(store, state)
    assert f"making {own.state} anew: a record among the items is not what was written" in caplog.text


def test_a_state_without_checksums_is_read_and_gets_them(own: Home, right: object) -> None:
    for table in (b"events", b"texts", b"friends", b"items", b"words"):
        rewrite(own.state, table, lambda _, value: value[:-4])
    rewrite(own.state, None, lambda key, _: b"1" if key == b"format" else None)
    with UserState.open(own.state) as state, Store.open(own.database) as store:
        assert state.commit_id == store.last_commit.commit_id  # so that nothing is made anew
    (said,) = read(READ_STATE, [str(own.path), ",".join(USERS)], [own.state])
    assert said == right


def test_a_vector_without_a_checksum_is_read_and_a_bad_one_is_not(own: Home) -> None:
    old = np.full(DIM, 3, "<f4").tobytes()
    rewrite(own.text_cache, None, lambda key, _: old if key.startswith(MODEL.encode() + b"\0") else None)
    rewrite(own.text_cache, None, lambda key, _: b"%d" % DIM if key == MODEL.encode() else None)
    with closing(TextCache.open(own.text_cache)) as cache:
        assert cache.get(MODEL, TEXTS, DIM)[1].all()
        cache.put(MODEL, ["another"], np.ones((1, DIM), np.float32))  # its dim is known
    assert inspect_text_cache(own.text_cache) == (len(TEXTS) + 1, 0)


@pytest.mark.parametrize("bad", [b"", bytes(3), bytes(DIM * 4 - 4), np.full(DIM, np.nan, "<f4").tobytes()])
def test_damaged_vectors_are_missing_removed_and_told_of(
    own: Home, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(own.text_cache, None, lambda key, _: bad if key.startswith(MODEL.encode() + b"\0") else None)
    assert inspect_text_cache(own.text_cache) == (len(TEXTS), len(TEXTS))
    assert cache_check(own).found == f"{len(TEXTS)} of {len(TEXTS)} vectors are damaged"
    lost: list[bool] = []
    cache = TextCache.open(own.text_cache)
    cache.on_vectors_removed(lambda: lost.append(True))
    vectors, found = cache.get(MODEL, TEXTS[:-1], DIM)
    assert not vectors.any()
    assert not found.any()
    cache.put(MODEL, TEXTS[-1:], np.ones((1, DIM), np.float32))
    cache.close()
    assert lost == [True]
    assert f"{len(TEXTS) - 1} vectors are damaged, and encoded again" in caplog.text
    assert inspect_text_cache(own.text_cache) == (1, 0)


def test_a_cache_that_another_process_made_anew_is_gone_on_with(own: Home) -> None:
    with closing(TextCache.open(own.text_cache)) as cache:
        (own.text_cache / DATA_FILE).unlink()
        (own.text_cache / "lock.mdb").unlink()
        (missing,) = read(READ_CACHE, [MODEL, str(DIM), TEXTS[0]], [own.text_cache])
        assert missing == [True, True]
        assert cache.discard(MODEL, [TEXTS[0]]) == 1  # what that process encoded
        assert not cache.get(MODEL, TEXTS, DIM)[1].any()


def test_what_lmdb_wrote_is_sound_whatever_was_written(tmp_path: Path) -> None:
    rng = random.Random(3)
    for _ in range(4):
        env, _ = open_checked(tmp_path / "env", map_size=1 << 30, max_dbs=4, sync=False)
        tables = [env.open_db(name) for name in (b"a", b"b")]
        for _ in range(40):
            with env.begin(write=True) as transaction:
                for _ in range(rng.randrange(60)):
                    key, table = b"%d" % rng.randrange(300), rng.choice(tables)
                    transaction.delete(key, db=table)  # before any other value, as `Draft.put`
                    if rng.random() < 0.7:
                        transaction.put(key, rng.randbytes(rng.choice((5, 300, 3000, 20_000))), db=table)
                if rng.random() < 0.1:
                    transaction.drop(rng.choice(tables), delete=False)
            env.sync(True)
            assert page_faults(tmp_path / "env") == []
        seal(tmp_path / "env", env)
        env.close()
        again, trusted = open_checked(tmp_path / "env", map_size=1 << 30, max_dbs=4)
        assert trusted
        again.close()


def test_records_that_grow_and_shrink_leave_a_sound_file(own: Home) -> None:
    with UserState.open(own.state) as state:
        for size in (20_000, 10, 9_000, 0, 30_000, 5_000):
            with state.writing() as draft:
                draft.put("events", "ann", bytes(size))
            state._env.sync(True)
            assert page_faults(own.state) == []


def test_checksums_are_of_key_and_value() -> None:
    raw = with_checksum(b"ann", b"rows")
    assert without_checksum("events", b"ann", raw) == b"rows"
    for key, value in ((b"bob", raw), (b"ann", raw[:-1]), (b"ann", b"x" + raw[1:]), (b"ann", b"")):
        with pytest.raises(DamagedRecordError, match="among the events is not what was written"):
            without_checksum("events", key, value)


def test_a_file_that_is_not_lmdb_is_named(tmp_path: Path) -> None:
    (tmp_path / DATA_FILE).write_bytes(b"no database" * 5000)
    with pytest.raises(DamagedLmdbFileError, match=r"data\.mdb is damaged") as caught:
        open_checked(tmp_path, map_size=1 << 30)
    assert caught.value.path == tmp_path


@pytest.mark.parametrize("name", ["half", "noise behind the first pages", "zeros"])
def test_doctor_names_damaged_state_and_cache_and_changes_nothing(own: Home, name: str) -> None:
    assert state_check(own).state is cache_check(own).state is State.OK
    for folder in (own.state, own.text_cache):
        DAMAGES[name](folder / DATA_FILE)
    before = (own.state / DATA_FILE).read_bytes(), (own.text_cache / DATA_FILE).read_bytes()
    for check in (state_check(own), cache_check(own)):
        assert (check.state, "is damaged: " in check.found) == (State.WARNING, True)
    assert before == ((own.state / DATA_FILE).read_bytes(), (own.text_cache / DATA_FILE).read_bytes())


def test_a_server_starts_on_truncated_files_and_answers_as_before(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as client:
        before = client.query(user_id="u00003", k=5)
        client.process.terminate()
        assert client.process.wait(60) == 0
    for folder in (home.state, home.text_cache):
        DAMAGES["half"](folder / DATA_FILE)
    with server(home) as client:
        after = client.query(user_id="u00003", k=5)
        said = client.log.read_text()
    assert (list(after.item_ids), after.views_used) == (list(before.item_ids), before.views_used)
    np.testing.assert_allclose(after.scores, before.scores, rtol=1e-4)
    for folder in (home.state, home.text_cache):
        assert f"{folder} anew" in said


def test_a_large_file_is_walked_only_where_it_is_too_short(
    place: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sound, "MAX_CHECKED_BYTES", 8192)
    copy = shutil.copytree(place.state, tmp_path / "whole")
    (copy / "SEAL").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(sound, "page_faults", lambda _: pytest.fail("every page was walked"))
        env, trusted = open_checked(copy, map_size=1 << 40, max_readers=8)
        seal(copy, env)
        env.close()
    assert trusted
    assert not (copy / "SEAL").exists()
    DAMAGES["most"](copy / DATA_FILE)
    with pytest.raises(DamagedLmdbFileError, match="is damaged"):
        open_checked(copy, map_size=1 << 40, max_readers=8)
