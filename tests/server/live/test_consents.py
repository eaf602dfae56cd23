"""Consents through a real server: the next query follows them, and on again gives back what was."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scripts.exchange import import_through
from scripts.home_access import fresh_export
from server.app import running
from server.config import ServerConfig
from store.export import Export
from store.home import Home
from store.imports.run import ImportOptions
from store.tables import VIEWS
from tests.live_server import copy_home, server, soon
from triptych_client import Behavior, Client, Consent, Text, Tie
from triptych_client.pb.v1 import triptych_pb2 as pb

USED = {pb.VIEW_HISTORY: "H", pb.VIEW_TEXT: "T", pb.VIEW_SOCIAL: "S"}
WORDS = "a quiet garden with roses"


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copy_home(small_home, tmp_path_factory.mktemp("consents") / "home")


@pytest.fixture(scope="module")
def client(home: Home) -> Iterator[Client]:
    with running(ServerConfig(home, port=0)) as address, Client(address) as client:
        yield client


@pytest.fixture(scope="module")
def items(home: Home) -> list[str]:
    with Export.latest(home.exports) as export:
        return list(export.items(available_only=True).column("item_id").to_pylist())


def used(reply: pb.QueryResponse) -> str:
    return "".join(USED[view] for view in reply.views_used)


def person(client: Client, name: str, items: list[str]) -> str:
    """Make a person with all views, and a friend who has a history."""
    friend = f"{name}'s friend"
    client.append_behaviors([Behavior(name, item) for item in items[:3]])
    client.append_behaviors([Behavior(friend, item) for item in items[3:8]])
    client.put_friends([Tie(name, friend)])
    client.append_texts([Text(name, WORDS)])
    soon(lambda: used(client.query(user_id=name)) == "HTS")
    return friend


def alike(client: Client, user: str) -> list[str]:
    """Return everybody whom others may find, from those most like a user on."""
    return list(client.query(user_id=user, k=1000, target=pb.TARGET_USERS).user_ids)


def test_a_view_that_is_not_used_is_in_no_answer(client: Client, items: list[str]) -> None:
    ann = "ann"
    person(client, ann, items)
    before, answer = client.encode_user(ann), client.query(user_id=ann, k=20, explain=True)
    for view, part, field in (
        ("H", "history_part", "events"),
        ("T", "text_part", "texts"),
        ("S", "social_part", "friends"),
    ):
        assert any(getattr(one, field) for one in answer.explanations)
        client.set_consent([Consent(ann, view, use=False)])
        without = client.query(user_id=ann, k=20, explain=True)
        assert used(without) == "HTS".replace(view, "")
        assert not any(getattr(one, field) for one in without.explanations)
        assert not getattr(client.encode_user(ann), part).values
        client.set_consent([Consent(ann, view, use=True)])
        assert client.encode_user(ann) == before
        assert client.query(user_id=ann, k=20, explain=True).item_ids == answer.item_ids
    client.set_consent([Consent(ann, view, use=False) for view in VIEWS])
    assert client.query(user_id=ann).fallback == pb.FALLBACK_POPULARITY
    client.set_consent([Consent(ann, view, use=True) for view in VIEWS])
    assert client.encode_user(ann) == before


def test_a_history_that_is_not_shared_leaves_the_friends_answers_though_they_were_kept(
    client: Client, items: list[str]
) -> None:
    bob = "bob"
    friend = person(client, bob, items)
    hits = client.status().process.user_vector_hits
    before = [client.query(user_id=bob, k=20).scores for _ in range(2)]
    assert client.status().process.user_vector_hits > hits  # the second one was kept
    for use, share in ((None, False), (False, None)):
        client.set_consent([Consent(friend, "H", use, share)])
        assert used(client.query(user_id=bob, k=20)) == "HT"
        explained = client.query(user_id=bob, k=20, explain=True)
        assert not any(one.friends for one in explained.explanations)
        inline = pb.Views(friends=[pb.Friend(friend_id=friend)])
        assert client.query(views=inline).fallback == pb.FALLBACK_POPULARITY
        assert used(client.query(user_id=friend)) == ("H" if use is None else "")
        for _ in range(2):  # kept without the friend, and follows the friend all the same
            client.query(user_id=bob, k=20)
        client.set_consent([Consent(friend, "H", use=True, share=True)])
        assert client.query(user_id=bob, k=20).scores == before[0]


def test_who_shares_nothing_is_found_by_nobody(client: Client, items: list[str]) -> None:
    eve = "eve"
    friend = person(client, eve, items)
    soon(lambda: {eve, friend} <= set(alike(client, "ann")))
    client.set_consent([Consent(eve, view, share=False) for view in VIEWS])
    for _ in range(20):  # also while the background encodes
        assert eve not in alike(client, "ann")
        audience = client.query(item_id=items[0], k=1000, target=pb.TARGET_USERS)
        assert eve not in audience.user_ids
    assert used(client.query(user_id=eve)) == "HTS"  # the own answers are as they were
    client.set_consent([Consent(eve, view, share=True) for view in VIEWS])
    soon(lambda: eve in alike(client, "ann"))
    client.set_consent([Consent(friend, "H", share=False)])  # eve's vector is encoded again without it
    assert friend not in alike(client, "ann")
    soon(lambda: eve in alike(client, "ann"))


def test_an_import_of_consents_holds_in_the_next_query(
    client: Client, items: list[str], tmp_path: Path
) -> None:
    dan = "dan"
    friend = person(client, dan, items)
    soon(lambda: {dan, friend} <= set(alike(client, "ann")))
    lines = ["user_id,view,use,share", f"{friend},H,true,false", *(f"{dan},{view},false," for view in VIEWS)]
    (tmp_path / "consents.csv").write_text("\n".join(lines) + "\n")
    import_through(client.address, tmp_path, ImportOptions())
    assert client.query(user_id=dan).fallback == pb.FALLBACK_POPULARITY
    assert not {dan, friend} & set(alike(client, "ann"))
    client.set_consent([Consent(dan, view, use=True) for view in VIEWS])
    assert used(client.query(user_id=dan)) == "HT"


def test_consents_outlive_a_kill_and_are_in_the_next_export(
    small_home: Home, items: list[str], tmp_path: Path
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as live, Client(live.address) as client:
        friend = person(client, "fay", items)
        client.set_consent([Consent("fay", "H", use=False), Consent(friend, "H", share=False)])
        live.process.kill()
        live.process.wait()
    home.server_file.unlink()
    with server(home) as live, Client(live.address) as client:
        soon(lambda: used(client.query(user_id="fay")) == "T")
        assert friend not in alike(client, "fay")
        with closing(fresh_export(home)) as export:
            people = set(export.history().column("user_id").to_pylist())
            assert ("fay" in people, friend in people) == (False, True)
            assert "fay" not in export.friends().column("user_id").to_pylist()
        rows = client.export_user("fay")
        assert len(rows["behaviors"]) == 3  # nothing of it is gone
        allowed = {(row["view"], row["use"]) for row in rows["consents"]}
        assert allowed == {("H", False), ("T", True), ("S", True)}


def test_a_consent_that_one_process_acknowledged_holds_in_the_next_query_of_any(
    small_home: Home, items: list[str], tmp_path: Path
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with (
        server(home, "--processes", "2", "--no-spare") as live,
        Client(live.address, connections=8) as client,
    ):
        friend = person(client, "gil", items)
        for use in (False, True) * 5:
            for _ in range(8):  # until each process has kept the vectors
                client.query(user_id="gil", k=3)
            client.set_consent([Consent("gil", "T", use=use), Consent(friend, "H", share=use)])
            said = {used(client.query(user_id="gil", k=3)) for _ in range(8)}
            assert said == {"HTS" if use else "H"}
            client.set_consent([Consent(friend, view, share=use) for view in VIEWS])
            found = [alike(client, "gil") for _ in range(8)]
            assert use or all(friend not in one for one in found)
