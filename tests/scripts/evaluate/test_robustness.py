"""`triptych evaluate --robustness`: what is hit, how often, and what that does to the figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charts import chart_html, in_english, report_charts
from charts.curves import robustness_chart
from encoder.config import VIEWS
from encoder.views import ViewBatch
from indexer.publish import current_index, load_index
from scripts import cli
from scripts.evaluate.protocol import Evaluator
from scripts.evaluate.report import evaluate
from scripts.evaluate.robustness import (
    MODES,
    NOISE,
    REMOVED,
    SHARES,
    Setting,
    other_users,
    others_texts,
    perturbed,
    perturbed_views,
    robustness_figures,
)
from scripts.evaluate.tables import print_tables, robustness_table
from store.home import Home
from tests.live_server import copy_home

RAW = {"H": "history", "T": "text", "S": "social"}
OTHERS = {"H": "TS", "T": "HS", "S": "HT"}


def everybody(evaluator: Evaluator) -> np.ndarray:
    return np.ones(len(evaluator.users), dtype=bool)


def changed(measured: Evaluator, view: str, mode: str, share: float, seed: int = 0) -> ViewBatch:
    return perturbed_views(measured, VIEWS, Setting(view, mode, share), seed)


@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 9))
def test_a_larger_share_hits_what_a_smaller_one_hit_and_both_modes_hit_the_same(
    n: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    elements, noise, draws = np.arange(n), np.arange(n) + 1_000, rng.random(n)
    removed = perturbed(elements, noise, share, REMOVED, draws)
    noisy = perturbed(elements, noise, share, NOISE, draws)
    more = perturbed(elements, noise, (1 + share) / 2, REMOVED, draws)
    hit = removed < 0
    assert (removed[~hit] == elements[~hit]).all()
    assert (noisy == np.where(hit, noise, elements)).all()
    assert (more[hit] == -1).all()
    assert (perturbed(elements, noise, 1.0, REMOVED, draws) == -1).all()
    assert (perturbed(elements, noise, 0.0, NOISE, draws) == elements).all()


@pytest.mark.parametrize("share", SHARES[:-1])
def test_the_share_that_is_hit_is_the_share_asked_for(share: float) -> None:
    n = 20_000
    got = perturbed(np.arange(n), np.full(n, n), share, REMOVED, np.random.default_rng(0).random(n))
    assert abs((got < 0).mean() - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_a_random_friend_is_anybody_but_oneself() -> None:
    owners = np.repeat(np.arange(4), 3_000)
    drawn = other_users(owners, 4, np.random.default_rng(0))
    counts = np.zeros((4, 4), int)
    np.add.at(counts, (owners, drawn), 1)
    assert (np.diag(counts) == 0).all()
    assert counts.sum() == 12_000
    assert (abs(counts[~np.eye(4, dtype=bool)] - 1_000) < 4 * (3_000 * 2 / 9) ** 0.5).all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 9))
def test_a_random_text_is_never_ones_own(owners: list[int], seed: int) -> None:
    rows = np.array(owners, dtype=np.int64)
    drawn = others_texts(rows, np.random.default_rng(seed))
    if len(set(owners)) == 1:
        assert (drawn == -1).all()
    else:
        assert (rows[drawn] != rows).all()
        assert (drawn >= 0).all()


def test_each_text_of_the_others_is_as_likely_as_any() -> None:
    owners = np.array([2, 0, 1, 0, 2])
    rng = np.random.default_rng(0)
    counts = np.zeros((5, 5), int)
    for _ in range(3_000):
        counts[np.arange(5), others_texts(owners, rng)] += 1
    expected = (owners[:, None] != owners) * 3_000 / (owners[:, None] != owners).sum(axis=1, keepdims=True)
    assert (abs(counts - expected) <= 4 * np.sqrt(expected)).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("view", VIEWS)
def test_a_share_of_nothing_is_the_main_figures(measured: Evaluator, view: str, mode: str) -> None:
    evaluator = measured
    batch = changed(measured, view, mode, 0.0)
    for name in ("history", "text", "social", "amounts"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(evaluator.views, name))
    ranked = evaluator.rank_batch(batch, "")
    among = everybody(evaluator)
    assert evaluator.metrics(ranked, among) == evaluator.metrics(evaluator.rank(VIEWS), among)


@pytest.mark.parametrize("view", VIEWS)
def test_all_of_a_view_removed_is_the_other_two(measured: Evaluator, view: str) -> None:
    evaluator = measured
    ranked = evaluator.rank_batch(changed(measured, view, REMOVED, 1.0), "")
    np.testing.assert_array_equal(ranked, evaluator.rank(tuple(OTHERS[view])))
    among = everybody(evaluator)
    assert evaluator.metrics(ranked, among) == evaluator.subset_figures(OTHERS[view], among)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("view", VIEWS)
def test_one_view_changes_by_seed_and_the_others_stay(measured: Evaluator, view: str, mode: str) -> None:
    evaluator = measured
    first, again = (changed(measured, view, mode, 0.5) for _ in range(2))
    other = changed(measured, view, mode, 0.5, seed=1)
    whole = evaluator.views
    for name in RAW.values():
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (getattr(first, RAW[view]) != getattr(other, RAW[view])).any()
    assert (getattr(first, RAW[view]) != getattr(whole, RAW[view])).any()
    for kept in OTHERS[view]:
        np.testing.assert_array_equal(getattr(first, RAW[kept]), getattr(whole, RAW[kept]))
        np.testing.assert_array_equal(
            first.present[:, VIEWS.index(kept)], whole.present[:, VIEWS.index(kept)]
        )


def test_the_text_view_is_that_of_the_texts_left(measured: Evaluator) -> None:
    texts, draws = measured.data.texts, np.random.default_rng([0, VIEWS.index("T")])
    kept = draws.random(len(texts.users)) >= 0.5
    batch = changed(measured, "T", REMOVED, 0.5)
    for place in range(0, len(measured.users), 7):
        own = texts.vectors[kept & (texts.users == measured.users[place])].sum(axis=0)
        np.testing.assert_allclose(batch.text[place] * np.linalg.norm(own), own, atol=1e-5)
        assert batch.present[place, 1] == own.any()


def test_noise_in_the_only_view_says_nothing_of_its_user(measured: Evaluator) -> None:
    """Recall by somebody else's noise is the same, and what noise finds is at most what everybody likes."""
    evaluator, among = measured, everybody(measured)

    def recall(batch: ViewBatch) -> float:
        return float(evaluator.metrics(evaluator.rank_batch(batch, ""), among)["20"]["recall"])  # type: ignore[arg-type]

    own, others = [], []
    for seed in range(8):  # one draw over so few people says little
        batch = perturbed_views(evaluator, ("H",), Setting("H", NOISE, 1.0), seed)
        assert not batch.present[:, 1:].any()
        own.append(recall(batch))
        others.append(recall(batch.rows(np.random.default_rng(seed).permutation(len(batch)))))
    noise = np.mean(own)
    popular = evaluator.metrics(evaluator.rank_popular(evaluator.users), among)["20"]["recall"]
    left = len(evaluator.data.items) - np.diff(evaluator.masked.indptr)[evaluator.users]
    chance = float((20 / left).mean())
    assert noise == pytest.approx(np.mean(others), abs=0.02)
    assert chance - 0.06 < noise < popular
    whole = evaluator.metrics(evaluator.rank(("H",)), among)["20"]["recall"]
    assert whole > noise + 0.2


