"""A person's life: comes, takes consents back and gives them again, is erased, comes back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.building import stored_users
from scripts.backups import back_up, ledgers_of, restore
from scripts.home_access import fresh_export
from store.artifact import artifacts
from store.export import Export
from store.home import Home
from store.store import Store
from store.tables import VIEWS
from tests.live_server import copy_home, server, soon
from triptych_client import Behavior, Client, Consent, Impression, Text, Tie
from triptych_client.pb.v1 import triptych_pb2 as pb

ANN, BOB = "ann-of-the-life", "bob-who-has-ann-as-a-friend"
WORDS = "zebra finches sing beside the old canal"
VIEW_OF = {pb.VIEW_HISTORY: "H", pb.VIEW_TEXT: "T", pb.VIEW_SOCIAL: "S"}


class Life:
    """A server, and where a person may show in it and beside it."""

    def __init__(self, home: Home, client: Client, folder: Path) -> None:
        self.home, self.client, self.folder = home, client, folder
        self.items = list(client.query(user_id="nobody", k=30).item_ids)
        self.backups: list[Path] = []

    def views(self, user: str) -> str:
        return "".join(VIEW_OF[view] for view in self.client.query(user_id=user, k=5).views_used)

    def found_by_others(self) -> set[str]:
        """Return in which of similar users and audiences Ann is."""
        alike = self.client.query(user_id=BOB, k=1000, target=pb.TARGET_USERS)
        audience = self.client.query(item_id=self.items[0], k=1000, target=pb.TARGET_USERS)
        answers = {"alike": alike, "audience": audience}
        return {name for name, reply in answers.items() if ANN in reply.user_ids}

    def named_to_bob(self) -> bool:
        reply = self.client.query(user_id=BOB, k=20, explain=True, exclude_seen=False)
        return any(one.name == ANN for each in reply.explanations for one in each.friends)

    def explained(self) -> set[str]:
        """Return the kinds of sources by which Ann's own results are explained."""
        reply = self.client.query(user_id=ANN, k=20, explain=True, exclude_seen=False)
        kinds = ("events", "texts", "friends")
        return {kind for kind in kinds if any(getattr(one, kind) for one in reply.explanations)}

    def trained_on(self, export_id: str = "") -> set[str]:
        """Return in which tables an export, a new one by default, shows Ann."""
        fresh = None if export_id else fresh_export(self.home)
        export = fresh or Export.open(self.home.exports / export_id)
        try:
            tables = {
                "history": export.history(),
                "texts": export.texts(),
                "impressions": export.impressions(),
            }
            shown = {name for name, rows in tables.items() if ANN in rows.column("user_id").to_pylist()}
            friends = export.friends()
            ties = zip(*(friends.column(name).to_pylist() for name in ("user_id", "friend_id")), strict=True)
            for owner, friend in ties:
                shown |= {"own ties"} if owner == ANN else {"a friend's"} if friend == ANN else set()
            return shown
        finally:
            export.close()

    def back_up(self) -> Path:
        export = fresh_export(self.home)
        export.close()
        self.backups.append(back_up(self.home, export.export_id, self.folder / "backups", with_index=False))
        return self.backups[-1]

    def restored(self, backup: Path) -> tuple[dict[str, int], set[str]]:
        """Restore a backup; return Ann's rows in it by table, and which of her views are used in it."""
        place = Home(self.folder / f"restored-{len(list(self.folder.iterdir()))}")
        restore(backup, place, ledgers_of(backup, self.home.erasures))
        with Store.open(place.database) as store, store.snapshot() as cursor:
            counts = {
                table: int(cursor.execute(f"SELECT count(*) FROM data.{table} WHERE user_id = $1", [ANN])
                           .fetchall()[0][0])
                for table in ("behaviors", "texts", "social", "impressions", "consents")
            }  # fmt: skip
            own = store.user_views(ANN)
        views = zip("HTS", (own.history, own.texts, own.friends), strict=True)
        return counts, {view for view, rows in views if rows}


