"""`triptych evaluate`: the report's keys and figures, against a recomputation that shares no code with it."""

import functools
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from encoder.config import VIEWS, TowerConfig
from encoder.content import ContentEncoder, Described, RawContent
from encoder.dataset import load_dataset
from encoder.fit import TrainOptions
from encoder.left_out import LeftOutShares
from encoder.runtime import Model
from encoder.text.cache import TextCache
from encoder.text.encoder import TextEncoder, item_text
from encoder.tower import dataset_views
from encoder.train import train
from indexer.publish import LoadedIndex, current_index, load_index, publish
from indexer.reindex import reindex
from scripts import cli
from scripts.evaluate.page import page_html
from scripts.evaluate.protocol import Evaluator, NothingHeldOutError, NothingToFindError
from scripts.evaluate.report import evaluate
from scripts.evaluate.tables import print_tables
from store.artifact import artifacts, verify
from store.export import Export, create_export
from store.home import Home
from store.imports.run import import_folder
from store.reports import read_report
from store.store import Store
from tests.live_server import copy_home

GOLDEN = Path(__file__).parents[2] / "golden" / "evaluate_small.json"
DESIGN_KEYS = [
    "dataset", "split", "model_id", "index_id", "users", "k", "by_view",
    "cold_users", "matching_degree", "baselines", "seconds",
]  # fmt: skip
OWN_KEYS = [
    "views", "views_in_data", "unseen_users", "new_items", "by_history", "by_texts", "by_friends", "cut",
]  # fmt: skip
FIGURES = {"recall", "recall_ci95", "ndcg", "ndcg_ci95", "mrr", "mrr_ci95", "coverage"}
SUBSETS = ["H", "T", "S", "HT", "HS", "TS", "HTS"]


def current(home: Home) -> LoadedIndex:
    return load_index(home, current_index(home).name)


def report_of(
    home: Home, split: str = "test", views: tuple[str, ...] = VIEWS, **options: bool
) -> dict[str, Any]:
    return evaluate(home, current(home), split, views, **{"baselines": False, "exact": False} | options)


