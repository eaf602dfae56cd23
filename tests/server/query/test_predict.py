"""Predict, by a real server in another process: what it says is what `evaluate` measures."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoder.arrays import IntArray
from encoder.config import TowerConfig
from encoder.dataset import Dataset, load_dataset
from encoder.fit import TrainOptions
from encoder.heads import HeadOptions, Task
from encoder.heads.examples import Examples, category_examples, rating_examples
from encoder.heads.impressions import click_examples
from encoder.heads.labels import item_labels
from encoder.heads.model import FrozenVectors, HeadRows, head_report
from encoder.runtime import Model
from encoder.text import TextCache, TextEncoder
from encoder.train import add_heads, train
from evaluation.calibration import brier_scores
from evaluation.classification import auc, cross_entropy, log_loss, mae, rmse
from indexer.publish import load_index, publish
from indexer.reindex import reindex
from scripts.training import head_rows, head_trainer
from scripts.world.world import make_world
from server import cancellation
from server.cancellation import AbandonedError
from server.query import Prediction, Question, Retriever, StoredUser, prepare
from store.artifact import DamagedArtifactError, read_pointer
from store.export import Export, create_export
from store.home import Home
from store.imports.run import import_folder
from store.state import UserState
from store.store import Store
from tests.command_line import Run
from tests.live_server import Client, copy_home, flip, refusal, run_server, server, soon
from triptych_client import AsyncClient, CallError, Consent, Item
from triptych_client import Client as TypedClient
from triptych_client.pb.v1 import triptych_pb2 as pb

QUICK = HeadOptions(epochs=6, patience=2, rate=0.01, decays=(0.3,), folds=4, taste_rank=4)
TO_FIT: dict[Task, HeadOptions] = {
    "click": QUICK,
    "rating": QUICK,
    "category": replace(QUICK, label="attributes.topic"),
}
HEADS = {"click": pb.HEAD_CLICK, "rating": pb.HEAD_RATING, "category": pb.HEAD_CATEGORY}


@pytest.fixture(scope="module")
def heads_home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with impressions and ratings, and a model with all heads, published."""
    folder = tmp_path_factory.mktemp("heads")
    home = Home(folder / "home")
    make_world(folder / "world", users=200, items=150, impressions=True)
    _rate(folder / "world" / "behaviors.parquet")
    with Store.open(home.database) as store:
        import_folder(store, folder / "world", rejects=home.rejects, strict=True)
        create_export(store, home.exports)
    shutil.copytree(small_home.text_models, home.text_models)
    with (
        Export.latest(home.exports) as export,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        encoder, options = _encoder(home), TrainOptions(base=TowerConfig(dim=16), search=False)
        heads = head_trainer(export, options, TO_FIT)
        model = Model.load(train(home, export, encoder, cache, options, heads=heads))
        publish(home, reindex(home, export, model, encoder, cache).name)
    return home


@pytest.fixture(scope="module")
def client(heads_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    # Of a copy: a home that is served cannot be copied by others.
    with server(copy_home(heads_home, tmp_path_factory.mktemp("served") / "home")) as one:
        yield one


@pytest.fixture(scope="module")
def measured(heads_home: Home) -> tuple[HeadRows, FrozenVectors, Model]:
    """What `evaluate` measures heads with."""
    model = Model.load(read_pointer(heads_home.latest_model, heads_home.models))
    with (
        Export.open(heads_home.exports / model.export_id) as export,
        closing(TextCache.open(heads_home.text_cache)) as cache,
    ):
        data = load_dataset(export, _encoder(heads_home), cache)
        rows = head_rows(export, data)
    return rows, FrozenVectors.of_model(model, data), model


def _rate(path: Path) -> None:
    """Give the behaviours of a world ratings as weights: by user, by item, and by chance."""
    table = pq.read_table(path)
    rng = np.random.default_rng(5)
    codes = [
        np.asarray(table.column(name).dictionary_encode().combine_chunks().indices)
        for name in ("user_id", "item_id")
    ]
    strict, good = rng.normal(0, 0.6, codes[0].max() + 1), rng.normal(0, 0.5, codes[1].max() + 1)
    rating = 3 + strict[codes[0]] + good[codes[1]] + rng.normal(0, 0.3, len(table))
    weights = pa.array(np.round(np.clip(rating, 0.5, 5) * 2) / 2)
    pq.write_table(table.set_column(table.column_names.index("weight"), "weight", weights), path)


def _encoder(home: Home) -> TextEncoder:
    (name,) = [path.name for path in home.text_models.iterdir() if path != home.text_cache]
    return TextEncoder.load(home.text_models / name)


def by_user(examples: Examples) -> Iterator[tuple[int, IntArray]]:
    for user in np.unique(examples.users).tolist():
        yield user, np.flatnonzero(examples.users == user)


def predicted(client: Client, data: Dataset, examples: Examples, head: int) -> Any:
    """Ask the server for each example of click or rating, a call a user."""
    values = np.full(len(examples), np.nan)
    for user, at in by_user(examples):
        request = pb.PredictRequest(
            user_id=data.users[user].as_py(),
            item_ids=[data.items[row].as_py() for row in examples.items[at].tolist()],
            positions=examples.positions[at].tolist() if head == pb.HEAD_CLICK else (),
            head=head,  # type: ignore[arg-type]
        )
        reply = client.retrieval.Predict(request, timeout=60)
        assert list(reply.item_ids) == list(request.item_ids)
        values[at] = reply.values
    return values


def test_clicks_by_grpc_are_those_that_evaluate_measures(
    client: Client, measured: tuple[HeadRows, FrozenVectors, Model]
) -> None:
    rows, vectors, model = measured
    assert rows.shown is not None
    report = head_report(model.heads["click"], rows, "test", vectors)
    examples = click_examples(rows.shown, rows.data, "test")
    found = predicted(client, rows.data, examples, pb.HEAD_CLICK)
    wanted = report["metrics"]
    assert report["examples"] == len(examples) > 500
    assert log_loss(examples.labels, found) == pytest.approx(wanted["log_loss"], abs=1e-5)
    assert brier_scores(examples.labels, found).mean() == pytest.approx(wanted["brier"], abs=1e-5)
    assert auc(examples.labels, found) == pytest.approx(wanted["auc"], abs=1e-4)
    first = replace(examples, positions=np.zeros_like(examples.positions))
    served = predicted(client, rows.data, first, pb.HEAD_CLICK)
    assert log_loss(examples.labels, served) == pytest.approx(report["as_served"]["log_loss"], abs=1e-5)


def test_ratings_by_grpc_are_those_that_evaluate_measures(
    client: Client, measured: tuple[HeadRows, FrozenVectors, Model]
) -> None:
    rows, vectors, model = measured
    report = head_report(model.heads["rating"], rows, "test", vectors)
    examples = rating_examples(rows.data, "test")
    found = predicted(client, rows.data, examples, pb.HEAD_RATING)
    assert rmse(examples.labels, found) == pytest.approx(report["metrics"]["rmse"], abs=1e-5)
    assert mae(examples.labels, found) == pytest.approx(report["metrics"]["mae"], abs=1e-5)
    assert report["metrics"]["rmse"] < report["baselines"]["item mean"]["rmse"] - 0.05


def test_categories_by_grpc_are_those_that_evaluate_measures(
    client: Client, measured: tuple[HeadRows, FrozenVectors, Model]
) -> None:
    rows, vectors, model = measured
    head = model.heads["category"]
    report = head_report(head, rows, "test", vectors)
    shares = item_labels("attributes.topic", rows.attributes, rows.kinds, 99).shares
    examples, _ = category_examples(rows.data, "test", shares)
    table = np.zeros((len(examples), len(head.classes)))
    for user, at in by_user(examples):
        request = pb.PredictRequest(user_id=rows.data.users[user].as_py(), k=len(head.classes))
        reply = client.retrieval.Predict(request, timeout=60)
        said = dict(zip(reply.categories, reply.values, strict=True))
        table[at] = [said[name] for name in head.classes]
        assert list(reply.values) == sorted(reply.values, reverse=True)
    found = cross_entropy(examples.labels.astype(np.int64), table, examples.weights)
    assert found == pytest.approx(report["metrics"]["log_loss"], abs=1e-5)


def test_a_reply_says_what_its_numbers_are(client: Client) -> None:
    with TypedClient(client.address) as typed:
        topics = typed.predict("u00007", k=3)
        clicks = typed.predict("u00007", [item_ids(client)[0]])
        ratings = typed.predict("u00007", item_ids(client)[:2], pb.HEAD_RATING)
    assert (topics.head, topics.label, len(topics.values)) == (pb.HEAD_CATEGORY, "attributes.topic", 3)
    assert (clicks.head, clicks.quantity) == (pb.HEAD_CLICK, pb.QUANTITY_PROBABILITY)
    assert (ratings.head, ratings.quantity) == (pb.HEAD_RATING, pb.QUANTITY_RATING)
    assert all(0.5 <= value <= 5 for value in ratings.values)
    assert pb.VIEW_HISTORY in clicks.views_used
    status = client.admin.Status(pb.StatusRequest())
    assert (clicks.model_id, clicks.index_id) == (status.model_id, status.index_id)


async def _ask(address: str) -> list[float]:
    async with AsyncClient(address) as typed:
        return list((await typed.predict("u00007", k=3)).values)


def test_the_asyncio_client_gets_the_same(client: Client) -> None:
    import asyncio

    with TypedClient(client.address) as typed:
        assert asyncio.run(_ask(client.address)) == list(typed.predict("u00007", k=3).values)


def test_a_later_place_is_clicked_less(client: Client) -> None:
    ids = item_ids(client)[:1] * 3
    with TypedClient(client.address) as typed:
        places = list(typed.predict("u00007", ids, positions=[0, 4, 9]).values)
        first = list(typed.predict("u00007", ids[:1]).values)
    assert places[0] > places[1] > places[2]
    assert places[:1] == first


def test_of_nobody_what_holds_of_everybody_is_said(
    client: Client, measured: tuple[HeadRows, FrozenVectors, Model]
) -> None:
    rows, _, _ = measured
    assert rows.shown is not None
    with TypedClient(client.address) as typed:
        topics = typed.predict("u-nobody", k=99)
        clicks = typed.predict("u-nobody", item_ids(client))
        empty = typed.predict(pb.Views(), k=99)
        ratings = typed.predict("u-nobody", item_ids(client), pb.HEAD_RATING)
    assert not topics.views_used
    assert topics.values == empty.values
    labels = item_labels("attributes.topic", rows.attributes, rows.kinds, 99)
    totals = np.asarray(labels.shares[rows.data.history.items].sum(axis=0)) + 1
    wanted = dict(zip(labels.classes, totals / totals.sum(), strict=True))
    assert dict(zip(topics.categories, topics.values, strict=True)) == pytest.approx(wanted, abs=1e-5)
    train = click_examples(rows.shown, rows.data, "train")
    assert np.mean(clicks.values) == pytest.approx(train.labels.mean(), abs=0.02)
    given = rating_examples(rows.data, "train").labels
    assert np.mean(ratings.values) == pytest.approx(given.mean(), abs=0.1)


def test_views_sent_along_are_predicted_as_those_stored(client: Client, heads_home: Home) -> None:
    with Export.latest(heads_home.exports) as export:
        history = export.history().to_pylist()
    by_behaviour = next(
        user for user in {row["user_id"] for row in history}
        if user not in set(heads_texts(heads_home)) and user not in set(heads_friends(heads_home))
    )  # fmt: skip
    own = [row for row in history if row["user_id"] == by_behaviour]
    events = []
    for row in own:
        event = pb.Event(item_id=row["item_id"], action=row["action"], weight=row["weight"])
        event.ts.FromDatetime(row["ts"])
        events.append(event)
    ids = item_ids(client)
    with TypedClient(client.address) as typed:
        for head in (pb.HEAD_CLICK, pb.HEAD_RATING):
            stored, sent = (
                typed.predict(by_behaviour, ids, head),
                typed.predict(pb.Views(events=events), ids, head),
            )
            np.testing.assert_allclose(sent.values, stored.values, atol=1e-5)
        np.testing.assert_allclose(
            typed.predict(pb.Views(events=events)).values, typed.predict(by_behaviour).values, atol=1e-6
        )


def heads_texts(home: Home) -> list[str]:
    with Export.latest(home.exports) as export:
        return list(export.texts().column("user_id").to_pylist())


def heads_friends(home: Home) -> list[str]:
    with Export.latest(home.exports) as export:
        return list(export.friends().column("user_id").to_pylist())


def item_ids(client: Client) -> list[str]:
    model = Model.load(read_pointer(client.home.latest_model, client.home.models), check=False)
    ids: list[str] = model.item_ids.to_pylist()
    return ids


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "no subject"),
        ({"user_id": "a", "item_ids": ["i"] * 1001}, "item_ids has 1001 entries"),
        ({"user_id": "a", "head": pb.HEAD_CLICK}, "item_ids has 0 entries, not 1..1000"),
        ({"user_id": "a", "item_ids": ["i"], "head": pb.HEAD_CATEGORY}, "item_ids do not go with"),
        ({"user_id": "a", "item_ids": [""]}, r"item_ids[0] has 0 bytes"),
        ({"user_id": "a", "item_ids": ["i"], "k": 3}, "k is 3, but goes with HEAD_CATEGORY only"),
        ({"user_id": "a", "k": 1001}, "k is 1001, not in 1..1000"),
        ({"user_id": "a", "item_ids": ["i"], "positions": [1, 2]}, "positions has 2 entries for 1 item_ids"),
        ({"user_id": "a", "item_ids": ["i"], "positions": [1], "head": pb.HEAD_RATING}, "HEAD_CLICK only"),
        ({"user_id": "a", "positions": [1]}, "positions do not go with HEAD_CATEGORY"),
        ({"user_id": "a", "head": 9}, "head is 9"),
        ({"user_id": "x" * 257}, "user_id has 257 bytes"),
    ],
)  # fmt: skip
def test_requests_beyond_their_bounds_are_refused(client: Client, fields: dict[str, Any], said: str) -> None:
    refused = refusal(lambda: client.retrieval.Predict(pb.PredictRequest(**fields), timeout=60))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert said in refused.message