@pytest.fixture(scope="module")
def life(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("life")
    home = copy_home(small_home, folder / "home")
    with server(home, "--forget-hours", "0.001") as live, Client(live.address) as client:
        yield Life(home, client, folder)


def test_a_life(life: Life) -> None:
    comes(life)
    takes_consents_back_and_gives_them_again(life)
    is_erased(life)
    comes_back(life)


def comes(life: Life) -> None:
    client = life.client
    client.append_behaviors([Behavior(ANN, item) for item in life.items[:4]])
    client.append_behaviors([Behavior("carl", item) for item in life.items[4:8]])
    client.put_friends([Tie(ANN, "carl"), Tie(BOB, ANN)])
    client.append_texts([Text(ANN, WORDS)])
    client.append_impressions([Impression(ANN, life.items[9], query_id="q", clicked=True)])
    soon(lambda: life.views(ANN) == "HTS")
    soon(lambda: life.found_by_others() == {"alike", "audience"})
    assert (life.views(BOB), life.named_to_bob()) == ("S", True)
    assert life.explained() == {"events", "texts", "friends"}
    assert life.trained_on() == {"history", "texts", "impressions", "own ties", "a friend's"}
    assert set(client.export_user(ANN)) == {"behaviors", "texts", "social", "impressions", "named_by"}


def takes_consents_back_and_gives_them_again(life: Life) -> None:
    client = life.client
    vector, bobs = client.encode_user(ANN), client.encode_user(BOB)
    client.set_consent([Consent(ANN, view, share=False) for view in VIEWS])
    assert life.views(ANN) == "HTS"
    assert (life.found_by_others(), life.views(BOB), life.named_to_bob()) == (set(), "", False)
    assert life.trained_on() == {"history", "texts", "impressions", "own ties"}
    client.set_consent([Consent(ANN, view, use=False) for view in VIEWS])
    reply = client.query(user_id=ANN, k=5)
    assert (reply.fallback, life.views(ANN), life.explained()) == (pb.FALLBACK_POPULARITY, "", set())
    assert not client.encode_user(ANN).views_used
    assert life.trained_on() == set()
    counts, used = life.restored(life.back_up())
    assert counts == {"behaviors": 4, "texts": 1, "social": 1, "impressions": 1, "consents": 3}
    assert used == set()  # a backup holds what was, and what was wanted
    assert len(client.export_user(ANN)["behaviors"]) == 4
    client.set_consent([Consent(ANN, view, use=True, share=True) for view in VIEWS])
    assert client.encode_user(ANN) == vector
    assert client.encode_user(BOB) == bobs
    assert life.explained() == {"events", "texts", "friends"}
    soon(lambda: life.found_by_others() == {"alike", "audience"})
    assert life.trained_on() == {"history", "texts", "impressions", "own ties", "a friend's"}


def is_erased(life: Life) -> None:
    client, home = life.client, life.home
    backup = life.back_up()
    known = artifacts(home.exports)[-1]
    assert life.restored(backup)[1] == {"H", "T", "S"}
    for _ in range(2):
        client.encode_user(BOB)  # kept in memory, made with Ann
    done = client.erase_user(ANN)
    assert dict(done.removed) == {
        **{"behaviors": 4, "texts": 1, "social": 2, "impressions": 1, "consents": 3},
        **{"text_vectors": 1, "rejects": 0},
    }
    assert (life.views(ANN), life.views(BOB), life.named_to_bob(), life.explained()) == ("", "", False, set())
    assert life.found_by_others() == set()
    assert client.export_user(ANN) == {}
    assert life.trained_on() == life.trained_on(known) == set()  # in an export of before, too
    counts, used = life.restored(backup)
    assert (sum(counts.values()), used) == (0, set())
    everyone = [life.home.indexes / index_id for index_id in artifacts(home.indexes)]
    soon(lambda: all(ANN not in stored_users(one) for one in everyone if one.exists()))


def comes_back(life: Life) -> None:
    client = life.client
    client.append_behaviors([Behavior(ANN, life.items[12])])
    assert life.views(ANN) == "H"  # nothing of before is there, and all is allowed
    assert set(client.export_user(ANN)) == {"behaviors"}
    assert life.views(BOB) == ""
    client.put_friends([Tie(BOB, ANN)])
    assert (life.views(BOB), life.named_to_bob()) == ("S", True)
    assert life.trained_on() == {"history", "a friend's"}
    soon(lambda: life.found_by_others() == {"alike", "audience"})
    held, _ = life.restored(life.back_up())
    assert held == {"behaviors": 1, "texts": 0, "social": 0, "impressions": 0, "consents": 0}
