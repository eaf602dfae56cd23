"""Consents: what is written, what the state and the store read by them, and how an import brings them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.artifact import read_manifest
from store.export import Export, create_export
from store.home import Home
from store.imports.run import import_folder
from store.privacy.erase import erase_user
from store.privacy.subject_access import rows_about
from store.state.packing import Consents
from store.state.rebuild import bring_up_to_date, rebuild
from store.state.state import UserState
from store.store import Store
from store.tables import VIEWS
from store.writes.request import (
    BehaviorRow,
    Behaviors,
    ConsentChanges,
    ConsentRow,
    Content,
    FriendRow,
    Friends,
    Request,
    TextRow,
    Texts,
    WriteResult,
)
from store.writes.writer import Writer
from tests.import_folder import Folder
from tests.small_stores import make_store
from tests.state_contents import expected_state, state_of

USERS = ("a", "b", "c")


@dataclass(frozen=True)
class Place:
    home: Home
    store: Store
    state: UserState
    writer: Writer

    def write(self, *contents: Content) -> list[WriteResult]:
        return self.writer.write([Request(one) for one in contents])[0]

    def consent(self, *rows: ConsentRow) -> WriteResult:
        return self.write(ConsentChanges(rows))[0]

    def check(self) -> None:
        """Fail where the state, which follows writes, says something else than the store."""
        for user in USERS:
            assert state_of(self.state, user) == expected_state(self.store.user_views(user))

    def stored(self) -> list[tuple[object, ...]]:
        with self.store.snapshot() as cursor:
            return cursor.execute("FROM data.consents ORDER BY ALL").fetchall()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    home = make_store(tmp_path, [("a", "x", 1), ("b", "y", 2), ("c", "z", 3), ("c", "x", 4)])
    with Store.open(home.database) as store, UserState.open(home.state) as state:
        bring_up_to_date(store, state)
        place = Place(home, store, state, Writer(store, state))
        place.write(Friends([FriendRow("a", "b"), FriendRow("a", "c"), FriendRow("c", "b")]))
        place.write(Texts([TextRow(user, f"{user} writes") for user in USERS]))
        yield place


def views(place: Place, user: str) -> tuple[int, int, Sequence[str]]:
    """Return how many events and texts, and which friends, a query uses of a user."""
    (record,) = place.state.users([user])
    return len(record.history), len(record.texts), record.friends


def test_a_view_that_is_not_used_is_empty_and_comes_back_as_it_was(place: Place) -> None:
    before = state_of(place.state, "a")
    assert views(place, "a") == (1, 1, ("b", "c"))
    for view, left in (("H", (0, 1, ("b", "c"))), ("T", (1, 0, ("b", "c"))), ("S", (1, 1, ()))):
        assert place.consent(ConsentRow("a", view, use=False)).inserted == 1
        assert views(place, "a") == left
        place.check()
        assert place.consent(ConsentRow("a", view, use=True)).updated == 1
        assert state_of(place.state, "a") == before


@pytest.mark.parametrize("withheld", [ConsentRow("b", "H", share=False), ConsentRow("b", "H", use=False)])
def test_a_history_that_is_not_shared_is_not_a_friends(place: Place, withheld: ConsentRow) -> None:
    before = state_of(place.state, "a")
    place.consent(withheld)
    (record,) = place.state.users(["a"])
    assert (record.friends, record.withheld) == (("c",), ("b",))
    inline = place.state.record_of_friends({"b": 1.0, "c": 2.0})
    assert (inline.friends, inline.withheld) == (("c",), ("b",))
    place.check()
    place.consent(ConsentRow("b", "H", use=True, share=True))
    assert state_of(place.state, "a") == before


def test_what_others_see_is_what_is_used_and_shared(place: Place) -> None:
    place.consent(ConsentRow("a", "H", share=False), ConsentRow("a", "T", use=False, share=True))
    (own,), (seen,) = place.state.users(["a"]), place.state.shared_users(["a"])
    assert (len(own.history), len(own.texts), own.friends) == (1, 0, ("b", "c"))
    assert (len(seen.history), len(seen.texts), seen.friends) == (0, 0, ("b", "c"))
    assert place.store.restricted_users() == {"a"}
    place.consent(ConsentRow("b", "H", share=False))
    assert place.store.restricted_users() == {"a", "b", "c"}
    assert place.store.followers(["b"]) == {"a", "c"}


def test_rows_are_counted_and_refused_one_by_one(place: Place) -> None:
    rows = [
        ConsentRow("a", "H", share=False),
        ConsentRow("a", "H", share=True),
        ConsentRow("a", "H"),
        ConsentRow("", "H", use=False),
        ConsentRow("a", "history", use=False),
        ConsentRow("x" * 300, "H", use=False),
    ]
    done = place.consent(*rows)
    assert (done.inserted, done.updated, done.unchanged) == (1, 1, 1)
    assert done.rejected == ((3, "empty_user_id"), (4, "unknown_view"), (5, "id_too_long"))
    assert views(place, "a")[0] == 1
    request = Request(ConsentChanges([ConsentRow("b", "S", use=False)]), "once", "digest")
    assert [place.writer.write([request])[0][0].repeated for _ in range(2)] == [False, True]


def test_the_state_made_anew_has_the_consents_of_the_store(place: Place) -> None:
    place.consent(ConsentRow("a", "H", use=False), ConsentRow("b", "H", share=False))
    followed = [state_of(place.state, user) for user in USERS]
    rebuild(place.store, place.state)
    assert [state_of(place.state, user) for user in USERS] == followed


@given(
    changes=st.lists(
        st.builds(
            ConsentRow,
            st.sampled_from(USERS),
            st.sampled_from(VIEWS),
            st.sampled_from([True, False, None]),
            st.sampled_from([True, False, None]),
        ),
        max_size=6,
    )
)
def test_packed_consents_say_what_was_set(changes: list[ConsentRow]) -> None:
    now, used, shared = Consents(), set(VIEWS), set(VIEWS)
    for row in changes:
        now = now.changed(row.view, row.use, row.share)
        for allows, allowed in ((row.use, used), (row.share, shared)):
            if allows is not None:
                (allowed.add if allows else allowed.discard)(row.view)
    assert (now.used, now.shared, now.seen_by_others) == (used, shared, used & shared)
    assert Consents.unpack(now.pack()) == now
    assert (now.pack() == b"") == (used == shared == set(VIEWS))


def test_an_export_holds_everything_and_shows_what_may_be_trained_on(place: Place) -> None:
    place.consent(
        ConsentRow("a", "H", use=False), ConsentRow("b", "H", share=False), ConsentRow("c", "T", use=False)
    )
    export_id = create_export(place.store, place.home.exports)
    folder = place.home.exports / export_id
    assert read_manifest(folder)["counts"]["behaviors"] == 4
    with Export.open(folder) as export:
        assert {row["user_id"] for row in export.history().to_pylist()} == {"b", "c"}
        assert {row["user_id"] for row in export.texts().to_pylist()} == {"a", "b"}
        ties = [(row["user_id"], row["friend_id"]) for row in export.friends().to_pylist()]
        assert ties == [("a", "c")]  # b's history may be trained on as b's own, and is nobody else's
        hashes = place.store.user_hashes()
        assert export.user_hashes().equals(hashes)
        history, texts, _ = export.some_users(hashes.column("user_id").combine_chunks())
        assert {row["user_id"] for row in history.to_pylist()} == {"c"}
        assert {row["user_id"] for row in texts.to_pylist()} == {"a", "b"}
    copy = Home(place.home.path.with_name("copy"))
    with Store.open(copy.database) as store:
        import_folder(store, folder, rejects=copy.rejects, file_format="parquet", strict=True)
        assert store.counts() == place.store.counts()
        assert [store.user_views(user) for user in USERS] == [place.store.user_views(user) for user in USERS]


def test_users_who_share_nothing_have_no_vector_for_others(place: Place) -> None:
    before = {row["user_id"]: row["content"] for row in place.store.user_hashes().to_pylist()}
    place.consent(*(ConsentRow("b", view, share=False) for view in VIEWS))
    after = {row["user_id"]: row for row in place.store.user_hashes().to_pylist()}
    assert after["b"]["blank"]
    assert {user for user, row in after.items() if row["content"] != before[user]} == set(USERS)


def test_consents_are_told_and_erased(place: Place) -> None:
    place.consent(ConsentRow("b", "H", share=False))
    about = {table: rows for table, rows, _ in rows_about(place.store, "b")}
    assert len(about["consents"]) == 3
    assert '{"user_id":"b","view":"H","use":true,"share":false}' in about["consents"]
    done = erase_user(place.store, place.state, "b", (), ())
    assert done.removed["consents"] == 3
    assert place.stored() == []
    place.write(Behaviors([BehaviorRow("b", "x")]), Friends([FriendRow("a", "b")]))
    assert views(place, "a")[2] == ("b", "c")
    place.check()


def test_an_import_brings_consents(place: Place, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    folder = Folder(tmp_path / "more")
    rows = ("a,H,no,", "b,H,,false", "c,X,,", "c,T,perhaps,", "c,S,,")
    folder.csv("consents", "user_id,view,use,share", *rows)
    report = import_folder(place.store, folder.path, rejects=place.home.rejects).tables["consents"]
    assert (report.inserted, report.rejected) == (3, {"bad_use": 1, "unknown_view": 1})
    assert place.stored() == [("a", "H", False, True), ("b", "H", True, False), ("c", "S", True, True)]
    bring_up_to_date(place.store, place.state)
    assert views(place, "a") == (0, 1, ("c",))
    place.check()
    folder.csv("consents", "user_id,view,use", "a,H,yes", "b,H,no")
    again = import_folder(place.store, folder.path, rejects=place.home.rejects).tables["consents"]
    assert (again.updated, again.inserted) == (2, 0)
    assert place.stored()[:2] == [("a", "H", True, True), ("b", "H", False, False)]  # share as it was
