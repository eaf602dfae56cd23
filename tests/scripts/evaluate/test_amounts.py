"""Figures by the amount of a view: what a cut keeps, and the blocks of `triptych evaluate`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charts import chart_html, in_english
from charts.curves import amount_charts
from encoder.arrays import Actions, Events
from encoder.config import VIEWS, TowerConfig
from encoder.dataset import Dataset
from encoder.tower import dataset_views
from encoder.views import event_matrix
from scripts.evaluate import evaluate_command
from scripts.evaluate.amounts import (
    BLOCKS,
    MOST_USERS,
    NUMBERS,
    amount_figures,
    columns_of,
    cut_friends,
    cut_history,
    cut_texts,
    cut_views,
    first_drawn,
)
from scripts.evaluate.protocol import Evaluator
from scripts.evaluate.tables import amounts_table, gain_mark
from store.home import Home
from tests import tiny_dataset
from tests.command_line import Run
from tests.live_server import copy_home

RAW = {"H": "history", "T": "text", "S": "social"}
KEYS = [*map(str, NUMBERS), "all"]
EVERYBODY = np.arange(tiny_dataset.USERS)


@pytest.fixture(scope="module")
def report(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report that the command line writes for the small world."""
    home = copy_home(small_home, tmp_path_factory.mktemp("amounts") / "home")
    path = home.path / "out.json"
    evaluate_command(str(home.path), json_path=path)
    html = next(home.reports.glob("*/report.html")).read_text("utf-8")
    assert [f"{element} cut to n" in html for element in ("H, items", "T, texts", "S, friends")] == [True] * 3
    written: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return written


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 12), st.integers(0, 9))
def test_a_cut_keeps_n_of_each_by_seed_and_keeps_them_as_n_grows(
    owners: list[int], n: int, seed: int
) -> None:
    rows = np.array(owners, dtype=np.int64)
    kept = first_drawn(rows, n, rng(seed))
    for owner in set(owners):
        assert kept[rows == owner].sum() == min(n, owners.count(owner))
    assert (kept <= first_drawn(rows, n + 1, rng(seed))).all()
    assert (kept == first_drawn(rows, n, rng(seed))).all()


def test_each_element_is_drawn_as_often_as_any() -> None:
    owners = np.repeat([3, 1], [5, 9])
    generator = rng()
    often = sum(first_drawn(owners, 3, generator).astype(int) for _ in range(3_000))
    for m, counts in ((5, often[:5]), (9, often[5:])):
        share = 3 / m
        assert (abs(counts - 3_000 * share) < 4 * (3_000 * share * (1 - share)) ** 0.5).all()


def one_history(rows: list[tuple[int, int, str, float, int]]) -> Dataset:
    """The tiny data set with other histories: user, item, action, weight, time."""
    users, items, actions, weights, ts = zip(*rows, strict=True)
    events = Events(
        np.array(users), np.array(items), Actions.of(actions), np.array(weights, dtype=float), np.array(ts)
    )
    return replace(tiny_dataset.dataset(dated=True), history=events)


ROWS = [
    (0, 1, "see", 1.0, 1), (0, 1, "see", 2.0, 5), (0, 1, "see", 4.0, 9),
    (0, 2, "see", 1.0, 2), (0, 2, "see", 1.0, 8),
    (0, 3, "see", 1.0, 3), (0, 4, "author", 1.0, 20), (0, 5, "author", 1.0, 21),
    (1, 6, "see", 1.0, 1),
]  # fmt: skip
CONFIG = TowerConfig(actions={"author": 0.0}, half_life=2.0)


def test_a_cut_is_in_entries_of_the_history_and_keeps_the_whole_weight_of_each() -> None:
    data, config = one_history(ROWS), replace(CONFIG, half_life=0.0)
    whole = data.events(config).toarray()
    for n in (1, 2, 3, 9):
        cut = cut_history(data, config, EVERYBODY, n, rng()).events(config)
        assert np.diff(cut.indptr)[:2].tolist() == [min(n, 3), 1]  # what counts 0 takes no place
        left = cut.toarray()
        np.testing.assert_array_equal(left[left > 0], whole[left > 0])
    assert data.history.users.tolist() == [row[0] for row in ROWS]


