"""Homes that earlier code made are read by the code of today, and answer as they did."""

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format

from indexer.publish import load_index
from indexer.search.ann import FilterPolicy, SearchParams
from store.artifact import read_manifest, read_pointer
from store.export import Export
from store.home import Home
from store.imports.run import import_folder
from store.store import Store
from tests.live_server import server
from tests.stored_home import index, unpack
from triptych_client import Client
from triptych_client.pb.v1 import triptych_pb2 as pb

GOLDEN = Path(__file__).parent / "golden"
STORED = GOLDEN / "home-1"
EVERY = sorted(path.with_suffix("").with_suffix("") for path in GOLDEN.glob("home-*.tar.xz"))  # one a layout
# Of the largest score of a reply: far above what the last bits of a processor do, far below what a bug does.
TOLERANCE = 1e-3
SHARES = ("history_shares", "text_shares", "social_shares", "query_shares", "prior_shares")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return unpack(STORED, tmp_path / "home")


def as_it_lies(home: Home) -> None:
    pass


def with_state_made_anew(home: Home) -> None:
    shutil.rmtree(home.state)
    shutil.rmtree(home.text_cache)


def with_index_carried_on(home: Home) -> None:
    first = index(home)
    manifest = read_manifest(index(home))
    assert manifest["base"] == first.name


def with_index_made_anew(home: Home) -> None:
    manifest = read_manifest(index(home, full=True))
    assert "base" not in manifest
    assert (manifest["changes"], manifest["users"]["changes"]) == (0, 0)


@pytest.mark.parametrize("stored", EVERY, ids=[path.name for path in EVERY])
@pytest.mark.parametrize(
    "made", [as_it_lies, with_state_made_anew, with_index_carried_on, with_index_made_anew]
)
def test_a_stored_home_answers_as_it_did(tmp_path: Path, made: Callable[[Home], None], stored: Path) -> None:
    home = unpack(stored, tmp_path / "home")
    made(home)
    golden = json.loads(stored.with_suffix(".json").read_text("utf-8"))
    with server(home) as client:
        for one in golden:
            found = client.retrieval.Query(json_format.ParseDict(one["query"], pb.QueryRequest()), timeout=60)
            wanted = json_format.ParseDict(one["reply"], pb.QueryResponse())
            if made in (with_index_carried_on, with_index_made_anew):
                wanted.exact = found.exact  # another kind of index may be what reaches the asked ANN recall
            agree(one["name"], one["query"], found, wanted)


def test_the_parts_of_a_stored_home_are_read(home: Home, run: Callable[..., tuple[int, str, str]]) -> None:
    with Store.open(home.database) as store:
        counts = store.counts()
        views = store.user_views("u01")
        assert store.item("sea-new").vector is None  # migrated from schema version 2
    assert counts.items() >= {"items": 61, "behaviors": 344, "texts": 49, "social": 34, "users": 48}.items()
    assert views.history[-1].item_id == "sea-new"
    first = sorted(path.name for path in home.exports.iterdir())[0]
    with Export.open(home.exports / first) as export:
        users = export.users().to_pylist()
        older = export.items().column("vector")  # of schema version 2
        assert (len(export.impressions()), older.null_count) == (0, len(older))
    assert "u10" not in users  # erased since
    assert {"u09", "u11"} <= set(users)
    pair = load_index(home, read_pointer(home.current_index, home.indexes).name)
    assert pair.users is not None
    assert (len(pair.index), len(pair.users), pair.model.dim) == (59, 48, 17)
    assert pair.index.approximate is not None
    assert pair.index.approximate.search_params == SearchParams(nprobe=4, refine=2, least=20)
    assert pair.index.policy == FilterPolicy(scan_share=0.9)
    code, out, err = run("doctor", "--home", home.path)
    assert code == 0, out + err
    # Whole: what vectors and filters are made from has changed since.
    assert "base" not in read_manifest(index(home))


