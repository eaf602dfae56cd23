"""Makes the small home that tests/golden/home-1.tar.xz stores, and the replies to queries in home-1.json.

    python -m tests.stored_home tests/golden/home-2             # makes both files of a second one
    python -m tests.stored_home tests/golden/home-1 --replies   # writes its replies anew

A stored home stands for the homes on the disks of users: it was made once, by the code of its day. When a
layout changes it stays as it is, and test_stored_home.py opens it with the code that reads or migrates it;
the new code makes a second one, stored beside it. Replies are written anew only where a change is intended.

Its text model is a tiny one of random weights, whole in the archive: the default one is too large for it.
"""

import contextlib
import json
import shutil
import sys
import tarfile
import tempfile
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format

from encoder.fit import TrainOptions
from encoder.learned.config import LearnConfig
from encoder.runtime import Model
from encoder.text.cache import TextCache
from encoder.text.encoder import TextEncoder
from encoder.text.export import export_text_model
from encoder.train import train
from indexer.publish import prune, publish
from indexer.reindex import IndexSpec, reindex
from store.artifact import read_manifest, read_pointer
from store.export import Export, create_export
from store.home import Home
from store.imports.run import import_folder
from store.store import Store
from tests.live_server import Client, server
from triptych_client import Behavior, Consent, Item, Text
from triptych_client import Client as TypedClient
from triptych_client.pb.v1 import triptych_pb2 as pb

TOPICS = {
    "sea": ["harbour", "lighthouse", "sailing", "tide", "anchor", "gulls", "storm", "captain"],
    "kitchen": ["bread", "oven", "butter", "spice", "soup", "knife", "recipe", "pepper"],
    "sky": ["telescope", "galaxy", "comet", "planet", "orbit", "eclipse", "meteor", "moon"],
    "garden": ["roses", "compost", "orchard", "seeds", "spade", "tulips", "hedge", "bees"],
}
GLUE = ["a", "about", "and", "of", "on", "the", "with"]
USERS, ITEMS = 168, 60  # so many that a learned block can be judged
_BEGINNING = datetime(2024, 1, 1)


def make_home(path: Path) -> Home:
    """Make a home of today's layouts: imported, trained, indexed, changed while it served, indexed again."""
    home = Home(path)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # no absolute path is stored
        _write_tables(Path("tables"))
        _write_text_model(Path("tiny-words"))
        text_model = export_text_model("tiny-words", home.text_models, pooling="mean")
        with Store.open(home.database) as store:
            import_folder(store, Path("tables"), rejects=home.rejects, strict=False)
    _train(home, text_model)
    # Before anything is indexed: after an erasure the next reindex builds the index of users anew.
    with server(home) as client:
        with TypedClient(client.address) as typed:
            typed.erase_user("u10")
        stop(client)
    index(home)
    with server(home) as client:
        _change(client)
        stop(client)
    index(home)
    prune(home, keep=1)
    shutil.rmtree(home.training, ignore_errors=True)
    return home


def replies(client: Client) -> list[dict[str, Any]]:
    """Return every query with its reply, as protobuf writes JSON, without ids and times of the call."""
    answered = []
    dim = read_manifest(read_pointer(client.home.latest_model, client.home.models))["dim"]
    for name, query in queries(dim).items():
        reply = client.retrieval.Query(query, timeout=60)
        for field in ("query_id", "timings", "index_id", "model_id"):
            reply.ClearField(field)
        words = [json_format.MessageToDict(one, preserving_proto_field_name=True) for one in (query, reply)]
        answered.append({"name": name, "query": words[0], "reply": words[1]})
    return answered


