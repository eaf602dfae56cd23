from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events, TextColumns
from encoder.config import TowerConfig
from encoder.content import ContentSettings, RawContent
from encoder.dataset import Dataset
from encoder.runtime import ITEM_GRAPH, USER_GRAPH
from encoder.tower.closed_form import fit_closed_form
from encoder.tower.cold_items import fit_content
from encoder.tower.held_out import held_out_figures
from encoder.tower.onnx import export_towers, item_graph, user_graph
from encoder.tower.select import HeldOutScorer, choose_config
from encoder.tower.tower import Tower, dataset_views
from encoder.views import ViewBatch, unit_rows

USERS, ITEMS, TEXT_DIM = 90, 40, 6
RIDGE = TowerConfig(dim=8, damping=0.1, gates=(1.0, 0.4, 0.3))
MAXVAR = TowerConfig(dim=8, fusion="maxvar", gates=(1.0, 1.0, 1.0))


def rows(users: np.ndarray, items: np.ndarray) -> Events:
    ones = np.ones(len(users))
    return Events(users, items, Actions.of(["see"] * len(users)), ones, np.full(len(users), NO_TIME))


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Two tastes: even users like even items; their texts and friends follow. Item 39 has no events."""
    generator = np.random.default_rng(1)
    same = (np.arange(USERS)[:, None] + np.arange(ITEMS)) % 2 == 0
    drawn = generator.random((USERS, ITEMS)) < np.where(same, 0.4, 0.04)
    drawn[:, 39] = False
    drawn[:3] = False  # three users without history
    users, items = np.nonzero(drawn)
    held = generator.random(len(users)) < 0.15
    text = generator.standard_normal((USERS, TEXT_DIM)) * 0.5
    text[:, 0] += np.where(np.arange(USERS) % 2 == 0, 2.0, -2.0)
    writers = np.delete(np.arange(USERS), 2)
    none = np.full(USERS - 1, -1)
    item_text = generator.standard_normal((ITEMS, TEXT_DIM)) * 0.5
    item_text[:, 0] += np.where(np.arange(ITEMS) % 2 == 0, 2.0, -2.0)
    ties = (generator.random((USERS, USERS)) < 0.1) & (
        (np.add.outer(np.arange(USERS), np.arange(USERS)) % 2) == 0
    )
    np.fill_diagonal(ties, val=False)
    return Dataset(
        users=pa.array([f"u{i:03}" for i in range(USERS)]),
        items=pa.array([f"i{i:03}" for i in range(ITEMS)]),
        history=rows(users[~held], items[~held]),
        held_out={"valid": rows(users[held], items[held])},
        ties=sparse.csr_array(ties.astype(float)),
        texts=TextColumns(writers, none, np.full(USERS - 1, NO_TIME), unit_rows(text)[writers]),
        item_content=RawContent.of_texts([""] * len(item_text), unit_rows(item_text)),
    )


@pytest.mark.parametrize("chosen", [[5], [80, 3, 3, 0], list(range(USERS))])
def test_the_views_of_some_users_are_their_rows_of_the_views_of_all(data: Dataset, chosen: list[int]) -> None:
    tower = fit_closed_form(data, RIDGE)
    whole, some = tower.views(data).rows(np.array(chosen)), tower.views(data, np.array(chosen))
    for name in ("history", "text", "social", "amounts"):
        np.testing.assert_allclose(getattr(some, name), getattr(whole, name), atol=1e-6)


def test_batches_are_the_views_of_all_in_order(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = fit_closed_form(data, RIDGE)
    whole, vectors = tower.views(data), tower.vectors(tower.views(data))
    monkeypatch.setattr("encoder.tower.tower._BATCH", 32)
    monkeypatch.setattr("encoder.tower.tower._PARTS", 7)
    batches = list(tower.batches(data))
    assert [len(batch) for batch in batches] == [32, 32, 26]
    np.testing.assert_allclose(np.concatenate([b.social for b in batches]), whole.social, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([tower.vectors(b) for b in batches]), vectors, atol=1e-6)
    again = fit_closed_form(data, MAXVAR)  # whose covariances and item vectors are sums over batches
    monkeypatch.undo()
    np.testing.assert_allclose(
        np.abs(again.id_vectors), np.abs(fit_closed_form(data, MAXVAR).id_vectors), atol=1e-4
    )


def all_masks(data: Dataset, tower: Tower) -> ViewBatch:
    views = dataset_views(data, data.events(tower.config), tower.table)
    some = np.random.default_rng(2).integers(0, 2, size=views.amounts.shape).astype(np.float32)
    return replace(views, amounts=views.amounts * some)


@pytest.mark.parametrize("config", [RIDGE, MAXVAR], ids=["ridge", "maxvar"])
def test_the_user_graph_agrees_with_the_float64_reference(data: Dataset, config: TowerConfig) -> None:
    tower = fit_closed_form(data, config)
    views = all_masks(data, tower)
    session = ort.InferenceSession(user_graph(tower).SerializeToString())
    feeds = {n: getattr(views, n) for n in ("history", "text", "social", "amounts")}
    vectors, parts = session.run(["vectors", "parts"], feeds)
    scale = np.abs(tower.parts(views)).max()
    np.testing.assert_allclose(parts, tower.parts(views), atol=1e-5 * scale)
    np.testing.assert_allclose(vectors, tower.vectors(views), atol=1e-5 * scale)
    np.testing.assert_allclose(parts.sum(axis=1), vectors, atol=1e-6 * scale)
    assert not parts[views.present == 0].any()
    assert not np.isnan(parts).any()


@pytest.mark.parametrize("config", [RIDGE, MAXVAR], ids=["ridge", "maxvar"])
def test_item_scores_split_exactly_into_the_shares_of_the_views(data: Dataset, config: TowerConfig) -> None:
    tower = fit_closed_form(data, config)
    views, items = all_masks(data, tower), tower.item_vectors(data)
    shares = np.einsum("bvd,nd->bnv", tower.parts(views), items)
    np.testing.assert_allclose(shares.sum(axis=2), tower.vectors(views) @ items.T, atol=1e-9)


def test_the_item_graph_takes_the_id_vector_and_else_the_text(data: Dataset, tmp_path: Path) -> None:
    tower = fit_content(fit_closed_form(data, RIDGE), data, ContentSettings())
    assert tower.content is not None
    assert not tower.id_vectors[39].any()
    session = ort.InferenceSession(item_graph(tower).SerializeToString())
    feeds = {"id_vector": tower.id_vectors, "text": data.item_text_vectors, "pattern": np.array([1])}
    found = session.run(["vectors"], feeds)[0]
    np.testing.assert_array_equal(found[:39], tower.id_vectors[:39])
    by_text = tower.content.maps.maps[1]
    expected = by_text[0] + data.item_text_vectors[39] @ by_text[1:]
    np.testing.assert_allclose(found[39], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, tower.item_vectors(data), rtol=1e-5, atol=1e-6)
    export_towers(tower, tmp_path, {"model_id": "m"})
    for name in (USER_GRAPH, ITEM_GRAPH):
        meta = ort.InferenceSession(tmp_path / name).get_modelmeta().custom_metadata_map
        assert meta == {"model_id": "m"}


def test_an_item_nobody_touched_goes_to_those_whose_taste_its_text_meets(data: Dataset) -> None:
    tower = fit_content(fit_closed_form(data, RIDGE), data, ContentSettings())  # item 39 is odd
    scores = (
        tower.vectors(dataset_views(data, data.events(RIDGE), tower.table)) @ tower.item_vectors(data)[39]
    )
    assert scores[3::2].mean() > scores[4::2].mean() + 0.05


def test_every_view_alone_tells_the_two_tastes_apart(data: Dataset) -> None:
    for config in (RIDGE, MAXVAR):
        tower = fit_closed_form(data, config)
        views = dataset_views(data, data.events(config), tower.table)
        items = tower.item_vectors(data)
        for view in ("H", "T", "S"):
            users = np.flatnonzero(views.only((view,)).present.any(axis=1))
            scores = tower.vectors(views.only((view,)).rows(users)) @ items.T
            own = scores[:, 0:39:2].mean(axis=1) > scores[:, 1:39:2].mean(axis=1)
            assert (own == (users % 2 == 0)).mean() > 0.9, (config.fusion, view)


def test_choice_ends_with_the_best_gates_and_they_stay_above_zero(data: Dataset) -> None:
    trials = choose_config(data, "valid", TowerConfig(), dims=(4, 8))
    chosen = trials[-1]
    assert chosen.config.dim in {4, 8}
    assert chosen.config.gates[1] > 0
    assert chosen.config.gates[2] > 0
    tower = fit_closed_form(data, chosen.config)
    assert HeldOutScorer(data, "valid").score_tower(tower) == pytest.approx(chosen.ndcg, abs=1e-6)


def test_held_out_figures_rank_all_items_and_know_nobody_by_popularity(data: Dataset) -> None:
    some = replace(data, texts=data.texts.where(data.texts.users % 3 > 0))
    tower, scorer = fit_closed_form(some, RIDGE), HeldOutScorer(some, "valid")
    figures = held_out_figures(tower, some, "valid", "valid")
    assert list(figures["by_view"]) == ["H", "T", "S", "TS", "HTS"]
    assert (figures["rows"], figures["users"]) == ("valid", len(scorer.users))
    whole = figures["by_view"]["HTS"]
    assert whole["ndcg"] == pytest.approx(scorer.score_tower(tower))
    assert whole["ndcg_ci95"][0] < whole["ndcg"] < whole["ndcg_ci95"][1]
    views = tower.views(some, scorer.users).only(("T",))
    scores = tower.vectors(views) @ tower.id_vectors.T
    scores[scorer.users % 3 == 0] = some.seen.sum(axis=0)
    scores[scorer.seen.toarray() > 0] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    relevant = scorer.relevant.toarray() > 0
    found = np.take_along_axis(relevant, best, axis=1).sum(axis=1)
    assert figures["by_view"]["T"]["recall"] == pytest.approx((found / relevant.sum(axis=1)).mean())


def test_held_out_figures_leave_out_what_the_data_lacks(data: Dataset) -> None:
    alone = replace(data, texts=data.texts.where(np.zeros(USERS - 1, dtype=bool)))
    figures = held_out_figures(fit_closed_form(alone, RIDGE), alone, "valid", "a tenth of train")
    assert list(figures["by_view"]) == ["H", "S", "TS", "HTS"]


def test_people_on_their_first_visit_have_a_share_in_the_choice_of_gates(data: Dataset) -> None:
    *_, chosen = choose_config(data, "valid", TowerConfig(), dims=(4, 8))
    scorer, tower = HeldOutScorer(data, "valid"), fit_closed_form(data, chosen.config)
    views, items = tower.views(data, scorer.users), tower.item_vectors(data)
    cold = scorer.score(tower.vectors(views.only(("T", "S"))), items)
    assert chosen.ndcg == pytest.approx(scorer.score(tower.vectors(views), items))
    assert chosen.cold == pytest.approx(cold)
    assert chosen.balanced == pytest.approx(0.75 * chosen.ndcg + 0.25 * cold)


def test_a_view_that_the_data_lacks_gets_no_gate(data: Dataset) -> None:
    alone = replace(data, texts=data.texts.where(np.zeros(USERS - 1, dtype=bool)))
    trials = choose_config(alone, "valid", TowerConfig(), dims=(4,))
    assert trials[-1].config.gates[1] == 0.0
    tower = fit_closed_form(alone, trials[-1].config)
    assert not np.isnan(tower.vectors(dataset_views(data, data.events(tower.config), tower.table))).any()


def test_fit_looks_at_no_held_out_row(data: Dataset) -> None:
    without = fit_closed_form(replace(data, held_out={}), RIDGE)
    np.testing.assert_array_equal(fit_closed_form(data, RIDGE).table, without.table)


def test_left_out_users_leave_no_trace(data: Dataset) -> None:
    left_out = np.zeros(USERS, dtype=bool)
    left_out[5] = True
    kept = data.without_users(left_out)
    assert not (kept.history.users == 5).any()
    assert not (kept.held_out["valid"].users == 5).any()
    assert not kept.text[5].any()
    assert kept.ties[[5]].nnz == kept.ties[:, [5]].nnz == 0
    assert kept.shape == data.shape