@pytest.mark.parametrize("seed", range(8))
def test_a_half_life_counts_the_newer_events_of_the_cut_history(seed: int) -> None:
    data = one_history(ROWS)
    cut = cut_history(data, CONFIG, EVERYBODY, 2, rng(seed))
    items = set(cut.history.items[cut.history.users == 0].tolist())
    alone = [row for row in ROWS if row[0] == 1 or row[1] in items]  # a person who did no more than that
    expected = one_history(alone).events(CONFIG)
    np.testing.assert_allclose(cut.events(CONFIG).toarray(), expected.toarray(), rtol=1e-6)
    if 1 not in items:  # the newest event of item 2 has no newer one left
        assert cut.events(CONFIG).toarray()[0, 2] == pytest.approx(np.log(3.0))


def test_a_cut_leaves_only_the_users_asked_for() -> None:
    data, users = tiny_dataset.dataset(dated=True), np.array([3, 8])
    histories = cut_history(data, tiny_dataset.CONFIG, users, 2, rng())
    assert np.bincount(histories.history.users, minlength=10)[[3, 8]].sum() >= 4
    assert set(histories.history.users.tolist()) == {3, 8}
    texts = cut_texts(data, tiny_dataset.CONFIG, users, 5, rng()).texts
    assert sorted(texts.users.tolist()) == [3] * 5 + [8] * 5
    assert (data.texts.users[texts.vectors.argmax(axis=1)] == texts.users).all()  # each with its own vector
    ties = cut_friends(data, tiny_dataset.CONFIG, users, 1, rng()).ties.tocoo()
    assert (ties.row.tolist(), ties.col.tolist(), ties.data.tolist()) == ([3, 8], [2, 9], [2.0, 2.0])
    assert not cut_friends(data, tiny_dataset.CONFIG, users, 0, rng()).ties.nnz


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("n", [0, 2])
def test_only_the_ranked_users_own_view_is_cut(measured: Evaluator, view: str, n: int) -> None:
    whole, batch = measured.views, cut_views(measured, view, n, seed=0)
    for other in VIEWS:
        if other != view:
            np.testing.assert_array_equal(getattr(batch, RAW[other]), getattr(whole, RAW[other]))
            place = VIEWS.index(other)
            np.testing.assert_array_equal(batch.amounts[:, place], whole.amounts[:, place])
    place = VIEWS.index(view)
    assert batch.present[:, place].any() == (n > 0)
    few = np.expm1(whole.amounts[:, place]) < n + 0.5
    np.testing.assert_array_equal(batch.amounts[few, place], whole.amounts[few, place])
    assert np.expm1(batch.amounts[:, place]).max() == pytest.approx(n, abs=1e-5)
    assert cut_views(measured, view, None, seed=0) is whole


def test_a_cut_history_is_that_of_a_person_who_did_no_more(measured: Evaluator) -> None:
    data, model = measured.data, measured.pair.model
    batch = cut_views(measured, "H", 3, seed=0)
    cut = cut_history(data, model.config, measured.users, 3, rng([0, 0]))  # the generator of view H
    events = event_matrix(cut.history, data.shape, model.config)
    alone = dataset_views(data, events, model.table, model.widths, measured.users)
    np.testing.assert_array_equal(batch.history, alone.history)
    np.testing.assert_array_equal(batch.amounts[:, 0], alone.amounts[:, 0])


def test_at_most_so_many_users_are_drawn_by_seed(measured: Evaluator) -> None:
    among = rng().random(len(measured.users)) < 0.7
    few = measured.sampled(40, among, seed=0)
    assert len(set(few.users.tolist())) == 40
    assert set(few.users.tolist()) <= set(measured.users[among].tolist())
    assert few.users.tolist() == measured.sampled(40, among, seed=0).users.tolist()
    assert few.users.tolist() != measured.sampled(40, among, seed=1).users.tolist()
    everybody = measured.sampled(MOST_USERS, among, seed=0)
    assert everybody.users.tolist() == measured.users[among].tolist()
    ranked = measured.rank(VIEWS)
    np.testing.assert_array_equal(few.rank(VIEWS), ranked[np.isin(measured.users, few.users)])


