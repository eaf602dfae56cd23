"""Items that nothing is known of are found by filters and the fallback, new ones at once; by no search."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from encoder.content import Described, RawContent
from encoder.text.cache import TextCache
from indexer.files import WITHOUT_VECTOR_FILE
from indexer.filters.filter import Filter
from indexer.index import Index
from indexer.publish import load_index
from server.live import items as live_items
from server.live.items import LiveItems
from server.query.retriever import Retriever
from server.query.snapshot import prepare
from store.artifact import MANIFEST, artifacts, build, new_id, read_manifest, set_pointer
from store.home import Home
from store.state.state import UserState
from store.store import Store
from tests.live_server import Client as Live
from tests.live_server import copy_home, server, soon
from triptych_client import Client, Item
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb

RELICS = pb.Filter(kinds=["relic"])
EMPTY_RECORD = np.zeros(0, dtype=np.int64)


def bare(item_id: str, text: str | None = None, **attributes: object) -> Item:
    return Item(item_id, None, text, "relic", attributes, available=True, updated_at=None)


@pytest.fixture(scope="module")
def live(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home = copy_home(small_home, tmp_path_factory.mktemp("bare") / "home")
    with server(home) as live:
        yield live


def fallback(client: Client, **fields: object) -> list[str]:
    reply = client.query(user_id="nobody", k=1000, **fields)  # type: ignore[arg-type]
    assert reply.fallback == pb.FALLBACK_POPULARITY
    return list(reply.item_ids)


def test_an_item_without_text_is_counted_and_found_by_filters_at_once(live: Live) -> None:
    with Client(live.address) as client:
        before = client.status()
        rows = [
            ingest.ItemRow(item_id="shard", kind="relic", attributes='{"age": 900}'),
            ingest.ItemRow(item_id="coin", kind="relic", attributes='{"age": 300}', title="  "),
            ingest.ItemRow(item_id="hidden", kind="relic", available=False),
            ingest.ItemRow(item_id="told", kind="relic", text="a bronze bowl"),
        ]
        reply = ingest_rpc.IngestStub(live.channel).PutItems(ingest.PutItemsRequest(items=rows))
        assert (reply.inserted, reply.without_text) == (4, 2)
        assert sorted(fallback(client, filter=RELICS)) == ["coin", "shard", "told"]
        old = pb.Filter(attributes=[pb.AttributeCondition(name="age", at_least=500)])
        assert fallback(client, filter=old) == ["shard"]
        assert fallback(client, filter=pb.Filter(allow=pb.ItemIds(item_ids=["coin"]))) == ["coin"]
        assert {"shard", "coin", "told"} <= set(fallback(client))
        soon(lambda: client.status().indexed_items == before.indexed_items + 1)
        status = client.status()
        assert status.items_without_vector == before.items_without_vector + 2
        found = client.query(text="a bronze bowl", k=1000).item_ids
        assert "told" in found
        assert not {"shard", "coin"} & set(found)
        assert client.query(text="a bronze bowl", k=9, filter=RELICS).item_ids == ["told"]
        assert client.query(text="a bronze bowl", k=9, filter=RELICS, exact=True).item_ids == ["told"]
        assert client.query(user_id="nobody", k=2, filter=RELICS, diversity=0.5).item_ids
        assert client.query(item_id="shard", k=3).fallback == pb.FALLBACK_POPULARITY
        client.put_items([bare("shard", "a shard of a bronze bowl", age=900)])
        soon(lambda: "shard" in client.query(text="a bronze bowl", k=1000).item_ids)
        assert sorted(fallback(client, filter=RELICS)) == ["coin", "shard", "told"]
        assert client.status().items_without_vector == status.items_without_vector - 1
        client.put_items([bare("shard", age=900)])  # emptied
        soon(lambda: "shard" not in client.query(text="a bronze bowl", k=1000).item_ids)
        assert fallback(client, filter=old) == ["shard"]
        client.delete_items(["shard", "coin", "told"])
        assert fallback(client, filter=RELICS) == []
        assert client.status().items_without_vector == before.items_without_vector


def test_a_new_item_is_in_filters_and_the_fallback_before_it_is_encoded(
    small_home: Home, tmp_path: Path
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(home.database))
        state = stack.enter_context(UserState.open(home.state))
        cache = stack.enter_context(closing(TextCache.open(home.text_cache)))
        pair = load_index(home, home.current_index.read_text().strip())
        serving = prepare(home, pair, store, state, cache, 1)
        live = stack.enter_context(LiveItems(store, Retriever(store, state, serving)))
        gate = Event()
        live._submit(lambda: gate.wait() and None)  # encoding does not begin
        known = serving.index.item_ids(np.array([0]))[0]
        vector = serving.index.vectors_of(np.array([0])).copy()
        live.committed([([bare("new", "a bronze bowl"), bare(known, "a bronze bowl")], [])])
        index, wanted = serving.index, Filter(kinds=("relic",))
        assert index.item_ids(index.popular(9, EMPTY_RECORD, wanted)) == ["new"]
        assert "new" in index.item_ids(index.popular(1_000, EMPTY_RECORD))
        assert (index.vectors_of(index.rows([known])) == vector).all()  # found by its old text meanwhile
        assert index.without_vector == 1
        gate.set()
        soon(lambda: index.without_vector == 0)
        assert sorted(index.item_ids(index.popular(9, EMPTY_RECORD, wanted))) == sorted(["new", known])
        live.committed([([], ["new"])])
        assert index.item_ids(index.popular(9, EMPTY_RECORD, wanted)) == [known]


def test_an_untouched_item_is_encoded_from_its_attributes_and_anew_when_they_change(
    small_home: Home, tmp_path: Path
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(home.database))
        state = stack.enter_context(UserState.open(home.state))
        cache = stack.enter_context(closing(TextCache.open(home.text_cache)))
        serving = prepare(
            home, load_index(home, home.current_index.read_text().strip()), store, state, cache, 1
        )
        live = stack.enter_context(LiveItems(store, Retriever(store, state, serving)))
        index, model = serving.index, serving.model

        def vector_of(topic: str) -> np.ndarray:
            live.committed([([bare("new", topic=topic)], [])])
            raw = RawContent(
                [""],
                np.zeros((1, model.text_dim), np.float32),
                Described(["relic"], [{"topic": topic}]),
                np.zeros((1, 0), np.float32),
            )
            none, content = np.zeros((1, model.dim), np.float32), model.content_encoder.encode(raw)
            wanted = model.encode_items(none, content)
            soon(lambda: np.allclose(index.vectors_of(index.rows(["new"])), wanted, atol=1e-6))
            return wanted

        first, second = vector_of("astronomy"), vector_of("cooking")
        assert first.any()
        assert np.abs(first - second).max() > 0.01 * np.abs(first).max()
        assert not vector_of("of another world").any()
        assert index.without_vector == 1


def test_a_batch_that_cannot_be_encoded_does_not_stop_those_behind_it(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with (
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        pair = load_index(home, home.current_index.read_text().strip())
        serving = prepare(home, pair, store, state, cache, 1)
        encode = type(serving.encoder).encode_chunks

        def fails_on_some(self: object, chunks: Iterator[list[str]]) -> object:
            parts = list(chunks)
            if any("cursed" in text for part in parts for text in part):
                raise RuntimeError("no memory")
            return encode(self, iter(parts))  # type: ignore[arg-type]

        monkeypatch.setattr(type(serving.encoder), "encode_chunks", fails_on_some)
        with LiveItems(store, Retriever(store, state, serving)) as live:
            live.committed(
                [([bare(f"r{n}", f"cursed bowl {n}" if n < 16 else f"bowl {n}") for n in range(40)], [])]
            )
            soon(lambda: not live._pending)
        rows = serving.index.rows([f"r{n}" for n in range(40)])
        assert (rows >= 0).all()
        assert serving.index.vectors_of(rows).any(axis=1).tolist() == [n >= 16 for n in range(40)]


def test_a_reindex_keeps_them(
    small_home: Home, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    before = len(Index.load(home.indexes / artifacts(home.indexes)[-1]))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "items.csv").write_text(
        "item_id,kind,text\nshard,relic,\ncoin,relic,\nbowl,relic,a bronze bowl\n"
    )
    code, said, _ = run("import", folder, "--home", home.path)
    assert code == 0
    assert "items: 2 with neither title nor text" in " ".join(said.split())
    for options, names in ((["--full"], {"shard", "coin", "bowl"}), ([], {"coin", "bowl"})):
        code, _, _ = run("reindex", "--home", home.path, *options)
        assert code == 0
        index = Index.load(home.indexes / artifacts(home.indexes)[-1])
        assert set(index.item_ids(index.popular(9, EMPTY_RECORD, Filter(kinds=("relic",))))) == names
        assert (index.without_vector, len(index)) == (len(names) - 1, before + 1)
        assert (index.manifest["items_without_vector"], index.manifest["items_left_out"]) == (
            len(names) - 1,
            0,
        )
        with Store.open(home.database) as store, store.writing() as cursor:
            cursor.execute("UPDATE data.items SET available = false WHERE item_id = 'shard'")
    code, said, _ = run("doctor", "--home", home.path)
    assert code == 0
    assert "items and 1 without a vector" in " ".join(said.replace("│", "").split())


def test_an_index_from_before_such_items_were_kept_finds_them_once_it_serves(
    small_home: Home, tmp_path: Path
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    source = home.indexes / home.current_index.read_text().strip()
    with Store.open(home.database) as store, store.writing() as cursor:
        cursor.execute("INSERT INTO data.items BY NAME SELECT 'shard' AS item_id, 'relic' AS kind")
    with build(home.indexes, new_id()) as draft:
        shutil.copytree(source, draft.path, dirs_exist_ok=True)
        draft.facts = read_manifest(source)
        for name in (MANIFEST, WITHOUT_VECTOR_FILE, f"users/{WITHOUT_VECTOR_FILE}"):
            (draft.path / name).unlink()
        del draft.facts["files"]
    set_pointer(home.current_index, artifacts(home.indexes)[-1])
    with server(home) as live, Client(live.address) as client:
        assert fallback(client, filter=RELICS) == ["shard"]
        assert "Traceback" not in live.log.read_text()


def test_many_changes_are_warned_of_once_for_each_index(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_items, "_BEFORE_SERVING", 1)
    monkeypatch.setattr(live_items, "DELTA_SHARE", 0.0)
    home = copy_home(small_home, tmp_path / "home")
    with (
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        pair = load_index(home, home.current_index.read_text().strip())
        serving = prepare(home, pair, store, state, cache, 1)
        with LiveItems(store, Retriever(store, state, serving)) as live:
            live.committed([([bare(f"r{n}", f"bowl {n}") for n in range(40)], [])])
            soon(lambda: not live._pending)
    assert caplog.text.count("many items changed since the last reindex") == 1
