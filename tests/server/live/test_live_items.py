"""Items that are put and deleted while a server runs are found, or not found, without a reindex."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.export import Export, create_export
from store.home import Home
from store.store import Store
from tests.live_server import copy_home, server, soon
from triptych_client import Client, Item
from triptych_client.pb.v1 import triptych_pb2 as pb

WORDS = "an unheard-of treatise on zebra husbandry in the Arctic"


def item(item_id: str, text: str = WORDS, *, available: bool = True, **attributes: object) -> Item:
    return Item(item_id, None, text, "treatise", attributes, available=available, updated_at=None)


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copy_home(small_home, tmp_path_factory.mktemp("live") / "home")


@pytest.fixture(scope="module")
def client(home: Home) -> Iterator[Client]:
    with server(home) as live, Client(live.address) as client:
        yield client


def found(client: Client, text: str = WORDS, k: int = 3, **fields: object) -> list[str]:
    return list(client.query(text=text, k=k, **fields).item_ids)


def score(client: Client, text: str) -> float:
    reply = client.query(text=text, k=1000)
    return reply.scores[list(reply.item_ids).index("changing")]


def test_an_item_that_is_put_is_found_by_its_text_and_by_its_facts(client: Client) -> None:
    client.put_items([item("new", pages=12)])
    soon(lambda: "new" in found(client, k=1000))
    wanted = pb.Filter(
        kinds=["treatise"], attributes=[pb.AttributeCondition(name="pages", at_least=10, at_most=12)]
    )
    assert found(client, "anything", filter=wanted) == ["new"]
    assert client.query(item_id="new", k=3).item_ids
    client.delete_items(["new"])
    assert "new" not in found(client, k=1000)  # at once


def test_what_is_put_again_is_found_by_its_new_text_only(client: Client) -> None:
    client.put_items([item("changing")])
    soon(lambda: "changing" in found(client, k=1000))
    other = "a short history of the left-handed teaspoon"
    before = score(client, other)
    client.put_items([item("changing", other)])
    soon(lambda: score(client, other) != before)
    assert found(client, k=1000).count("changing") == 1
    client.put_items([item("changing", other, available=False)])
    assert "changing" not in found(client, k=1000)
    client.put_items([item("changing", other)])
    soon(lambda: "changing" in found(client, k=1000))
    client.delete_items(["changing"])


def test_a_delete_behind_a_put_wins(client: Client) -> None:
    client.put_items([item(f"brief{n}", f"{WORDS}, volume {n}") for n in range(40)])
    client.delete_items([f"brief{n}" for n in range(40)])
    client.put_items([item("last")])
    soon(lambda: "last" in found(client, k=1000))
    assert not [item_id for item_id in found(client, k=1000) if item_id.startswith("brief")]
    client.delete_items(["last"])


def test_a_known_item_that_is_deleted_is_gone_for_users_too(client: Client, home: Home) -> None:
    best = client.query(user_id="nobody", k=1).item_ids[0]
    client.delete_items([best])
    assert best not in client.query(user_id="nobody", k=1000).item_ids


def test_a_server_that_was_killed_finds_what_was_put(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as live, Client(live.address) as client:
        gone = found(client, k=1)[0]
        client.put_items([item("kept")])
        client.delete_items([gone])
        live.process.kill()
        live.process.wait()
    home.server_file.unlink()
    with server(home) as live, Client(live.address) as client:
        assert "kept" in found(client, k=1000)
        assert gone not in found(client, k=1000)


def test_store_and_export_hash_alike(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with Store.open(home.database) as store:
        export_id = create_export(store, home.exports)
        users, items = store.user_hashes(), store.item_hashes()
    with Export.open(home.exports / export_id) as export:
        assert export.user_hashes().equals(users)
        assert export.item_hashes().equals(items)
