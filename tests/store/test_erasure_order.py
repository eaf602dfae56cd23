"""Ledgers decide who was erased before or after an export, a backup or a restore, whatever clocks say."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pytest

from encoder.text.cache import ErasureSafeWriter, TextCache
from scripts.backups import back_up, ledgers_of, restore
from store import artifact
from store.database import migrations
from store.export import Export, create_export
from store.home import Home
from store.imports.rejects import rejects_about, remove_rejects
from store.ledger import LEDGER, erased_users, read_erasures, read_ledger, user_hash, write_ledger
from store.privacy import erase as erasing
from store.privacy.erase import erase_user, list_erasures
from store.state.state import UserState
from store.store import Store

ROUNDS = 1_000
_SECONDS = 60.0
HOUR = timedelta(hours=1)


class Place:
    """A home with a store and a state, whose ledger file follows every erasure."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path)
        self.store = Store.open(self.home.database)
        self.state = UserState.open(self.home.state)

    def close(self) -> None:
        self.state.close()
        self.store.close()

    def add(self, *user_ids: str) -> None:
        with self.store.writing() as cursor:
            cursor.execute("INSERT INTO data.items (item_id) VALUES ('i1') ON CONFLICT DO NOTHING")
            cursor.execute(
                "INSERT INTO data.behaviors (user_id, item_id) SELECT unnest($1), 'i1'", [list(user_ids)]
            )

    def erase(self, user_id: str) -> dict[str, int]:
        removed = erase_user(self.store, self.state, user_id, [], []).removed
        write_ledger(self.home.erasures, list_erasures(self.store))
        return removed

    def export(self) -> str:
        return create_export(self.store, self.home.exports)

    def shown(self, export_id: str) -> list[str]:
        with Export.open(self.home.exports / export_id) as export:
            return [str(user_id) for user_id in export.users().to_pylist()]

    def back_up(self, to: Path) -> Path:
        return back_up(self.home, self.export(), to, with_index=False)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    opened = Place(tmp_path / "home")
    yield opened
    opened.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Set the clock of erasures forward or back."""

    def set_by(shift: timedelta) -> None:
        monkeypatch.setattr(erasing, "utc_now", lambda: datetime.now(UTC).replace(tzinfo=None) + shift)

    return set_by


def users_of(home: Home) -> list[str]:
    with Store.open(home.database) as store:
        return sorted(store.user_ids())


def test_an_export_amid_an_erasure_does_not_show_the_person(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.add("ann", "bob")
    real, made = place.store.writing, list[str]()

    @contextmanager
    def writing(touched: set[str] | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        with real(touched) as cursor:
            yield cursor
            made.append(place.export())  # another thread's, after the erasure took its time

    monkeypatch.setattr(place.store, "writing", writing)
    place.erase("ann")
    assert place.shown(made[0]) == ["bob"]


@pytest.mark.parametrize("shift", [-24 * HOUR, -HOUR, HOUR, 24 * HOUR])
def test_clocks_decide_nothing(place: Place, clock: Callable[[timedelta], None], shift: timedelta) -> None:
    clock(shift)
    place.add("ann", "bob")
    before = place.export()
    place.erase("ann")
    after = place.export()
    place.add("ann")
    back = place.export()
    assert [place.shown(one) for one in (before, after, back)] == [["bob"], ["bob"], ["ann", "bob"]]
    clock(shift - HOUR)  # set back between two erasures
    place.erase("ann")
    assert [place.shown(one) for one in (before, after, back)] == [["bob"]] * 3
    place.add("ann")
    assert place.shown(place.export()) == ["ann", "bob"]


@pytest.mark.parametrize("shift", [-2 * HOUR, 0 * HOUR, 2 * HOUR])
def test_a_restored_backup_brings_nobody_back_whatever_the_clock_said(
    place: Place, clock: Callable[[timedelta], None], tmp_path: Path, shift: timedelta
) -> None:
    place.add("ann", "bob", "cay")
    place.erase("cay")
    place.add("cay")  # who came back before the backup stays
    first = place.back_up(tmp_path / "backups")
    clock(shift)
    place.erase("ann")
    second = place.back_up(tmp_path / "backups")
    alone = shutil.copytree(first, tmp_path / "alone" / first.name)
    given = ledgers_of(alone, place.home.erasures)
    for name, backup, ledger in (
        ("beside", first, ledgers_of(first)),
        ("given", alone, given),
        ("later", second, ledgers_of(second)),
    ):
        restore(backup, Home(tmp_path / name), ledger)
        assert users_of(Home(tmp_path / name)) == ["bob", "cay"]
    restore(alone, Home(tmp_path / "without"), ledgers_of(alone))
    assert users_of(Home(tmp_path / "without")) == ["ann", "bob", "cay"]  # nothing there says otherwise


def test_a_restored_home_goes_on_from_all_that_it_was_told(place: Place, tmp_path: Path) -> None:
    place.add("ann", "bob")
    backup = place.back_up(tmp_path / "backups")
    place.erase("ann")
    restore(backup, Home(tmp_path / "new"), ledgers_of(backup, place.home.erasures))
    new = Place(tmp_path / "new")
    try:
        (old_export,) = artifact.artifacts(new.home.exports)
        assert new.shown(old_export) == ["bob"]
        new.add("ann")  # comes back to the new home
        export_id = new.export()
        assert new.shown(export_id) == ["ann", "bob"]
        again = new.back_up(tmp_path / "backups")
        new.erase("bob")
        assert new.shown(export_id) == ["ann"]
        assert len(read_ledger(new.home.erasures)) == 2
    finally:
        new.close()
    restore(again, Home(tmp_path / "third"), ledgers_of(again, Home(tmp_path / "new").erasures))
    assert users_of(Home(tmp_path / "third")) == ["ann"]


def test_a_copied_home_knows_its_own_erasures_only(tmp_path: Path) -> None:
    first = Place(tmp_path / "home")
    first.add("ann", "bob")
    first.close()
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    home, copy = Place(tmp_path / "home"), Place(tmp_path / "copy")
    try:
        home.add("cay")
        home.add("dan")  # its commits are ahead of the copy's
        backup = home.back_up(tmp_path / "backups")
        copy.erase("ann")
        restore(backup, Home(tmp_path / "new"), ledgers_of(backup, copy.home.erasures))
    finally:
        home.close()
        copy.close()
    assert users_of(Home(tmp_path / "new")) == ["bob", "cay", "dan"]


def test_an_export_without_a_ledger_is_judged_by_time_on_the_safe_side(place: Place) -> None:
    place.add("ann", "bob")
    export_id = place.export()
    directory = place.home.exports / export_id
    manifest = artifact.read_manifest(directory)
    made = datetime.fromisoformat(manifest["created_at"]).replace(tzinfo=None)
    (directory / LEDGER).unlink()
    with artifact.build(place.home.exports, "old") as draft:  # as an earlier version made it
        for file in directory.glob("*.parquet"):
            shutil.copy2(file, draft.path)
        draft.facts = {key: value for key, value in manifest.items() if key != "files"}
    place.erase("ann")
    assert place.shown("old") == ["bob"]
    (one,) = read_ledger(place.home.erasures)
    for minutes, hidden in ((-59, True), (-61, False), (1, True)):
        at = made + timedelta(minutes=minutes)
        write_ledger(place.home.erasures, [erasing.Erasure(at, one.salt, one.user_hash)])
        assert (place.shown("old") == ["bob"]) is hidden


def test_the_ledger_names_nobody_twice_for_nothing(place: Place) -> None:
    place.add("ann", "bob")

    def entries() -> int:
        return len(read_ledger(place.home.erasures))

    assert place.erase("ann")["behaviors"] == 1
    assert [sum(place.erase("ann").values()) for _ in range(3)] == [0, 0, 0]
    assert entries() == 1
    assert [sum(place.erase("never seen").values()) for _ in range(3)] == [0, 0, 0]
    assert entries() == 2  # once: an older backup may hold this person
    place.add("ann")
    assert place.erase("ann")["behaviors"] == 1
    assert entries() == 3  # came back, so that what was exported since hides the person, too
    place.erase("ann")
    assert entries() == 3


def test_somebody_whom_another_salt_names_is_not_entered_again(place: Place) -> None:
    ledger = [erasing.Erasure(datetime(2026, 1, 1), "of a backup", user_hash("of a backup", "ann"))]
    erasing.add_erasures(place.store, ledger)
    place.erase("ann")
    assert list_erasures(place.store) == ledger


def test_a_person_unknown_here_does_not_come_with_a_backup(place: Place, tmp_path: Path) -> None:
    place.add("ann", "bob")
    backup = place.back_up(tmp_path / "backups")
    other = Place(tmp_path / "other")
    try:
        other.erase("ann")  # never seen there
        restore(backup, Home(tmp_path / "new"), ledgers_of(backup, other.home.erasures))
    finally:
        other.close()
    assert users_of(Home(tmp_path / "new")) == ["bob"]


def test_two_erasures_at_one_moment_are_two(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "utc_now", lambda: datetime(2026, 1, 1))  # a clock that stands
    for _ in range(2):
        place.add("ann")
        place.erase("ann")
    assert len({one.identity for one in list_erasures(place.store)}) == 2


def test_an_export_is_imported_without_a_word_about_its_ledger(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.add("ann")
    backup = place.back_up(tmp_path / "backups")
    restore(backup, Home(tmp_path / "new"))
    assert "belongs to no table" not in caplog.text
    exported = json.loads((backup / "manifest.json").read_text())["export_id"]
    assert read_ledger(backup / "exports" / exported / LEDGER) == ()


def store_in_memory() -> Store:
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.execute("ATTACH ':memory:' AS data")
    for sql in migrations():
        connection.execute(sql)
    return Store(connection, Path())


def test_a_thousand_states_never_know_an_erasure_and_hold_the_person(tmp_path: Path) -> None:
    people = [f"p{number}" for number in range(ROUNDS)]
    meet = threading.Barrier(2, timeout=_SECONDS)
    wrong, early = [], 0
    with (
        store_in_memory() as store,
        UserState.open(tmp_path / "state") as state,
        ThreadPoolExecutor(1) as pool,
    ):
        with store.writing() as cursor:
            cursor.execute("INSERT INTO data.behaviors (user_id, item_id) SELECT unnest($1), 'i1'", [people])

        def erase_each() -> None:
            for person in people:
                meet.wait()
                erase_user(store, state, person, [], [])

        eraser = pool.submit(erase_each)
        for person in people:
            meet.wait()
            with store.snapshot() as cursor:  # what an export copies: rows and ledger of one state
                sql = "SELECT count(*) FROM data.behaviors WHERE user_id = $1"
                ((held,),) = cursor.execute(sql, [person]).fetchall()
                known = bool(erased_users([person], read_erasures(cursor)))
            early += held
            if bool(held) == known:
                wrong.append(person)
        eraser.result(_SECONDS)
    assert wrong == []
    assert early  # some were read before the commit


def test_exports_beside_erasures_show_nobody_who_was_erased(place: Place) -> None:
    people = [f"p{number}" for number in range(20)]
    place.add("stays", *people)
    meet = threading.Barrier(2, timeout=_SECONDS)

    def erase_each() -> None:
        for person in people:
            meet.wait()
            place.erase(person)

    with ThreadPoolExecutor(1) as pool:
        eraser = pool.submit(erase_each)
        made = []
        for _ in people:
            meet.wait()
            made.append(place.export())
        eraser.result(_SECONDS)
    assert all(place.shown(export_id) == ["stays"] for export_id in made)


def test_texts_of_an_export_are_those_that_its_ledger_still_shows(place: Place, tmp_path: Path) -> None:
    with place.store.writing() as cursor:
        cursor.execute(
            "INSERT INTO data.texts (user_id, text) VALUES ('ann', 'a'), ('ann', 'both'), ('bob', 'both')"
        )
    export_id = place.export()
    vectors = np.ones((3, 4), np.float32)
    with (
        Export.open(place.home.exports / export_id) as export,
        closing(TextCache.open(tmp_path / "cache")) as cache,
    ):
        assert export.texts_among(["a", "both", "nobody's"]) == {"a", "both"}
        assert place.store.texts_among(["a", "both", "nobody's"]) == {"a", "both"}
        on_the_way = ErasureSafeWriter(cache, export.texts_among)  # of a command, which read the texts by now
        place.erase("ann")
        cache.discard("m", ["a"])
        assert export.texts_among(["a", "both"]) == place.store.texts_among(["a", "both"]) == {"both"}
        on_the_way.put("m", ["a", "both", "nobody's"], vectors)
        assert cache.get("m", ["a", "both", "nobody's"], 4)[1].tolist() == [False, True, False]


def test_a_draft_that_a_killed_removal_left_is_looked_through_the_next_time(tmp_path: Path) -> None:
    folder = tmp_path / "import"
    folder.mkdir()
    refused = [json.dumps({"row": 1, "values": {"user_id": name}}) for name in ("ann", "bob")]
    for name in ("behaviors.jsonl", ".12345678.behaviors.jsonl"):
        (folder / name).write_text("".join(f"{line}\n" for line in refused))
    assert len(rejects_about(tmp_path, "ann")) == 2
    assert remove_rejects(tmp_path, "ann") == 2
    assert rejects_about(tmp_path, "ann") == []
    assert len(rejects_about(tmp_path, "bob")) == 2