def test_an_unknown_item_is_named(client: Client) -> None:
    request = pb.PredictRequest(user_id="u00007", item_ids=[item_ids(client)[0], "nothing"])
    refused = refusal(lambda: client.retrieval.Predict(request, timeout=60))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "ITEM_NOT_FOUND")
    assert "item 'nothing' is not served" in refused.message


def test_a_head_that_is_not_fitted_is_refused_with_the_command_that_fits_it(
    small_home: Home, tmp_path: Path
) -> None:
    with server(copy_home(small_home, tmp_path / "home")) as without:
        request = pb.PredictRequest(user_id="u00007")
        refused = refusal(lambda: without.retrieval.Predict(request, timeout=60))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HEAD_NOT_FITTED")
    model_id = read_pointer(small_home.latest_model, small_home.models).name
    assert f"triptych train --heads-of {model_id} --task category --label" in refused.message


def item(item_id: str, title: str, text: str) -> Item:
    return Item(item_id, title, text, None, {}, available=True, updated_at=None)


def test_items_are_predicted_as_they_are_now(heads_home: Home, tmp_path: Path) -> None:
    home = copy_home(heads_home, tmp_path / "home")
    with server(home) as live, TypedClient(live.address) as typed:
        old, gone = item_ids(live)[:2]
        typed.put_items(
            [Item("new", "Sourdough", "bread and butter", None, {}, available=True, updated_at=None)]
        )
        typed.delete_items([gone])
        with pytest.raises(CallError, match=f"item {gone!r} is not served"):
            typed.predict("u00007", [gone])
        before = typed.predict("u00007", ["new", old], pb.HEAD_RATING)
        assert np.isfinite(before.values).all()
        typed.put_items(
            [Item("new", "Comets", "telescopes and the sky", None, {}, available=True, updated_at=None)]
        )
        soon(lambda: typed.predict("u00007", ["new", old], pb.HEAD_RATING).values[0] != before.values[0])
        assert typed.predict("u00007", ["new", old], pb.HEAD_RATING).values[1] == before.values[1]