@pytest.fixture(scope="module")
def small_report(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report that the command line writes for the small world, baselines included."""
    home = copy_home(small_home, tmp_path_factory.mktemp("evaluated") / "home")
    path = home.path / "out.json"
    with pytest.MonkeyPatch.context() as patch:
        said = ["triptych", "evaluate", "--home", str(home.path), "--json", str(path), "--baselines"]
        patch.setattr("sys.argv", said)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 0
    report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    (kept,) = artifacts(home.reports)
    assert verify(home.reports / kept)["index_id"] == report["index_id"]
    assert json.loads(read_report(home, kept)) == report
    assert (home.reports / kept / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    return report


@pytest.fixture(scope="module")
def variant(
    small_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[str, pa.Table], pa.Table | None], TrainOptions], Home]:
    """Makes a home of the small world with some tables changed or left out, trained and published."""

    def make(name: str, change: Callable[[str, pa.Table], pa.Table | None], options: TrainOptions) -> Home:
        folder = tmp_path_factory.mktemp(name)
        home = Home(folder / "home")
        (folder / "world").mkdir()
        for file in (small_home.path.parent / "world").glob("*.parquet"):
            table = change(file.stem, pq.read_table(file))
            if table is not None:
                pq.write_table(table, folder / "world" / file.name)
        shutil.copytree(small_home.text_models, home.text_models, copy_function=_copy)
        with Store.open(home.database) as store:
            import_folder(store, folder / "world", rejects=home.rejects, strict=True)
            export_id = create_export(store, home.exports)
        encoder = TextEncoder.load(home.text_models / current(small_home).model.text_model_id)
        with (
            closing(TextCache.open(home.text_cache)) as cache,
            Export.open(home.exports / export_id) as export,
        ):
            model = Model.load(train(home, export, encoder, cache, options))
            publish(home, reindex(home, export, model, encoder, cache).name)
        return home

    return make


def _copy(source: str, target: str) -> None:
    (shutil.copy2 if source.endswith(".mdb") else os.link)(source, target)


def quick(**options: Any) -> TrainOptions:
    return TrainOptions(base=TowerConfig(dim=16), search=False, **options)


# The recomputation: Parquet, the two ONNX graphs and the text model's vectors, plain numpy for all the rest.


def unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def newest_share(
    behaviors: list[dict[str, Any]], user_row: dict[str, int], item_row: dict[str, int], half_life: float
) -> np.ndarray:
    """2^(−n/h) for each pair, n = the user's events that are newer than the newest event of the pair."""
    visible = [one for one in behaviors if one["split"] in (None, "train")]
    times: dict[str, list[float]] = {}
    for one in visible:
        times.setdefault(one["user_id"], []).append(one["ts"].timestamp() if one["ts"] else -np.inf)
    share = np.zeros((len(user_row), len(item_row)))
    for one in visible:
        own = one["ts"].timestamp() if one["ts"] else -np.inf
        newer = sum(other > own for other in times[one["user_id"]])
        place = user_row[one["user_id"]], item_row[one["item_id"]]
        share[place] = max(share[place], 0.5 ** (newer / half_life))
    return share


@functools.cache
def raw_arrays(home: Home) -> dict[str, Any]:
    """The raw views of all users, what is seen and what is to be found, and the item vectors."""
    index_manifest = json.loads((current_index(home) / "manifest.json").read_text())
    folder = home.models / index_manifest["model_id"]
    config = json.loads((folder / "config.json").read_text())
    assert not config["actions"]
    export = home.exports / json.loads((folder / "manifest.json").read_text())["export_id"]
    behaviors, texts, social, items = (
        pq.read_table(export / f"{name}.parquet").to_pylist()
        for name in ("behaviors", "texts", "social", "items")
    )
    item_row = {one["item_id"]: row for row, one in enumerate(sorted(items, key=lambda one: one["item_id"]))}
    names = {row["user_id"] for row in behaviors + texts + social} | {row["friend_id"] for row in social}
    user_row = {user: row for row, user in enumerate(sorted(names))}
    shape = (len(user_row), len(item_row))

    counts, seen, target = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, bool)
    for one in behaviors:
        place = user_row[one["user_id"]], item_row[one["item_id"]]
        if one["split"] in (None, "train"):
            counts[place] += one["weight"]
        (target if one["split"] == "test" else seen)[place] = True
    target &= ~seen
    ties = np.zeros((len(user_row), len(user_row)))
    for one in social:
        ties[user_row[one["user_id"]], user_row[one["friend_id"]]] += one["weight"]

    encoder = TextEncoder.load(home.text_models / index_manifest["text_model_id"])
    held = {(one["user_id"], one["item_id"]) for one in behaviors if one["split"] in ("valid", "test")}
    visible = [one for one in texts if (one["user_id"], one["item_id"]) not in held]
    text = np.zeros((len(user_row), encoder.dim))
    with closing(TextCache.open(home.text_cache)) as cache:
        about_texts = [item_text(one["title"], one["text"]) for one in items]  # items lie in order
        written = [one["text"] for one in visible]
        written_vectors, all_there = cache.get(encoder.text_model_id, written, encoder.dim)
        about, all_about_there = cache.get(encoder.text_model_id, about_texts, encoder.dim)
        assert all_there.all()
        assert all_about_there.all()
    for one, vector in zip(visible, written_vectors, strict=True):
        text[user_row[one["user_id"]]] += vector

    tables = load_file(folder / "item_tables.safetensors")
    strength = (counts > 0).astype(float) if config["weighting"] == "binary" else np.log1p(counts)
    if config["half_life"]:
        strength *= newest_share(behaviors, user_row, item_row, config["half_life"])
    edges = np.cumsum(tables["widths"])[:-1]
    pooled = np.hstack([unit(block) for block in np.split(strength @ tables["table"], edges, axis=1)])
    friends = np.hstack([unit(block) for block in np.split(np.log1p(ties) @ pooled, edges, axis=1)])
    raw = {"history": pooled, "text": unit(text), "social": friends}
    wrote = np.zeros(len(user_row))
    np.add.at(wrote, [user_row[one["user_id"]] for one in visible], 1)
    amounts = np.log1p(np.stack([(counts > 0).sum(axis=1), wrote, (ties > 0).sum(axis=1)], axis=1))
    described = Described([one["kind"] for one in items], [json.loads(one["attributes"]) for one in items])
    content = ContentEncoder.from_json(json.loads((folder / "content.json").read_text("utf-8")))
    known = content.encode(RawContent(about_texts, about, described, np.zeros((len(items), 0)))).inputs()
    session = onnxruntime.InferenceSession(folder / "item_tower.onnx")
    item_feeds = {one.name: known[one.name] for one in session.get_inputs() if one.name in known}
    item_feeds |= {
        "id_vector": tables["id_vectors"],
        "pattern": np.array([3]),
    }  # all have text and attributes
    (vectors,) = session.run(["vectors"], item_feeds)
    return {
        "graph": folder / "user_tower.onnx",
        "raw": {name: array.astype(np.float32) for name, array in raw.items()},
        "amounts": amounts.astype(np.float32),
        "popularity": (counts > 0).sum(axis=0),
        "seen": seen,
        "target": target,
        "items": vectors.astype(np.float64),
    }