def test_names_in_files_stay(home: Home, small_home: Home, tmp_path: Path) -> None:
    """What a stored home calls its keys, columns, tensors and inputs is what today's code writes."""
    stored = names_in(home)
    shutil.rmtree(home.rejects)
    before = {path.name for folder in (home.exports, home.indexes) for path in folder.iterdir()}
    (tmp_path / "more").mkdir()
    row = {"user_id": "u02", "item_id": "sky-03", "action": "like", "split": None}
    lines = [row | {"ts": "2024-07-01T00:00:00"}, row | {"weight": -1}]
    (tmp_path / "more" / "behaviors.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    with Store.open(home.database) as store:
        import_folder(store, tmp_path / "more", rejects=home.rejects, strict=False)
    index(home)
    index(home)  # the first after a change of what is indexed has no base
    home.audit_log.unlink()
    with server(home) as client, Client(client.address) as typed:
        typed.erase_user("u12")
    today = names_in(home, but={*before, "models", "text_models"})
    for role, names in names_in(small_home).items():
        today.setdefault(role, set()).update(names)
    renamed = {role: names - today.get(role, set()) for role, names in stored.items()}
    assert not {role: names for role, names in renamed.items() if names}


def agree(name: str, query: dict[str, object], found: pb.QueryResponse, wanted: pb.QueryResponse) -> None:
    """Fail where a reply is another than the one that is stored, by more than processors differ."""
    for field in ("views_used", "fallback", "exact"):
        assert getattr(found, field) == getattr(wanted, field), (name, field)
    got, due = results(found), results(wanted)
    scores = np.array([one["score"] for one in due.values()])
    margin = TOLERANCE * float(np.abs(scores).max())
    # Below this, who is in the reply depends on the last bits.
    full = len(due) == query["k"]
    least = max(scores[-1] if full and "diversity" not in query else -np.inf, query.get("min_score", -np.inf))
    assert len(got) == len(due) or "min_score" in query, name
    for key in due.keys() | got.keys():
        if key not in got or key not in due:
            score = (got.get(key) or due[key])["score"]
            assert abs(score - least) <= 2 * margin, f"{name}: {key} with score {score} is in one reply only"
        else:
            assert got[key] == pytest.approx(due[key], rel=0, abs=margin), f"{name}: {key}"
    if "diversity" in query:
        assert list(got) == list(due), name
    else:
        order = np.array([due[key]["score"] for key in got if key in due])
        assert (np.diff(order) <= 2 * margin).all(), f"{name}: {list(got)} is out of order"


def results(reply: pb.QueryResponse) -> dict[str, dict[str, float]]:
    """The numbers of each result, by its id and in their order."""
    ids = list(reply.item_ids) or list(reply.user_ids)
    found: dict[str, dict[str, float]] = {key: {"score": reply.scores[i]} for i, key in enumerate(ids)}
    for field in SHARES:
        for key, share in zip(ids, getattr(reply, field) or [0.0] * len(ids), strict=True):
            found[key][field] = share
    for key, explanation in zip(ids, reply.explanations, strict=bool(reply.explanations)):
        for kind in ("events", "texts", "friends"):
            found[key] |= {f"{kind} {one.name}": one.value for one in getattr(explanation, kind)}
    return found


def names_in(home: Home, but: Iterable[str] = ()) -> dict[str, set[str]]:
    """Every name in the files of a home that a program looks for, by the place of the file."""
    found: dict[str, set[str]] = {}
    for path in home.path.rglob("*"):
        place = path.relative_to(home.path)
        if path.is_file() and not set(place.parts) & set(but):
            role = re.sub(r"^(exports|indexes|models|rejects|text_models)/[^/]+/", r"\1/*/", place.as_posix())
            found.setdefault(role, set()).update(names_in_file(path))
    return {role: names for role, names in found.items() if names}


def names_in_file(path: Path) -> set[str]:
    """The names in one file; none in a kind of file that has none of ours."""
    names: set[str] = set()
    if path.suffix in (".json", ".jsonl") and path.name != "tokenizer.json":  # that one is the library's
        text = path.read_text("utf-8")
        for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
            names |= keys(json.loads(part))
    elif path.suffix == ".parquet":
        names = {f"{field.name} {field.type}" for field in pq.read_schema(path)}
    elif path.suffix == ".arrow":
        with pa.memory_map(str(path)) as source:
            names = {f"{field.name} {field.type}" for field in pa.ipc.open_file(source).schema}
    elif path.suffix == ".safetensors":
        raw = path.read_bytes()
        entries = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        names = {f"{name} {entry['dtype']}" for name, entry in entries.items() if name != "__metadata__"}
    elif path.suffix == ".onnx":
        graph = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        ends = (*graph.get_inputs(), *graph.get_outputs())
        names = {*(f"{end.name} {end.type}" for end in ends), *graph.get_modelmeta().custom_metadata_map}
    return names


def keys(value: object, path: str = "") -> set[str]:
    """The paths of all keys in JSON; numbers as keys, and what is in a list, are one."""
    match value:
        case dict():
            parts = [(re.sub(r"^[\d.]+$", "#", key), inner) for key, inner in value.items()]
            return {f"{path}/{key}" for key, _ in parts}.union(
                *(keys(inner, f"{path}/{key}") for key, inner in parts)
            )
        case list():
            return set().union(*(keys(inner, f"{path}[]") for inner in value))
    return set()