def test_what_a_user_does_changes_what_is_predicted_at_once(heads_home: Home, tmp_path: Path) -> None:
    from triptych_client import Behavior

    home = copy_home(heads_home, tmp_path / "home")
    with server(home) as live, TypedClient(live.address) as typed:
        ids = item_ids(live)[:5]
        nobody = typed.predict("u-new", ids, pb.HEAD_RATING)
        typed.append_behaviors([Behavior("u-new", ids[0], action="view", weight=5.0)])
        kind = typed.predict("u-new", ids, pb.HEAD_RATING)
        typed.append_behaviors([Behavior("u-new", ids[1], action="view", weight=0.5)])
        mixed = typed.predict("u-new", ids, pb.HEAD_RATING)
    assert not nobody.views_used
    assert pb.VIEW_HISTORY in kind.views_used
    assert np.mean(kind.values) > np.mean(mixed.values)


def test_a_damaged_head_does_not_serve(heads_home: Home, tmp_path: Path) -> None:
    home = copy_home(heads_home, tmp_path / "home")
    model = read_pointer(home.latest_model, home.models)
    flip(model / "heads" / "rating.onnx")
    with pytest.raises(DamagedArtifactError, match=r"rating\.onnx: is damaged"):
        publish(home, read_pointer(home.current_index, home.indexes).name)
    ended = run_server(home)
    assert ended.returncode == 1
    assert "rating.onnx: is damaged" in ended.stderr


