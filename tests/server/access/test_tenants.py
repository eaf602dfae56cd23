"""Tenants: several homes in one server, and nothing of one in the other."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scripts.home_access import admin, server_of
from server.access import TokenFile
from server.config import BadTenantError, ServerConfig
from server.settings import SettingsSource
from store.home import Home
from tests.live_server import SOON, copy_home, run_server, server, soon
from triptych_client import Behavior, CallError, Client, Item, Text
from triptych_client.pb.v1 import triptych_pb2 as pb

NOW = datetime.now(UTC)
TENANTS = ("shop", "zoo")
USER = "u00001"


@dataclass(frozen=True)
class Served:
    folder: Path
    address: str
    log: Path
    clients: dict[str, Client]


@pytest.fixture(scope="module", params=["one process", "two processes"])
def served(
    request: pytest.FixtureRequest, small_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tenants") / "homes"
    folder.mkdir()
    for name in TENANTS:
        copy_home(small_home, folder / name)
    tokens = TokenFile(folder / "tokens.json")
    every = ("query", "ingest", "admin")
    secrets = {name: tokens.create(every, NOW, tenant=name)[1] for name in TENANTS}
    options = () if request.param == "one process" else ("--processes", "2", "--no-spare")
    with server(Home(folder / TENANTS[0]), *options, folder=folder) as live, ExitStack() as stack:
        for name in TENANTS:
            soon((folder / name / "server.json").exists)
        if options:
            soon(lambda: "with 2 query processes" in live.log.read_text())
        clients = {
            name: stack.enter_context(Client(live.address, token=secret, timeout=SOON, connections=4))
            for name, secret in secrets.items()
        }
        yield Served(folder, live.address, live.log, clients)
        assert "Traceback" not in live.log.read_text()


def test_each_token_reaches_its_own_home(served: Served) -> None:
    ids = {name: client.status().home.home_id for name, client in served.clients.items()}
    inodes = {name: client.status().home.inode for name, client in served.clients.items()}
    assert len(set(inodes.values())) == 2
    assert ids["shop"] == ids["zoo"]  # copies of one home
    for name in TENANTS:
        assert inodes[name] == (served.folder / name / "views.duckdb").stat().st_ino


def test_what_one_writes_the_other_does_not_see(served: Served) -> None:
    shop, zoo = served.clients["shop"], served.clients["zoo"]
    before = dict(zoo.status().rows)
    item = shop.query(user_id=USER).item_ids[0]
    assert shop.append_behaviors([Behavior("only-in-shop", item)], request_id="same").inserted == 1
    # The same request id is another request there.
    assert zoo.append_behaviors([Behavior("only-in-zoo", item)], request_id="same").inserted == 1
    assert not shop.query(user_id="only-in-shop").fallback
    assert shop.query(user_id="only-in-zoo").fallback
    assert zoo.query(user_id="only-in-shop").fallback
    assert not zoo.query(user_id="only-in-zoo").fallback
    shop.append_texts([Text("only-in-shop", "a secret of the shop")])
    assert not any(zoo.export_user("only-in-shop").values())
    text = "dark telescopes and faint galaxies"
    shop.put_items([Item("shop-item", "Dark", text, "film", {}, True, None)])
    soon(lambda: "shop-item" in shop.query(text=text, k=200).item_ids)
    assert "shop-item" not in zoo.query(text=text, k=200).item_ids
    assert shop.query(item_id="shop-item").item_ids
    with pytest.raises(CallError) as caught:
        zoo.query(item_id="shop-item")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    added = {"behaviors": before["behaviors"] + 1, "users": before["users"] + 1}
    assert dict(zoo.status().rows) == before | added


def test_kept_vectors_are_each_homes_own(served: Served) -> None:
    shop, zoo = served.clients["shop"], served.clients["zoo"]
    first = shop.query(user_id=USER, k=20, exclude_seen=False)
    for client in (shop, zoo):
        for _ in range(8):  # kept in every process
            client.query(user_id=USER, k=20, exclude_seen=False)
    other = shop.query(user_id=USER, k=60).item_ids[-1]
    shop.append_behaviors([Behavior(USER, other, weight=100.0)])
    changed = shop.query(user_id=USER, k=20, exclude_seen=False)
    same = zoo.query(user_id=USER, k=20, exclude_seen=False)
    assert list(changed.scores) != list(first.scores)
    assert list(same.scores) == list(first.scores)


def test_a_publish_of_one_leaves_the_other(served: Served) -> None:
    zoo = Home(served.folder / "zoo")
    before = served.clients["zoo"].status()
    with admin(server_of(Home(served.folder / "shop")) or "") as stub:
        current = stub.Status(pb.StatusRequest()).index_id
        assert stub.PublishIndex(pb.PublishIndexRequest(index_id=current), timeout=SOON).index_id == current
        with pytest.raises(grpc.RpcError):
            stub.RollbackIndex(pb.RollbackIndexRequest(), timeout=SOON)
    assert zoo.current_index.read_text().strip() == before.index_id == served.clients["zoo"].status().index_id


def test_commands_find_the_home_that_they_name(served: Served) -> None:
    locals_ = {name: server_of(Home(served.folder / name)) for name in TENANTS}
    assert None not in locals_.values()
    assert len(set(locals_.values())) == 2
    for name in TENANTS:
        said = json.loads((served.folder / name / "server.json").read_text())
        assert said["address"] == served.address


def test_health_is_that_of_the_server(served: Served) -> None:
    with grpc.insecure_channel(served.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for service in ("", "triptych.v1.Retrieval"):
            reply = check(health_pb2.HealthCheckRequest(service=service), timeout=SOON)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_without_a_tenants_token_nothing_is_answered(served: Served) -> None:
    tokens = TokenFile(served.folder / "tokens.json")
    _, bank = tokens.create(("query",), NOW, tenant="bank")
    for token, reason in ((None, "TOKEN_MISSING"), (bank, "TENANT_UNKNOWN")):
        with Client(served.address, token=token, timeout=SOON) as client, pytest.raises(CallError) as caught:
            client.query(user_id=USER)
        assert caught.value.reason == reason


def test_a_folder_of_homes_is_read_by_its_names(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no folder with a home in it"):
        SettingsSource(tmp_path, with_tenants=True).load()
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "triptych.toml").write_text("[server]\nport = 7\n")
    config = SettingsSource(tmp_path, with_tenants=True).load()
    assert (config.tenants, config.port) == (("a", "b"), 7)
    assert [(one.tenant, one.home.path) for one in config.each_home()] == [
        ("a", tmp_path / "a"),
        ("b", tmp_path / "b"),
    ]
    assert config.tokens == tmp_path / "tokens.json"
    assert ServerConfig.from_json(config.to_json()) == config
    (tmp_path / "Not A Tenant").mkdir()
    with pytest.raises(BadTenantError, match="'Not A Tenant' is no name of a tenant"):
        SettingsSource(tmp_path, with_tenants=True).load()


def test_a_home_that_cannot_be_opened_ends_the_start_and_is_named(small_home: Home, tmp_path: Path) -> None:
    (tmp_path / "homes").mkdir()
    for name in TENANTS:
        copy_home(small_home, tmp_path / "homes" / name)
    current = tmp_path / "homes" / "zoo" / "CURRENT"
    current.write_text("no-such-index\n")
    ended = run_server(Home(tmp_path / "homes"), "--port", "0", folder=tmp_path / "homes")
    assert ended.returncode == 1
    assert str(current) in ended.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "homes" / "shop" / "server.json").exists()