def recomputed_recall(home: Home, views: str) -> tuple[float, int]:
    """Mean recall@20 on test over users with a target, by brute force, and how many users that is."""
    data = raw_arrays(home)
    asked = np.array([view in views for view in "HTS"], dtype=np.float32)
    feeds = data["raw"] | {"amounts": data["amounts"] * asked}
    (users,) = onnxruntime.InferenceSession(data["graph"]).run(["vectors"], feeds)
    scores = users.astype(np.float64) @ data["items"].T
    scores[~users.any(axis=1)] = data["popularity"]
    scores[data["seen"]] = -np.inf
    top = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    target = data["target"]
    who = target.any(axis=1)
    hits = np.take_along_axis(target, top, axis=1).sum(axis=1)
    return float((hits[who] / target[who].sum(axis=1)).mean()), int(who.sum())


def test_the_report_has_the_keys_of_the_design(small_report: dict[str, Any]) -> None:
    assert sorted(small_report) == sorted(DESIGN_KEYS + OWN_KEYS)
    assert small_report["split"] == "test"
    assert set(small_report["k"]) == {"10", "20"}
    assert list(small_report["by_view"]) == SUBSETS
    everything = [small_report["k"], small_report["cold_users"], *small_report["by_view"].values()]
    for figures in everything:
        assert set(figures["20"]) == set(figures["10"]) == FIGURES
        for name in ("recall", "ndcg", "mrr"):
            low, high = figures["20"][f"{name}_ci95"]
            assert low < figures["20"][name] < high
    assert set(small_report["matching_degree"]) == set(VIEWS)
    assert list(small_report["baselines"]) == ["popularity", "ItemKNN", "iALS", "BPR", "EASE", "EASE + T + S"]
    assert set(small_report["seconds"]) == {"load", "rank", "views", "amounts", "baselines"}
    assert small_report["views_in_data"] == {"H": True, "T": True, "S": True}
    assert small_report["unseen_users"] is None
    whole = dict(small_report["by_view"]["HTS"])
    assert whole.pop("gain") == {name: {"mean": 0.0, "ci95": [0.0, 0.0]} for name in ("recall", "ndcg")}
    assert small_report["k"] == whole
    for figures in (*small_report["by_view"].values(), *small_report["baselines"].values()):
        for name, gain in figures["gain"].items():
            assert gain["mean"] == pytest.approx(whole["20"][name] - figures["20"][name], abs=1e-9)
            assert gain["ci95"][0] <= gain["mean"] <= gain["ci95"][1]
    assert small_report["cold_users"].items() <= small_report["by_view"]["TS"].items()


