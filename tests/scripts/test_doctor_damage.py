"""Kinds of damage: `triptych doctor` names each one, and finds nothing wrong with what is whole."""

import json
import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import duckdb
import lmdb
import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from encoder.model_files import ITEM_GRAPH, USER_GRAPH
from encoder.runtime import TABLES_FILE
from indexer.building import stored_users
from scripts import home_access
from scripts.doctor import machine
from scripts.doctor.check import State
from scripts.doctor.command import checks
from server.app import running
from server.config import ServerConfig
from store.artifact import MANIFEST, build, new_id, read_manifest, read_pointer, set_pointer
from store.home import Home
from store.ledger import Erasure, user_hash, write_ledger
from store.lmdb_file import DATA_FILE
from store.privacy.erase import UnfinishedErasure
from store.store import Store
from tests.command_line import Run
from tests.live_server import copy_home, flip
from triptych_client import Client, Item

DEAD = 2**22 + 1  # no Linux process has such an id
GARBAGE = b"\x00garbage" * 64


@pytest.fixture(scope="module")
def served(tiny_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that has been served, so that it has a state and a text cache."""
    home = copy_home(tiny_home, tmp_path_factory.mktemp("served") / "home")
    with running(ServerConfig(home, port=0)) as address, Client(address) as client:
        assert client.query(user_id="u01", k=1).item_ids
    return home


@pytest.fixture
def home(served: Home, tmp_path: Path) -> Home:
    return copy_home(served, tmp_path / "home")


def said(home: Home) -> dict[str, tuple[State, str, str]]:
    """Return what doctor does not find well, by the name of the check."""
    return {one.name: (one.state, one.found, one.hint) for one in checks(home) if one.state is not State.OK}


def model_of(home: Home) -> Path:
    return read_pointer(home.latest_model, home.models)


def index_of(home: Home) -> Path:
    return read_pointer(home.current_index, home.indexes)


def text_model_of(home: Home) -> Path:
    return home.text_models / str(read_manifest(model_of(home))["text_model_id"])


def export_of(home: Home) -> Path:
    return home.exports / str(read_manifest(model_of(home))["export_id"])


def overwrite(file: Path, raw: bytes) -> None:
    """Replace a file, not other links to it."""
    file.unlink(missing_ok=True)
    file.write_bytes(raw)


def in_store(home: Home, *statements: str) -> None:
    """Change the store by hand, as nobody should; the state does not know of it."""
    with duckdb.connect(str(home.database)) as connection:
        for statement in statements:
            connection.execute(statement)


def newer_model(home: Home, change: Callable[[Path, str], None]) -> None:
    """Train by hand: the same files as those of the latest model, but for a change of the new one."""
    latest, model_id = model_of(home), new_id()
    manifest = read_manifest(latest)
    with build(home.models, model_id) as draft:
        for name in manifest.pop("files"):
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(latest / name, draft.path / name)
        draft.facts |= manifest
        change(draft.path, model_id)
    set_pointer(home.latest_model, model_id)


def no_numbers(folder: Path, model_id: str) -> None:
    tables = load_file(folder / TABLES_FILE)
    tables["table"][3, 0] = np.nan
    save_file(tables, folder / TABLES_FILE)
    for name in (USER_GRAPH, ITEM_GRAPH):
        graph = onnx.load(folder / name)
        for entry in graph.metadata_props:
            entry.value = model_id if entry.key == "model_id" else entry.value
        onnx.save(graph, folder / name)


def somebody_elses(home: Home) -> None:
    home.database.unlink()
    in_store(home, "CREATE TABLE mine (a INT)")


def cut_off_an_erasure(home: Home) -> None:
    unfinished = json.dumps(asdict(UnfinishedErasure("u")))
    in_store(home, f"INSERT INTO erasures SELECT now()::TIMESTAMP, 'salt', 'hash', [], '{unfinished}'")


def edited(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    overwrite(file, text.replace(old, new, 1).encode())


def spoil_a_vector(home: Home) -> None:
    with closing(lmdb.open(str(home.text_cache), map_size=1 << 30)) as env, env.begin(write=True) as change:
        key, value = next((k, v) for k, v in change.cursor() if b"\0" in k.strip(b"\0"))
        change.put(key, value[:-1] + bytes([value[-1] ^ 1]))


def erase_in_ledger(home: Home) -> None:
    user = stored_users(index_of(home))[0]
    write_ledger(home.erasures, [Erasure(datetime(2100, 1, 1), "salt", user_hash("salt", user))])


F, W = State.FAILED, State.WARNING
Expected = dict[str, tuple[State, str]]  # of each check that is not well: the state, and some words
Damage = tuple[str, Callable[[Home], object], Expected]

DAMAGES: list[Damage] = [
    ("a store that is gone", lambda h: h.database.unlink(), {"store": (F, "is missing")}),
    ("a store of other bytes", lambda h: overwrite(h.database, GARBAGE), {"store": (F, "triptych restore")}),
    (
        "a store that was cut off",
        lambda h: overwrite(h.database, h.database.read_bytes()[:5000]),
        {"store": (F, "is no Triptych store, or is damaged")},
    ),
    (
        "somebody else's database",
        somebody_elses,
        {"store": (F, "holds no Triptych tables")},
    ),
    (
        "a store of a newer version",
        lambda h: in_store(h, "INSERT INTO migrations SELECT 99, * EXCLUDE version FROM migrations LIMIT 1"),
        {"store": (F, "upgrade Triptych")},
    ),
    (
        "a store without items",
        lambda h: in_store(h, "DELETE FROM items"),
        {"items": (F, "import items")},
    ),
    (
        "a store without behaviours",
        lambda h: in_store(h, "DELETE FROM behaviors"),
        {"behaviors": (W, "triptych import")},
    ),
    (
        "attributes that nothing can use",
        lambda h: in_store(
            h, "UPDATE items SET attributes = '[1]' WHERE item_id = (SELECT min(item_id) FROM items)"
        ),
        {"attributes": (W, "put these items again")},
    ),
    (
        "a state of other bytes",
        lambda h: overwrite(h.state / DATA_FILE, GARBAGE),
        {"user state": (W, "will be made anew")},
    ),
    (
        "an erasure that was cut off",
        cut_off_an_erasure,
        {"user state": (W, "1 erasures are not finished")},
    ),
    ("a ledger of other bytes", lambda h: overwrite(h.erasures, b"{"), {"erasures": (F, "start the server")}),
    ("a server file of other bytes", lambda h: overwrite(h.server_file, b"{"), {"server": (W, "remove it")}),
    (
        "the file of a server that was killed",
        lambda h: h.server_file.write_text(json.dumps({"local": "127.0.0.1:1", "pid": DEAD})),
        {"server": (W, "it was killed")},
    ),
    (
        "an export with another byte",
        lambda h: flip(export_of(h) / "behaviors.parquet"),
        {"exports": (F, "behaviors.parquet: is damaged")},
    ),
    (
        "an export that lacks a file",
        lambda h: (export_of(h) / "texts.parquet").unlink(),
        {"exports": (F, "texts.parquet: is missing")},
    ),
    (
        "the export of the model is gone",
        lambda h: shutil.rmtree(export_of(h)),
        {"LATEST": (W, "train again")},
    ),
    (
        "a model with another byte",
        lambda h: flip(model_of(h) / TABLES_FILE),
        {"models": (F, f"{TABLES_FILE}: is damaged"), "CURRENT": (F, TABLES_FILE)},
    ),
    (
        "a model that lacks its graph",
        lambda h: (model_of(h) / "user_tower.onnx").unlink(),
        {"models": (F, "user_tower.onnx: is missing"), "CURRENT": (F, "user_tower.onnx")},
    ),
    (
        "a model whose numbers are none",
        lambda h: newer_model(h, no_numbers),
        {"model": (F, "holds a number that is not finite"), "CURRENT": (W, "a newer model waits")},
    ),
    (
        "a model with the graphs of another one",
        lambda h: newer_model(h, lambda *_: None),
        {"model": (F, "belongs to model"), "CURRENT": (W, "a newer model waits")},
    ),
    (
        "LATEST names a model that is gone",
        lambda h: set_pointer(h.latest_model, "20200101T000000000000-0000"),
        {"LATEST": (F, "which is not in")},
    ),
    (
        "LATEST of other bytes",
        lambda h: overwrite(h.latest_model, b"\xff\xfe\n"),
        {"LATEST": (F, "triptych train")},
    ),
    ("LATEST is gone", lambda h: h.latest_model.unlink(), {"LATEST": (W, "no model yet")}),
    (
        "a language model with another byte",
        lambda h: flip(text_model_of(h) / "model.onnx"),
        {"text models": (F, "model.onnx: is damaged"), "text model": (F, "restore it")},
    ),
    (
        "the language model is gone",
        lambda h: shutil.rmtree(text_model_of(h)),
        {"LATEST": (F, "needs text model"), "text model": (F, "restore it")},
    ),
    (
        "a text cache of other bytes",
        lambda h: overwrite(h.text_cache / DATA_FILE, GARBAGE),
        {"text cache": (W, "makes anew what is damaged")},
    ),
    ("a vector of a text with another byte", spoil_a_vector, {"text cache": (W, "vectors are damaged")}),
    (
        "CURRENT names an index that is gone",
        lambda h: set_pointer(h.current_index, "20200101T000000000000-0000"),
        {"CURRENT": (F, "triptych index rollback")},
    ),
    ("CURRENT is gone", lambda h: h.current_index.unlink(), {"CURRENT": (W, "triptych reindex")}),
    (
        "an index with another byte",
        lambda h: flip(index_of(h) / "vectors.safetensors"),
        {"indexes": (F, "vectors.safetensors: is damaged"), "CURRENT": (F, "vectors.safetensors")},
    ),
    (
        "an index with a file more",
        lambda h: (index_of(h) / "more.bin").write_bytes(b"x"),
        {"indexes": (F, "more.bin: is not named"), "CURRENT": (F, "more.bin")},
    ),
    (
        "a manifest that was edited",
        lambda h: edited(index_of(h) / MANIFEST, '"dim": 17', '"dim": 18'),
        {"indexes": (F, "checksum does not match"), "CURRENT": (F, "checksum does not match")},
    ),
    (
        "the model of the index is gone",
        lambda h: shutil.rmtree(model_of(h)),
        {"LATEST": (F, "which is not in"), "CURRENT": (F, "triptych reindex")},
    ),
    (
        "a model where an index should be",
        lambda h: shutil.copytree(model_of(h), h.indexes / model_of(h).name),
        {"indexes": (F, "is a 'model', not a index")},
    ),
    (
        "what a killed build left",
        lambda h: (h.indexes / ".building-x").mkdir(),
        {"leftovers": (W, "remove them")},
    ),
    (
        "a reindex that can go on",
        lambda h: (h.indexes / ".spool-abc").mkdir(),
        {"leftovers": (W, "goes on there")},
    ),
    ("vectors of the erased", erase_in_ledger, {"erased people": (W, "triptych index prune")}),
    (
        "an option that nobody knows",
        lambda h: (h.path / "triptych.toml").write_text("[server]\nprot = 1\n"),
        {"configuration": (F, "the nearest one is [server] port")},
    ),
    (
        "a certificate that is none",
        lambda h: (
            (h.path / "cert.pem").write_text("no certificate"),
            (h.path / "key.pem").write_text("no key"),
            (h.path / "triptych.toml").write_text('[tls]\ncert = "cert.pem"\nkey = "key.pem"\n'),
        ),
        {"certificate": (F, "cert.pem is no PEM certificate")},
    ),
    (
        "a certificate for clients without one for the server",
        lambda h: (h.path / "triptych.toml").write_text('[tls]\nclient_ca = "ca.pem"\n'),
        {"certificate": (F, "TLS needs both a certificate and a key")},
    ),
    (
        "an address for everybody",
        lambda h: (h.path / "triptych.toml").write_text('[server]\nhost = "0.0.0.0"\n'),
        {"exposure": (F, "there is no TLS and no token")},
    ),
    (
        "tokens that nobody wrote so",
        lambda h: (h.path / "tokens.json").write_text('{"tokens": [{}]}'),
        {"tokens": (F, "tokens.json is damaged")},
    ),
    (
        "no token that holds",
        lambda h: (h.path / "tokens.json").write_text('{"tokens": []}'),
        {"tokens": (W, "nobody may call")},
    ),
]


def test_there_are_thirty_kinds_and_more() -> None:
    assert len({name for name, *_ in DAMAGES}) == len(DAMAGES) >= 30


@pytest.mark.parametrize(
    ("damage", "expected"), [case[1:] for case in DAMAGES], ids=[name for name, *_ in DAMAGES]
)
def test_damage_is_named_with_what_to_do_and_nothing_else_is(
    home: Home, damage: Callable[[Home], object], expected: Expected
) -> None:
    damage(home)
    found = said(home)
    assert {name: state for name, (state, *_) in found.items()} == {n: s for n, (s, _) in expected.items()}
    for name, (_, words) in expected.items():
        assert words in " ".join(found[name][1:]), found[name]
        assert found[name][2], f"{name} says nothing of what to do"


def test_a_store_that_another_process_has_open_and_a_silent_server(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(home.database):
        assert {name: state for name, (state, *_) in said(home).items()} == {"store": W}
    with socket.create_server(("127.0.0.1", 0)) as listener:  # takes calls and never answers
        home.server_file.write_text(json.dumps({"local": f"127.0.0.1:{listener.getsockname()[1]}", "pid": 1}))
        monkeypatch.setattr(home_access, "_ANSWER_SECONDS", 0.2)
        assert said(home)["server"][0] is F


def test_a_disk_that_is_nearly_full_and_a_home_that_is_a_file(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home.path)
    for free, state in ((machine._FULL_BYTES - 1, F), (machine._LOW_BYTES - 1, W)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        assert {name: found for name, (found, *_) in said(home).items()} == {"disk": state}
    monkeypatch.undo()
    file = tmp_path / "file"
    file.write_text("no home")
    assert {name: state for name, (state, *_) in said(Home(file)).items()} == {"home": F}


def _nothing(_home: Home, _run: Run) -> None:
    pass


def _without_state_and_cache(home: Home, _run: Run) -> None:
    shutil.rmtree(home.state)
    shutil.rmtree(home.text_cache)


def _put_and_reindexed(home: Home, run: Run) -> None:
    with running(ServerConfig(home, port=0)) as address, Client(address) as client:
        client.put_items([Item("new", "一本书", "关于花园的书", "article", {"price": 3.0}, True, None)])
    assert run("reindex", "--home", home.path)[0] == 0


def _erased_and_forgotten(home: Home, run: Run) -> None:
    with running(ServerConfig(home, port=0)) as address, Client(address) as client:
        client.erase_user("u01")
    assert run("reindex", "--home", home.path, "--full")[0] == 0
    assert run("index", "prune", "--keep", 1, "--home", home.path)[0] == 0


def _rolled_back(home: Home, run: Run) -> None:
    assert run("reindex", "--home", home.path)[0] == 0
    assert run("index", "rollback", "--home", home.path)[0] == 0


def _pruned_exports(home: Home, run: Run) -> None:
    assert run("export", "--home", home.path)[0] == 0


def _configured(home: Home, _run: Run) -> None:
    (home.path / "triptych.toml").write_text('[server]\nworkers = 4\n\n[log]\nlevel = "warning"\n')


def _with_rejects(home: Home, run: Run) -> None:
    data = home.path.parent / "data"
    data.mkdir()
    (data / "texts.csv").write_text("user_id,text\nu01,a text\n,nobody's\n")
    run("import", data, "--home", home.path)
    assert home.rejects.exists()


def _moved(home: Home, _run: Run) -> None:
    elsewhere = home.path.with_name("elsewhere")
    shutil.move(home.path, elsewhere)
    elsewhere.rename(home.path)


def _retrained(home: Home, run: Run) -> None:
    settings = ("--fusion", "ridge", "--dim", 16)
    assert run("train", "--home", home.path, *settings)[0] == 0
    assert run("reindex", "--home", home.path)[0] == 0


HEALTHY = [
    _nothing,
    _without_state_and_cache,
    _put_and_reindexed,
    _erased_and_forgotten,
    _rolled_back,
    _pruned_exports,
    _configured,
    _with_rejects,
    _moved,
    _retrained,
]


@pytest.mark.parametrize("happened", HEALTHY, ids=[one.__name__.strip("_") for one in HEALTHY])
def test_there_is_no_false_alarm(home: Home, run: Run, happened: Callable[[Home, Run], None]) -> None:
    happened(home, run)
    assert said(home) == {}


def test_a_home_that_is_served_is_well(home: Home) -> None:
    with ExitStack() as server:
        server.enter_context(running(ServerConfig(home, port=0)))
        assert said(home) == {}
    assert said(home) == {}