def queries(dim: int) -> dict[str, pb.QueryRequest]:
    """Return the queries of the golden replies by name, one or more of each kind; `dim` is the model's."""
    views = pb.Views(
        events=[pb.Event(item_id="sea-03"), pb.Event(item_id="sky-06", action="like", weight=2)],
        texts=["a storm and the lighthouse"],
        friends=[pb.Friend(friend_id="u05")],
    )
    bright = pb.AttributeCondition(name="maker.country", any_of=[pb.AttributeValue(text="Norway")])
    late = pb.AttributeCondition(name="year", at_least=1990, at_most=2010)
    number = np.linspace(-1, 1, dim).tolist()
    return {
        "stored user": pb.QueryRequest(user_id="u01", k=10),
        "one view only": pb.QueryRequest(user_id=f"u{USERS - 1}", k=10),
        "user of a text that came while serving": pb.QueryRequest(user_id="u-new", k=10),
        "anonymous views": pb.QueryRequest(views=views, k=10),
        "item": pb.QueryRequest(item_id="kitchen-04", k=10),
        "item put while serving": pb.QueryRequest(item_id="sea-new", k=10),
        "text": pb.QueryRequest(text="bread and butter with soup", k=10),
        "vector": pb.QueryRequest(vector=pb.Vector(values=number), k=10),
        "filter": pb.QueryRequest(
            user_id="u02", k=20, filter=pb.Filter(kinds=["book"], attributes=[bright, late])
        ),
        "weights": pb.QueryRequest(
            user_id="u05", k=10, view_weights=pb.ViewWeights(history=0.5, text=2, social=1)
        ),
        "seen items, least score": pb.QueryRequest(user_id="u04", k=30, exclude_seen=False, min_score=0.05),
        "text beside a user": pb.QueryRequest(
            user_id="u41", k=10, text_query="the comet and the moon", text_query_weight=0.6
        ),
        "diversity": pb.QueryRequest(user_id="u07", k=5, diversity=0.7),
        "explain": pb.QueryRequest(user_id="u08", k=5, explain=True),
        "similar users": pb.QueryRequest(user_id="u11", k=10, target=pb.TARGET_USERS),
        "audience": pb.QueryRequest(text="seeds and roses", k=10, target=pb.TARGET_USERS),
        "nobody": pb.QueryRequest(user_id="u-nobody", k=10),
        "erased": pb.QueryRequest(user_id="u10", k=10),
        "a view that is not used": pb.QueryRequest(user_id="u14", k=10),
        "similar users of one who shares no history": pb.QueryRequest(
            user_id="u01", k=10, target=pb.TARGET_USERS
        ),
    }


def _write_tables(folder: Path) -> None:
    """Write the four tables as JSON lines, with every column and one row that is refused."""
    rng = np.random.default_rng(11)
    names = list(TOPICS)
    items, behaviors, texts, social = [], [], [], []
    for n in range(ITEMS):
        topic = names[n % len(names)]
        title, text = _words(rng, topic, 2), _words(rng, topic, 6)
        attributes = {
            "year": 1980 + n % 45,
            "maker": {"country": ["Norway", "Chile", "Japan"][n % 3]},
            "tags": [topic, ["new", "used"][n % 2]],
            "signed": n % 5 == 0,
        }
        items.append({
            "item_id": f"{topic}-{n // len(names):02}", "title": title, "text": text if n % 7 else None,
            "kind": ["book", "film"][n % 2], "attributes": attributes, "available": n != 17,
            "updated_at": _time(n),
        })  # fmt: skip
    for u in range(USERS):
        user_id, topic = f"u{u:02}", names[u % len(names)]
        for e in range(0 if u >= USERS - 4 else 4 + u % 9):
            liked = topic if rng.random() < 0.8 else names[int(rng.integers(len(names)))]
            behaviors.append({
                "user_id": user_id, "item_id": f"{liked}-{int(rng.integers(ITEMS // len(names))):02}",
                "action": ["interact", "like"][e % 2], "weight": 1 + e % 3, "ts": _time(100 * u + e),
                "split": ["train", None, "valid", "test"][e % 4 if u % 3 == 0 else 0],
            })  # fmt: skip
        for t in range(u % 3 or u >= USERS - 4):
            own = f"{topic}-{u % 15:02}" if t else None
            texts.append({"user_id": user_id, "text": _words(rng, topic, 5), "item_id": own, "ts": _time(u)})
        for f in range(1, u % 4):
            friend = (u + f * len(names)) % USERS
            social.append({
                "user_id": user_id, "friend_id": f"u{friend:02}", "relation": ["friend", "follows"][f % 2],
                "weight": f, "ts": _time(u),
            })  # fmt: skip
    behaviors.append({"user_id": "u00", "item_id": "sea-00", "weight": -1})
    folder.mkdir()
    tables = {"items": items, "behaviors": behaviors, "texts": texts, "social": social}
    for name, rows in tables.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")