def test_the_report_has_the_blocks_of_the_design(report: dict[str, Any]) -> None:
    assert report["cut"] == {"users": report["users"], "seed": 0}
    for view, block in BLOCKS.items():
        assert list(report[block]) == KEYS
        alone, others, whole = columns_of(view)
        assert {"H": "TS", "T": "HS", "S": "HT"}[alone] == others
        for figures in report[block].values():
            assert list(figures) == [alone, others, whole] == [view, others, "HTS"]
            for column in (alone, others):
                assert set(figures[column]) == {"20", "gain"}
                for metric in ("recall", "ndcg"):
                    at = figures[column]["20"]
                    low, high = at[f"{metric}_ci95"]
                    assert low <= at[metric] <= high
                    gain = figures[column]["gain"][metric]
                    mean = figures["HTS"]["20"][metric] - at[metric]
                    assert gain["mean"] == pytest.approx(mean, abs=1e-9)
                    assert gain["ci95"][0] <= gain["mean"] <= gain["ci95"][1]
            assert set(figures["HTS"]) == {"20"}
    assert report["seconds"]["amounts"] < 60


@pytest.mark.parametrize("view", VIEWS)
def test_all_is_what_stands_by_view_and_nothing_is_the_other_two(report: dict[str, Any], view: str) -> None:
    block, columns = report[BLOCKS[view]], columns_of(view)
    for column in columns:
        assert block["all"][column]["20"] == report["by_view"][column]["20"]
    for column in columns[:2]:
        assert block["all"][column]["gain"] == report["by_view"][column]["gain"]
    assert block["0"]["HTS"]["20"] == block["0"][columns[1]]["20"]
    assert block["0"][columns[1]]["gain"]["recall"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
    assert len({json.dumps(figures[columns[1]]["20"]) for figures in block.values()}) == 1
    alone = [block[n][view]["20"]["recall"] for n in ("0", "1", "all")]
    assert alone[0] < alone[2]


def test_n_0_of_a_history_alone_is_the_fallback_of_serving(
    measured: Evaluator, report: dict[str, Any]
) -> None:
    everybody = np.ones(len(measured.users), dtype=bool)
    popular = measured.metrics(measured.rank_popular(measured.users), everybody)["20"]
    assert report["by_history"]["0"]["H"]["20"] == popular


def test_data_without_texts_and_friends_still_tell_what_a_history_gives(measured: Evaluator) -> None:
    data = measured.data
    bare = replace(
        data,
        ties=data.ties * 0,
        texts=data.texts.where(np.zeros(len(data.texts.users), dtype=bool)),
    )
    bare.ties.eliminate_zeros()
    figures = amount_figures(replace(measured, data=bare), np.ones(len(measured.users), dtype=bool))
    assert (figures["by_texts"], figures["by_friends"]) == (None, None)
    for one in figures["by_history"].values():
        assert one["TS"] is None
        assert one["HTS"]["20"] == one["H"]["20"]
    recalls = [one["H"]["20"]["recall"] for one in figures["by_history"].values()]
    assert recalls[-1] > recalls[0]
    table = amounts_table(figures, "H")
    assert table.row_count == len(KEYS)
    (chart,) = amount_charts([figures], in_english, ("",))
    assert [line.name for line in chart.panels[0].lines] == ["history", "history + text + friends"]


def test_over_nobody_the_figures_are_null_and_the_table_has_gaps(measured: Evaluator) -> None:
    figures = amount_figures(measured, np.zeros(len(measured.users), dtype=bool))
    assert figures["cut"]["users"] == 0
    assert figures["by_history"]["1"]["HTS"]["20"]["recall"] is None
    json.dumps(figures, allow_nan=False)
    assert amounts_table(figures, "H").row_count == len(KEYS)
    for chart in amount_charts([figures], in_english, ("",)):
        assert [panel.lines for panel in chart.panels] == [(), ()]
        assert "<svg" in chart_html(chart, in_english)


def test_a_gain_is_marked_where_its_interval_excludes_0() -> None:
    cases = {" +": [0.1, 0.2], " −": [-0.2, -0.1], "  ": [-0.1, 0.2]}
    assert [gain_mark({"ci95": ends}) for ends in cases.values()] == list(cases)
    assert gain_mark({"ci95": [None, None]}) == "  "
    assert gain_mark({"ci95": [0.0, 0.0]}) == "  "


def test_the_command_prints_the_tables(small_home: Home, tmp_path: Path, run: Run) -> None:
    home = copy_home(small_home, tmp_path / "home")
    code, out, _ = run("evaluate", "--home", home.path)
    assert code == 0
    assert "H, items cut to n, " in out
    assert "S, friends cut to n, " in out
    assert "report.html" in out