def test_the_arrays_given_are_not_written_to(measured: Evaluator) -> None:
    evaluator = measured
    data, whole = evaluator.data, evaluator.views
    arrays = [
        data.history.items, data.history.users, data.history.weights, data.ties.data, data.ties.indices,
        data.ties.indptr, data.text, data.texts.users, data.texts.vectors,
        whole.history, whole.text, whole.social, whole.amounts,
        evaluator.pair.model.table,
    ]  # fmt: skip
    before = [array.copy() for array in arrays]
    robustness_figures(evaluator, VIEWS, everybody(evaluator))
    for array, kept in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_only_views_that_are_on_are_perturbed(measured: Evaluator) -> None:
    evaluator = measured
    block = robustness_figures(evaluator, ("T",), everybody(evaluator))
    assert list(block["by_view"]) == ["T"]
    popular = evaluator.rank_popular(evaluator.users)
    expected = evaluator.metrics(popular, everybody(evaluator))["20"]
    assert block["by_view"]["T"][REMOVED]["100"] == expected  # what serving falls back to


def test_over_nobody_the_table_and_the_chart_have_gaps(measured: Evaluator) -> None:
    evaluator = measured
    block = robustness_figures(evaluator, ("S",), ~everybody(evaluator))
    assert block["by_view"]["S"][NOISE]["10"]["recall"] is None
    json.dumps(block, allow_nan=False)
    assert robustness_table(block).row_count == 9
    (chart,) = robustness_chart([{"robustness": block}], in_english, ("",))
    assert [panel.lines for panel in chart.panels] == [(), ()]
    assert "<svg" in chart_html(chart, in_english)


def test_without_a_view_to_perturb_there_is_a_table_and_no_chart_of_it(
    small_home: Home, tmp_path: Path
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    pair = load_index(home, current_index(home).name)
    report = evaluate(home, pair, "test", VIEWS, baselines=False, exact=False)
    block = {"seed": 0, "k": 20, "unchanged": report["k"]["20"], "by_view": {}}
    report |= {"robustness": block}
    assert "unchanged" in print_tables(report)
    assert "robustness" not in [chart.key for chart in report_charts([report], in_english)]


def test_the_command_writes_the_block_the_table_and_the_chart(
    small_home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    path = tmp_path / "out.json"
    said = ["triptych", "evaluate", "--home", str(home.path), "--json", str(path), "--robustness"]
    monkeypatch.setattr("sys.argv", said)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    report = json.loads(path.read_text("utf-8"))
    block = report["robustness"]
    assert block["unchanged"] == report["k"]["20"]
    assert list(block["by_view"]) == list(VIEWS)
    for view, modes in block["by_view"].items():
        assert list(modes) == list(MODES)
        assert all(list(shares) == ["10", "30", "50", "100"] for shares in modes.values())
        assert modes[REMOVED]["100"] == report["by_view"][OTHERS[view]]["20"]
    out = capsys.readouterr().out
    assert "H, events" in out
    (page,) = home.reports.glob("*/report.html")
    assert f"report: {page.parent} (report.json, report.html)" in out
    assert "H, events" in page.read_text("utf-8")