def test_without_the_library_the_other_baselines_still_run_and_it_is_said_first(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    path = tmp_path / "out.json"
    said = ["triptych", "evaluate", "--home", str(home.path), "--json", str(path), "--baselines"]
    monkeypatch.setattr("sys.argv", said)
    monkeypatch.setitem(sys.modules, "implicit", None)  # as if it were not there
    with pytest.raises(SystemExit) as ended, caplog.at_level(logging.INFO):
        cli.main()
    assert ended.value.code == 0
    lines = [record.getMessage() for record in caplog.records]
    why = "the library implicit is not installed: pip install 'triptych[bench]'"
    assert lines[0] == f"ItemKNN, iALS and BPR will be left out: {why}"
    baselines = json.loads(path.read_text("utf-8"))["baselines"]
    for name, figures in baselines.items():
        if name in ("ItemKNN", "iALS", "BPR"):
            assert figures == {"left_out": why}
        else:
            assert figures["20"]["recall"] > 0
    assert list(baselines) == ["popularity", "ItemKNN", "iALS", "BPR", "EASE", "EASE + T + S"]


@pytest.mark.parametrize("views", ["HTS", "H", "T", "S", "TS"])
def test_recall_is_what_a_recomputation_finds(
    small_home: Home, small_report: dict[str, Any], views: str
) -> None:
    expected, users = recomputed_recall(small_home, views)
    assert small_report["users"] == users
    assert small_report["by_view"][views]["20"]["recall"] == pytest.approx(expected, abs=1e-9)


def test_the_small_world_is_as_good_as_it_was(variant: Callable[..., Home]) -> None:
    # Settings are given, not searched: a near tie in the search may fall differently on another processor.
    base = TowerConfig(dim=32, damping=0.1, user_exponent=0.3, gates=(1.0, 0.2, 0.2))
    report = report_of(variant("golden", lambda _, table: table, TrainOptions(base=base, search=False)))
    golden = json.loads(GOLDEN.read_text())
    got = {name: report["by_view"][name]["20"]["recall"] for name in golden["recall@20"]}
    assert got == pytest.approx(golden["recall@20"], abs=1e-3)
    assert report["k"]["20"]["ndcg"] == pytest.approx(golden["ndcg@20"], abs=1e-3)


def test_exact_ranks_what_a_flat_index_ranks(small_home: Home, small_report: dict[str, Any]) -> None:
    exact = report_of(small_home, exact=True)
    for name in ("k", "by_view", "cold_users", "matching_degree", "users"):
        assert exact[name] == small_report[name]


def test_views_narrow_the_main_figures_only(small_home: Home, small_report: dict[str, Any]) -> None:
    narrow = report_of(small_home, views=("T",))
    alone = {k: small_report["by_view"]["T"][k] for k in ("10", "20")}
    assert (narrow["views"], narrow["k"]) == ("T", alone)
    assert narrow["by_view"] == small_report["by_view"]


def evaluator_of(home: Home, split: str) -> Evaluator:
    pair = current(home)
    encoder = TextEncoder.load(home.text_models / pair.model.text_model_id)
    with (
        closing(TextCache.open(home.text_cache)) as cache,
        Export.open(home.exports / pair.model.export_id) as export,
    ):
        return Evaluator(load_dataset(export, encoder, cache), pair, split)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_train_rows_and_for_test_valid_rows_are_never_ranked(small_home: Home, split: str) -> None:
    evaluator = evaluator_of(small_home, split)
    hidden = evaluator.data.seen + (
        evaluator.data.relevant("valid") if split == "test" else 0 * evaluator.data.seen
    )
    ranked = evaluator.rank(VIEWS)
    assert ranked.shape == (len(evaluator.users), 20)
    assert (ranked >= 0).all()
    hidden_rows = hidden.toarray()[evaluator.users]
    assert not np.take_along_axis(hidden_rows, ranked, axis=1).any()
    if split == "valid":  # and valid rows can be found
        found = np.take_along_axis(evaluator.relevant.toarray()[evaluator.users], ranked, axis=1)
        assert found.sum() > len(evaluator.users) / 2


def test_who_has_none_of_the_views_gets_what_serving_falls_back_to(small_home: Home) -> None:
    evaluator = evaluator_of(small_home, "test")
    lost = np.flatnonzero(evaluator.views.present[:, 1] == 0)
    assert len(lost)
    index, masked = evaluator.pair.index, evaluator.masked.toarray()
    for place in lost[:20]:
        user = evaluator.users[place]
        rows = index.rows([evaluator.data.items[int(i)].as_py() for i in np.flatnonzero(masked[user])])
        popular = index.ids.take(index.popular(20, rows))
        ranked = evaluator.data.items.take(evaluator.rank(("T",))[place])
        assert ranked.to_pylist() == popular.to_pylist()


def test_an_index_with_newer_items_than_the_model_knows(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    before = report_of(home)
    new = pa.table({"item_id": [f"zz-new-{i}" for i in range(3)], "title": ["nothing like it"] * 3})
    (tmp_path / "more").mkdir()
    pq.write_table(new, tmp_path / "more" / "items.parquet")
    pair = current(home)
    encoder = TextEncoder.load(home.text_models / pair.model.text_model_id)
    with Store.open(home.database) as store:
        import_folder(store, tmp_path / "more", rejects=home.rejects, strict=True)
        export_id = create_export(store, home.exports)
    with closing(TextCache.open(home.text_cache)) as cache, Export.open(home.exports / export_id) as export:
        publish(home, reindex(home, export, pair.model, encoder, cache).name)
    after = report_of(home)
    assert after["by_view"]["T"]["20"]["recall"] == pytest.approx(
        before["by_view"]["T"]["20"]["recall"], abs=0.05
    )
    evaluator = evaluator_of(home, "test")
    place = int(np.flatnonzero(evaluator.views.present[:, 1] == 0)[0])
    old = evaluator_of(small_home, "test")
    assert evaluator.rank(("T",))[place].tolist() == old.rank(("T",))[place].tolist()


def test_without_text_and_without_a_valid_split(variant: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def change(name: str, table: pa.Table) -> pa.Table | None:
        if name == "behaviors":
            split = [None if one == "valid" else one for one in table["split"].to_pylist()]
            return table.set_column(
                table.schema.get_field_index("split"), "split", pa.array(split, pa.string())
            )
        return None if name == "texts" else table

    home = variant("no_text", change, TrainOptions(dims=(16,)))
    report = report_of(home)
    print_tables(report)
    assert "absent from the data: T" in capsys.readouterr().out
    assert report["views_in_data"] == {"H": True, "T": False, "S": True}
    assert report["by_view"]["T"] is None
    assert report["matching_degree"]["T"] is None
    assert report["by_view"]["HT"] == report["by_view"]["H"]
    assert report["k"]["20"]["recall"] == pytest.approx(recomputed_recall(home, "HTS")[0], abs=1e-9)
    with pytest.raises(NothingHeldOutError, match="no rows with split 'valid'; `triptych split` marks some"):
        report_of(home, "valid")


def test_without_friends_and_with_users_left_out_of_training(
    variant: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    home = variant(
        "no_social", lambda name, t: None if name == "social" else t, quick(left_out=LeftOutShares(users=0.3))
    )
    report = report_of(home, baselines=True)
    print_tables(report)
    assert "users never trained on" in capsys.readouterr().out
    assert report["views_in_data"]["S"] is False
    assert report["by_view"]["S"] is None
    assert report["matching_degree"]["S"] is None
    everyone = recomputed_recall(home, "HT")
    unseen = report["unseen_users"]
    assert set(unseen) == {"users", "10", "20"}
    assert unseen["users"] + report["users"] == everyone[1]
    assert report["cut"]["users"] == report["users"]
    assert report["by_friends"] is None
    assert report["by_history"]["all"]["HTS"]["20"] == report["k"]["20"]
    assert 20 <= unseen["users"] <= 80
    parts = report["users"] * report["k"]["20"]["recall"] + unseen["users"] * unseen["20"]["recall"]
    assert parts / everyone[1] == pytest.approx(everyone[0], abs=1e-9)


def test_new_items_are_ranked_among_all_and_told_apart(
    variant: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = LeftOutShares(items=0.2, seed=1)
    home = variant("new_items", lambda _, table: table, quick(left_out=shares))
    report = report_of(home)
    print_tables(report)
    said, figures = capsys.readouterr().out, report["new_items"]
    assert f"new items: {figures['items']} that training never saw" in said
    assert list(figures["by_content"]) == ["text", "text+attributes"]
    pair = current(home)
    encoder = TextEncoder.load(home.text_models / pair.model.text_model_id)
    with (
        closing(TextCache.open(home.text_cache)) as cache,
        Export.open(home.exports / pair.model.export_id) as export,
    ):
        data = load_dataset(export, encoder, cache)
    ids = pq.read_table(home.models / pair.model.model_id / "left_out_items.parquet").column("item_id")
    new = np.isin(np.array(data.items), np.array(ids))
    assert figures["items"] == new.sum() > 10
    assert not pair.model.id_vectors[new].any()
    assert not pair.model.table[new].any()
    # Recomputed, from what a person did with known items: all items by plain scores, targets of new ones.
    seen, valid, test = (m.toarray() > 0 for m in (data.seen, data.relevant("valid"), data.relevant("test")))
    targets = test & ~seen & ~valid & new
    users = np.flatnonzero(targets.any(axis=1))
    assert (figures["users"], figures["targets"]) == (len(users), targets.sum())
    known = data.without_items(new)
    views = dataset_views(known, known.events(pair.model.config), pair.model.table, pair.model.widths, users)
    content = pair.model.content_encoder.encode(data.item_content)
    items = pair.model.encode_items(pair.model.id_vectors, content)
    scores = pair.model.encode_users(views).vectors @ items.T
    scores[(seen | valid)[users]] = -np.inf
    first = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    hits = np.take_along_axis(targets[users], first, axis=1).sum(axis=1)
    recall = (hits / targets[users].sum(axis=1)).mean()
    whole = figures["by_content"]["text+attributes"]["20"]
    assert whole["recall"] == pytest.approx(recall, abs=1e-9)
    assert whole["found"] == pytest.approx(new[first].sum(axis=1).mean())
    assert whole["recall"] > 2 * figures["chance"]["20"]["recall"]
    # The other figures are of known targets.
    others = (test & ~seen & ~valid & ~new).any(axis=1)
    assert report["users"] == others.sum()


def test_every_target_seen_already_leaves_nothing_to_find(variant: Any) -> None:
    def change(name: str, table: pa.Table) -> pa.Table | None:
        if name != "behaviors":
            return table if name == "items" else None
        rows = table.filter(pc.fill_null(pc.not_equal(table["split"], "test"), True))
        held = rows.slice(0, 5).set_column(
            rows.schema.get_field_index("split"), "split", pa.array(["test"] * 5)
        )
        again = held.set_column(held.schema.get_field_index("action"), "action", pa.array(["again"] * 5))
        return pa.concat_tables([rows, again.cast(rows.schema)])

    home = variant("nothing_new", change, quick())
    with pytest.raises(NothingToFindError, match="every row of split 'test' repeats an item"):
        report_of(home)


def test_a_report_over_nobody_is_null_not_nan(variant: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def change(name: str, table: pa.Table) -> pa.Table | None:
        if name != "behaviors":
            return table if name == "items" else None
        # One user with a target, and that one left out of training by the draw of seed 0 below.
        out = np.random.default_rng(0).random(len(pc.unique(table["user_id"]))) < 0.5
        users = pc.unique(table["user_id"]).sort()
        one = users[int(np.flatnonzero(out)[0])].as_py()
        test = pc.fill_null(pc.is_in(table["split"], pa.array(["valid", "test"])), False)
        return table.filter(pc.or_(pc.invert(test), pc.equal(table["user_id"], one)))

    home = variant("nobody", change, quick(left_out=LeftOutShares(users=0.5)))
    report = report_of(home)
    assert report["users"] == 0
    assert report["unseen_users"]["users"] == 1
    assert report["k"]["20"]["recall"] is None
    assert report["k"]["20"]["recall_ci95"] == [None, None]
    json.dumps(report, allow_nan=False)
    assert "–" in page_html(report, print_tables(report))
    assert "–" in capsys.readouterr().out


def ended(
    patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *said: str
) -> tuple[object, list[str]]:
    """The exit code of a command and the lines of its stderr that are not log lines."""
    patch.setattr("sys.argv", ["triptych", *said])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, capsys.readouterr().err.strip().splitlines()


def test_a_failure_is_one_line_and_exit_code_1(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere, bare = str(tmp_path / "nowhere"), copy_home(small_home, tmp_path / "bare")
    bare.current_index.unlink()
    damaged = copy_home(small_home, tmp_path / "damaged")
    damaged.current_index.write_text("no-such-index\n")
    for said, reason in (
        (["train", "--home", nowhere], f"{nowhere} is no Triptych home"),
        (["reindex", "--home", nowhere], f"{nowhere} is no Triptych home"),
        (["evaluate", "--home", nowhere], f"{nowhere} is no Triptych home"),
        (
            ["reindex", "--home", str(bare.path), "--model", "other"],
            "there is no model 'other'; there are: 2",
        ),
        (["evaluate", "--home", str(bare.path)], f"{bare.current_index} does not exist"),
        (
            ["evaluate", "--home", str(bare.path), "--index", "other"],
            "there is no index 'other'; there are: 2",
        ),
        (["evaluate", "--home", str(damaged.path)], f"{damaged.current_index}: names 'no-such-index'"),
        (["query", "u", "--address", "127.0.0.1:1"], "the server says UNAVAILABLE: "),
        (["train", "--home", str(bare.path), "--action", "share"], "--action 'share' is not NAME=NUMBER"),
    ):
        code, lines = ended(monkeypatch, capsys, *said)
        assert code == 1, said
        assert lines[-1].startswith(f"triptych: {reason}"), lines
        assert not any("Traceback" in line for line in lines)
    assert not Path(nowhere).exists()


@pytest.mark.parametrize(
    "said",
    [
        ["nonsense"],
        ["query"],
        ["query", "u", "--item", "i"],
        ["query", "u", "-k", "1001"],
        ["train"],
        ["evaluate", "--home", "h", "--split", "train"],
        ["evaluate", "--home", "h", "--views", "H,X"],
        ["evaluate", "--home", "h", "--views", ""],
        ["serve", "--home", "h", "--port", "-1"],
    ],
)
def test_a_usage_error_is_exit_code_2(
    said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRIPTYCH_HOME", raising=False)
    code, lines = ended(monkeypatch, capsys, *said)
    assert code == 2
    assert "Traceback" not in "".join(lines)