def _words(rng: np.random.Generator, topic: str, count: int) -> str:
    words = rng.choice(TOPICS[topic], count, replace=False).tolist()
    return " ".join(
        word for pair in zip(rng.choice(GLUE, count).tolist(), words, strict=True) for word in pair
    )


def _time(minutes: int) -> str:
    return (_BEGINNING + timedelta(minutes=minutes)).isoformat()


def _write_text_model(folder: Path) -> None:
    """Write a transformer of 16 coordinates with random weights, which tells words apart and no more."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(3)
    words = [*GLUE, *(word for topic in TOPICS.values() for word in topic)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained("parts")
    BertTokenizer(vocab={word: row for row, word in enumerate(vocabulary)}).save_pretrained("parts")
    modules = [Transformer("parts", max_seq_length=32), Pooling(16, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))


def _train(home: Home, text_model: Path) -> None:
    with Store.open(home.database) as store:
        export_id = create_export(store, home.exports)
    learned = LearnConfig(dim=8, epochs=60, members=1, learning_rate=0.01)
    options = TrainOptions(dims=(8,), learn=learned, max_dim=64)
    with (
        Export.open(home.exports / export_id) as export,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        train(home, export, TextEncoder.load(text_model), cache, options)


def index(home: Home, *, full: bool = False) -> Path:
    """Build and publish an index of the store, and return its directory."""
    # Of so few items this recall takes every list, so that all processors find the same.
    spec = IndexSpec(factory="IVF4,SQ8", ann_recall=1.0, full=full)
    model = read_pointer(home.latest_model, home.models)
    text_model = home.text_models / Model.load(model).text_model_id
    with Store.open(home.database) as store:
        export_id = create_export(store, home.exports)
    with (
        Export.open(home.exports / export_id) as export,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        made = reindex(home, export, Model.load(model), TextEncoder.load(text_model), cache, spec)
    publish(home, made.name)
    return made


def _change(client: Client) -> None:
    """Write rows of every kind through a running server, and delete an item."""
    with TypedClient(client.address) as typed:
        made = datetime(2024, 6, 1)
        facts = {"year": 2001, "maker": {"country": "Norway"}}
        new = Item("sea-new", "the new harbour", "gulls and a storm", "book", facts, True, made)
        changed = Item("sky-02", "a comet", "the moon and the orbit of a planet", "film", {}, True, None)
        typed.put_items([new, changed], request_id="items-1")
        typed.delete_items(["garden-05"], request_id="items-2")
        typed.append_behaviors([Behavior("u01", "sea-new", ts=made)], request_id="events-1")
        typed.append_texts([Text("u-new", "spice and pepper on the knife")], request_id="texts-1")
        kept_back = [Consent("u14", "H", use=False), Consent("u01", "H", share=False)]
        typed.set_consent(kept_back, request_id="consents-1")


def stop(client: Client) -> None:
    """End a server the clean way, and remove its log."""
    client.process.terminate()
    if client.process.wait(60):
        raise RuntimeError(client.log.read_text("utf-8"))
    client.log.unlink()


def unpack(stored: Path, path: Path) -> Home:
    """Unpack the home in an archive, and return it."""
    with tarfile.open(stored.with_suffix(".tar.xz")) as archive:
        archive.extractall(path, filter="data")
    return Home(path)


def _pack(home: Home, stored: Path) -> None:
    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if Path(entry.name).name in ("lock.mdb", "server.json"):  # of processes that have ended
            return None
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(stored.with_suffix(".tar.xz"), "x:xz", preset=9) as archive:
        archive.add(home.path, ".", filter=plain)


def main(stored: Path, *, only_replies: bool) -> None:
    """Make and store a home and its replies, or the replies of the stored one alone."""
    with tempfile.TemporaryDirectory() as folder:
        if not only_replies:
            _pack(make_home(Path(folder) / "made"), stored)
        with server(unpack(stored, Path(folder) / "copy")) as client:
            golden = json.dumps(replies(client), indent=1) + "\n"
    stored.with_suffix(".json").write_text(golden, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), only_replies="--replies" in sys.argv[2:])