def test_heads_are_added_to_a_model_as_it_is(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    old = Model.load(read_pointer(home.latest_model, home.models))
    quick = {"category": replace(QUICK, label="kind"), "click": QUICK}
    with (
        Export.open(home.exports / old.export_id) as export,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        heads = head_trainer(export, TrainOptions(), {"category": quick["category"]})
        assert heads is not None
        first = Model.load(add_heads(home, old, export, _encoder(home), cache, heads))
        heads = head_trainer(export, TrainOptions(), {"click": quick["click"]})
        assert heads is not None
        second = Model.load(add_heads(home, first, export, _encoder(home), cache, heads))
    assert read_pointer(home.latest_model, home.models).name == second.model_id
    assert (list(first.heads), list(second.heads)) == (["category"], ["click", "category"])
    assert second.heads["click"].quantity == "score"  # nobody was shown anything
    np.testing.assert_array_equal(second.id_vectors, old.id_vectors)
    metrics = json.loads((home.models / second.model_id / "metrics.json").read_text("utf-8"))
    assert set(metrics["heads"]) == {"click", "category"}
    assert second.manifest["started_from"] == old.manifest["started_from"]


def test_the_command_line_shows_predictions_and_a_profile(client: Client, run: Run) -> None:
    ids = item_ids(client)[:2]
    words = ("query", "u00007", "--address", client.address)
    code, out, err = run(*words, "--predict", ids[0], "--predict", ids[1])
    assert code == 0, err
    assert out.count(ids[0]) == out.count(ids[1]) == 2  # by both heads
    assert "click, probability if shown first" in out
    code, out, err = run(*words, "--profile", "-k", 4)
    assert code == 0, err
    assert "attributes.topic" in out
    assert run("query", "--item", ids[0], "--profile")[0] == 2
    assert run(*words, "--predict", "nothing")[0] == 1


class GoneCaller:
    """The context of a call that nobody waits for any more."""

    def add_callback(self, end: Any) -> bool:
        return False

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 60.0


def test_a_prediction_that_nobody_waits_for_is_not_made(heads_home: Home, tmp_path: Path) -> None:
    home = copy_home(heads_home, tmp_path / "home")
    question = Question(StoredUser("u00007"), "category", (), np.zeros(0, dtype=np.int64), 3)
    with (
        Store.open(home.database) as store,
        UserState.open(tmp_path / "state") as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        loaded = load_index(home, read_pointer(home.current_index, home.indexes).name)
        retriever = Retriever(store, state, prepare(home, loaded, store, state, cache, threads=1))

        def ask() -> Prediction:
            return retriever.predict(question)

        def ask_in_vain() -> Prediction:
            cancellation.begin(GoneCaller())  # type: ignore[arg-type]
            return ask()

        assert len(copy_context().run(ask).names) == 3
        with pytest.raises(AbandonedError):
            copy_context().run(ask_in_vain)


def test_no_head_knows_a_person_by_views_that_are_not_used(client: Client, heads_home: Home) -> None:
    with Export.latest(heads_home.exports) as export:
        person = export.history().column("user_id")[0].as_py()
        items = export.items(available_only=True).column("item_id").to_pylist()[:5]
    with TypedClient(client.address) as typed:

        def said(user: str) -> list[tuple[dict[str, float], list[int]]]:
            replies = [
                typed.predict(user, items, pb.HEAD_CLICK),
                typed.predict(user, items, pb.HEAD_RATING),
                typed.predict(user, k=1_000),
            ]
            named = [dict(zip(one.item_ids or one.categories, one.values, strict=True)) for one in replies]
            return [(values, list(one.views_used)) for values, one in zip(named, replies, strict=True)]

        before, nobody = said(person), said("nobody ever seen")
        assert before != nobody
        typed.set_consent([Consent(person, view, use=False) for view in ("H", "T", "S")])
        assert said(person) == nobody
        typed.set_consent([Consent(person, view, use=True) for view in ("H", "T", "S")])
        assert said(person) == before
