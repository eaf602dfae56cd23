import json
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events, TextColumns
from encoder.content import RawContent
from encoder.dataset import Dataset
from encoder.heads.examples import (
    Examples,
    NoExamplesError,
    category_examples,
    click_examples,
    hold_out_pairs,
    rating_examples,
)
from encoder.heads.fit import HeadParityError, fit_categories, fit_head, fit_pairs
from encoder.heads.graph import category_graph, pair_graph
from encoder.heads.labels import LabelError, item_labels
from encoder.heads.model import head_report, train_head
from encoder.heads.options import HeadOptions, HeadOptionsError, Task, TaskError
from encoder.heads.report import evaluate_head
from encoder.heads.runtime import Head, HeadInputError, NoHeadError, load_head, save_head
from encoder.heads.statistics import fit_line, fit_logistic, item_means, logit, sigmoid
from scripts.evaluate.tables import print_task_report
from store.artifact import DamagedArtifactError

USERS, ITEMS, DIM, GENRES = 150, 60, 8, 4
QUICK = HeadOptions(epochs=12, patience=3, batch=256, rate=0.02, seed=1)
OPTIONS: dict[Task, HeadOptions] = {
    "click": QUICK,
    "rating": QUICK,
    "category": replace(QUICK, label="attributes.style.genre"),
}
TASKS: tuple[Task, ...] = ("click", "rating", "category")


def events(rows: list[tuple[Any, ...]]) -> Events:
    """Rows (user, item, weight[, ts[, action]])."""
    full = [(*row, *(1.0, NO_TIME, "see")[len(row) - 2 :]) for row in rows]
    users, items, weights, ts, actions = zip(*full, strict=True)
    return Events(
        np.array(users, dtype=np.int64), np.array(items, dtype=np.int64), Actions.of(actions),
        np.array(weights, dtype=np.float64), np.array(ts, dtype=np.int64),
    )  # fmt: skip


def dataset(history: Events, held_out: dict[str, Events], n_users: int, n_items: int) -> Dataset:
    none = np.zeros(0, dtype=np.int64)
    return Dataset(
        users=pa.array([f"u{i:04}" for i in range(n_users)]),
        items=pa.array([f"i{i:04}" for i in range(n_items)]),
        history=history,
        held_out=held_out,
        ties=sparse.csr_array((n_users, n_users)),
        texts=TextColumns(none, none, none, np.zeros((0, 2), dtype=np.float32)),
        item_content=RawContent.of_texts([""] * n_items, np.zeros((n_items, 2), dtype=np.float32)),
    )


class World:
    """Users whose vectors are made of the vectors of items: what they see and rate follows from those."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.genre = np.arange(ITEMS) % GENRES
        centres = np.eye(GENRES, DIM)
        self.items = (centres[self.genre] + 0.2 * generator.standard_normal((ITEMS, DIM))).astype(np.float32)
        taste = generator.dirichlet(np.full(GENRES, 0.3), size=USERS)
        self.users = (taste @ centres + 0.05 * generator.standard_normal((USERS, DIM))).astype(np.float32)
        affinity = self.users @ self.items.T
        quality = generator.standard_normal(ITEMS) * 0.5
        rating = 3 + 1.5 * affinity + quality + 0.2 * generator.standard_normal((USERS, ITEMS))
        seen = generator.random((USERS, ITEMS)) < np.clip(0.05 + 0.6 * affinity, 0.02, 0.9)
        users, items = np.nonzero(seen)
        part = generator.choice(["train", "valid", "test"], size=len(users), p=[0.6, 0.2, 0.2])
        every = events(list(zip(users, items, rating[users, items], strict=True)))
        held_out = {name: every.where(part == name) for name in ("valid", "test")}
        self.data = dataset(every.where(part == "train"), held_out, USERS, ITEMS)
        self.attributes: list[dict[str, Any] | None] = [
            {"style": {"genre": f"genre {g}"}, "year": 2000} for g in self.genre.tolist()
        ]
        self.kinds: list[str | None] = ["song"] * ITEMS

    def train(self, task: Task, data: Dataset | None = None) -> tuple[Head, dict[str, Any]]:
        arguments = (self.attributes, self.kinds, self.users, self.items, OPTIONS[task])
        return train_head(task, data or self.data, *arguments)

    def report(self, head: Head, split: str = "test") -> dict[str, Any]:
        return head_report(head, self.data, split, self.attributes, self.kinds, self.users, self.items)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def heads(world: World) -> dict[Task, Head]:
    return {task: world.train(task)[0] for task in TASKS}


def test_every_head_beats_its_baselines(world: World, heads: dict[Task, Head]) -> None:
    click, rating, category = (world.report(heads[task]) for task in TASKS)
    assert click["metrics"]["auc"] > click["baselines"]["popularity"]["auc"] + 0.15
    assert click["metrics"]["user_auc"] > click["baselines"]["popularity"]["user_auc"] + 0.15
    assert click["metrics"]["log_loss"] < click["baselines"]["popularity"]["log_loss"] - 0.05
    assert rating["metrics"]["rmse"] < 0.75 * rating["baselines"]["item mean"]["rmse"]
    assert rating["metrics"]["mae"] < 0.75 * rating["baselines"]["global mean"]["mae"]
    assert category["metrics"]["accuracy"] > category["baselines"]["most frequent"]["accuracy"] + 0.2
    assert category["metrics"]["log_loss"] < category["baselines"]["own distribution"]["log_loss"]
    assert category["metrics"]["macro_f1"] > category["baselines"]["most frequent"]["macro_f1"] + 0.2


def test_a_report_is_json_and_counts_what_it_measured(world: World, heads: dict[Task, Head]) -> None:
    for task in TASKS:
        report = world.report(heads[task])
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        assert (report["task"], report["split"], report["label"]) == (task, "test", OPTIONS[task].label)
    found = world.report(heads["category"])
    assert sum(one["support"] for one in found["classes"]) == found["examples"]
    assert [one["class"] for one in found["classes"]] == [f"genre {g}" for g in range(GENRES)]


def test_the_head_carries_its_figures_on_valid(world: World) -> None:
    head, figures = world.train("rating")
    assert head.metrics == figures
    assert figures["split"] == "valid"
    assert figures["metrics"] == world.report(head, "valid")["metrics"]


def test_without_a_valid_split_a_share_of_train_stops_the_training(world: World) -> None:
    alone = replace(world.data, held_out={"test": world.data.held_out["test"]})
    for task in TASKS:
        head, figures = world.train(task, alone)
        assert figures["split"] == "train, held out"
        found = world.report(head)
        for figure in ("auc", "accuracy"):
            if figure in found["metrics"]:
                assert found["metrics"][figure] > max(b[figure] for b in found["baselines"].values()) - 0.02


def test_two_trainings_are_the_same_and_another_seed_is_not(world: World, heads: dict[Task, Head]) -> None:
    for task in TASKS:
        assert world.train(task)[0].graph == heads[task].graph
    other = replace(QUICK, seed=2)
    arguments = (world.attributes, world.kinds, world.users, world.items, other)
    assert train_head("click", world.data, *arguments)[0].graph != heads["click"].graph


@pytest.mark.parametrize("task", ["click", "rating"])
def test_the_graph_agrees_with_torch_on_pairs(world: World, task: Task) -> None:
    train = (
        click_examples(world.data, "train", QUICK)
        if task == "click"
        else rating_examples(world.data, "train")
    )
    test = (
        click_examples(world.data, "test", QUICK) if task == "click" else rating_examples(world.data, "test")
    )
    fitted = fit_pairs(task, train, test, world.users, world.items, replace(QUICK, epochs=2))
    session = ort.InferenceSession(pair_graph(fitted.weights()).SerializeToString())
    feeds = {"users": world.users[test.users], "items": world.items[test.items], "rows": test.items}
    found = session.run(None, feeds)[0]
    wanted = fitted.predict(test, world.users, world.items)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * max(1, np.abs(wanted).max()))
    assert np.std(found) > 0.05


def test_the_graph_agrees_with_torch_on_categories(world: World) -> None:
    shares = item_labels("attributes.style.genre", world.attributes, world.kinds, 9).shares
    train, _ = category_examples(world.data, "train", shares)
    fitted = fit_categories(train, train, world.users, GENRES, QUICK)
    session = ort.InferenceSession(category_graph(fitted.weights()).SerializeToString())
    found = session.run(None, {"users": world.users})[0]
    np.testing.assert_allclose(found, fitted.predict(world.users), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_a_saved_head_comes_back_as_it_was(
    world: World, heads: dict[Task, Head], task: Task, tmp_path: Path
) -> None:
    save_head(heads[task], tmp_path)
    back = load_head(tmp_path)
    assert back == heads[task]
    assert world.report(back) == world.report(heads[task])
    assert {path.name for path in tmp_path.iterdir()} == {"head.onnx", "head.json"}


def test_a_missing_or_damaged_head_is_named(heads: dict[Task, Head], tmp_path: Path) -> None:
    with pytest.raises(NoHeadError, match="has no task head"):
        load_head(tmp_path)
    save_head(heads["click"], tmp_path)
    graph, about = tmp_path / "head.onnx", tmp_path / "head.json"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + b"x")
    with pytest.raises(DamagedArtifactError, match=r"head\.onnx: is damaged"):
        load_head(tmp_path)
    graph.write_bytes(whole)
    for broken in ("{}", "[]", "not json", about.read_text().replace('"dim"', '"dims"')):
        about.write_text(broken)
        with pytest.raises(DamagedArtifactError, match=r"head\.json: is damaged"):
            load_head(tmp_path)
    about.unlink()
    with pytest.raises(DamagedArtifactError, match=r"head\.json: is missing"):
        load_head(tmp_path)


def test_serving_a_head_loads_neither_torch_nor_onnx(heads: dict[Task, Head], tmp_path: Path) -> None:
    save_head(heads["category"], tmp_path)
    code = (
        "import sys, numpy as np; from encoder.heads.runtime import load_head; import encoder.heads.model; "
        f"head = load_head(__import__('pathlib').Path({str(tmp_path)!r})); "
        f"print(head.predict(np.zeros((1, {DIM}), 'f4')).shape, {{'torch', 'onnx'}} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert ended.stdout == f"(1, {GENRES}) set()\n"


def test_a_new_item_has_no_bias_but_a_score(world: World, heads: dict[Task, Head]) -> None:
    users, items = world.users[:5], world.items[:5]
    new = heads["rating"].predict(users, items)
    np.testing.assert_array_equal(new, heads["rating"].predict(users, items, np.full(5, -1)))
    assert np.abs(new - heads["rating"].predict(users, items, np.arange(5))).max() > 1e-3
    assert heads["rating"].predict(users[:0], items[:0]).shape == (0,)


def test_ratings_stay_within_those_of_train(world: World, heads: dict[Task, Head]) -> None:
    far = heads["rating"].predict(
        100 * world.users, np.ascontiguousarray(-100 * world.items[:1].repeat(USERS, 0))
    )
    given = world.data.history.weights
    assert far.min() == np.float32(given.min())
    assert far.max() <= np.float32(given.max())


def test_what_does_not_fit_a_head_is_refused(world: World, heads: dict[Task, Head]) -> None:
    users, items, everybody = world.users[:3], world.items[:3], (world.users, world.items)
    for call, message in (
        (lambda: heads["click"].predict(users), "takes user and item vectors"),
        (lambda: heads["category"].predict(users, items), "takes user vectors alone"),
        (lambda: heads["click"].predict(users, items[:2]), r"items are float32 \(2, 8\), not float32 \(3,"),
        (lambda: heads["category"].predict(users.astype(np.float64)), "users are float64"),
        (lambda: heads["click"].predict(users, items, np.array([0, 1, ITEMS])), r"not in -1\.\.59"),
        (lambda: head_report(heads["click"], world.data, "test", [], [], users, world.items), "vectors are"),
        (lambda: head_report(heads["category"], world.data, "test", [], [], *everybody), "0 items"),
    ):  # fmt: skip
        with pytest.raises(HeadInputError, match=message):
            call()


def test_clicks_are_the_observed_pairs_and_pairs_of_no_split() -> None:
    history = events([(0, 0), (0, 0), (0, 1), (1, 2), (2, 3), (2, 4)])
    data = dataset(history, {"valid": events([(0, 2)]), "test": events([(1, 3), (0, 0), (0, 2)])}, 3, 6)
    train = click_examples(data, "train", HeadOptions(negatives=50))
    pairs = list(zip(train.users.tolist(), train.items.tolist(), train.labels.tolist(), strict=True))
    assert sorted(pair[:2] for pair in pairs if pair[2]) == [(0, 0), (0, 1), (1, 2), (2, 3), (2, 4)]
    assert {pair[:2] for pair in pairs if not pair[2]} == {
        (0, 3), (0, 4), (1, 0), (1, 1), (1, 4), (2, 0), (2, 1), (2, 2),
    }  # fmt: skip  # item 5 has no user
    test = click_examples(data, "test", HeadOptions(negatives=1))
    assert (test.users[test.labels == 1].tolist(), test.items[test.labels == 1].tolist()) == ([1], [3])


def test_unobserved_pairs_are_drawn_by_popularity() -> None:
    history = events([(user, 0) for user in range(1, 17)] + [(17, 1), (0, 2)])
    drawn = click_examples(dataset(history, {}, 18, 3), "train", HeadOptions(negatives=3000))
    of_first = drawn.items[(drawn.labels == 0) & (drawn.users == 0)]
    assert (of_first == 0).sum() / (of_first == 1).sum() == pytest.approx(16**0.75, rel=0.2)


def test_who_has_seen_everything_gives_no_clicks() -> None:
    with pytest.raises(NoExamplesError, match="nobody has an unseen item"):
        click_examples(dataset(events([(0, 0), (0, 1)]), {}, 1, 2), "train", HeadOptions())


def test_of_several_ratings_the_last_counts() -> None:
    rows = [(0, 0, 5.0, 20), (0, 0, 2.0, NO_TIME), (0, 0, 3.0, 10), (0, 1, 1.0, NO_TIME), (1, 0, 4.0, 1)]
    found = rating_examples(dataset(events(rows), {}, 2, 2), "train")
    assert (found.users.tolist(), found.items.tolist(), found.labels.tolist()) == (
        [0, 0, 1],
        [0, 1, 0],
        [5, 1, 4],
    )


def test_only_actions_that_are_held_out_are_learned() -> None:
    history = events([(0, 0, 1.0, 1, "author"), (0, 1, 1.0, 1, "cite")])
    data = dataset(history, {"test": events([(0, 2, 1.0, 2, "cite")])}, 1, 3)
    assert rating_examples(data, "train").items.tolist() == [1]
    with pytest.raises(NoExamplesError, match="'valid': the data has no such rows"):
        rating_examples(data, "valid")
    masked = dataset(history, {"test": events([(0, 0, 1.0, 2, "cite")])}, 1, 3)
    with pytest.raises(NoExamplesError, match="masked"):
        rating_examples(masked, "test")


def test_several_classes_share_an_event_and_repeated_events_count() -> None:
    attributes = [{"genre": ["b", "a", "a"]}, {"genre": "c"}, {}, None]
    labels = item_labels("attributes.genre", attributes, [None] * 4, 9)
    data = dataset(events([(0, 0), (0, 1), (0, 1), (1, 2), (1, 3)]), {}, 2, 4)
    found, unlabelled = category_examples(data, "train", labels.shares)
    assert labels.classes == ("a", "b", "c")
    rows = zip(found.users, found.items, found.labels, found.weights, strict=True)
    assert sorted(rows) == [(0, 0, 0, 0.5), (0, 0, 1, 0.5), (0, 1, 2, 1), (0, 1, 2, 1)]
    assert unlabelled == 2
    with pytest.raises(NoExamplesError, match="no event is on an item that has the label"):
        category_examples(dataset(events([(0, 3)]), {}, 1, 4), "train", labels.shares)


def test_labels_of_other_forms() -> None:
    none: list[None] = [None] * 3
    values = [{"a": {"b": True}}, {"a": {"b": 3}}, {"a": {"b": None}}]
    assert item_labels("attributes.a.b", values, none, 9).classes == ("3", "true")
    assert item_labels("kind", none, ["film", None, "song"], 9).classes == ("film", "song")


@pytest.mark.parametrize(
    ("label", "attributes", "message"),
    [
        ("attributes.x", [{"g": 1, "on": {"air": 1}}, {}], "kind, attributes.g, attributes.on.air"),
        ("attributes.genre", [{"genre": "a"}, {"genre": "a"}], "its only class is 'a'"),
        ("attributes.genre", [{"genre": list("abcd")}, None], "4 classes, more than max_classes = 3"),
        ("attributes.on", [{"on": {"air": 1}}, None], "name one of its keys: attributes.on.air"),
        ("attributes.genre", [{"genre": [{"a": 1}]}, None], "in a list is no class"),
        ("genre", [None, None], "neither 'kind' nor a path"),
        (None, [None, None], "neither 'kind' nor a path"),
        ("kind", [None], "1 items have attributes, but 2 have kinds"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_predicted_are_refused(
    label: str | None, attributes: Any, message: str
) -> None:
    with pytest.raises(LabelError, match=message):
        item_labels(label, attributes, ["song", "song"], 3)


def test_tasks_options_and_labels_that_make_no_sense_are_refused(
    world: World, heads: dict[Task, Head]
) -> None:
    rest = (world.attributes, world.kinds, world.users, world.items)
    with pytest.raises(TaskError, match="'retrieval' has no head"):
        train_head("retrieval", world.data, *rest, QUICK)
    with pytest.raises(LabelError, match="click takes no label"):
        train_head("click", world.data, *rest, OPTIONS["category"])
    other = [{"style": {"genre": f"g {i % 2}"}} for i in range(ITEMS)]
    with pytest.raises(LabelError, match="other than the 4 of the head"):
        head_report(heads["category"], world.data, "test", other, *rest[1:])
    for wrong in (
        {"epochs": 0},
        {"rate": 0.0},
        {"decay": -1.0},
        {"max_classes": 1},
        {"holdout": 1.0},
        {"seed": -1},
    ):
        with pytest.raises(HeadOptionsError, match=f"head option {next(iter(wrong))} is"):
            HeadOptions(**wrong)


def test_labels_that_do_not_vary_and_empty_splits_are_refused(world: World) -> None:
    same = events([(0, 0), (1, 1), (2, 0)])
    examples = rating_examples(dataset(same, {}, 3, 2), "train")
    with pytest.raises(NoExamplesError, match="every label is 1"):
        fit_head("rating", examples, examples, world.users, world.items, QUICK)
    with pytest.raises(NoExamplesError, match="'valid': there is none"):
        fit_head("rating", examples, examples.where(examples.users < 0), world.users, world.items, QUICK)
    with pytest.raises(TaskError):
        fit_head("retrieval", examples, examples, world.users, world.items, QUICK)
    with pytest.raises(NoExamplesError, match="one pair is too few"):
        hold_out_pairs(examples.where(examples.users == 0), 2, QUICK)


def test_vectors_that_are_not_finite_are_refused(world: World) -> None:
    broken = world.users.copy()
    broken[7, 0] = np.nan
    examples = rating_examples(world.data, "train")
    with pytest.raises(HeadInputError, match="the user vector of row 7 is not finite"):
        fit_head("rating", examples, examples, broken, world.items, QUICK)


def test_a_graph_that_differs_from_torch_is_no_head(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.heads.fit.PARITY", 0.0)  # the last digits always differ
    examples = click_examples(world.data, "train", QUICK)
    with pytest.raises(HeadParityError, match="the graph of click differs from the trained head by"):
        fit_head("click", examples, examples, world.users, world.items, replace(QUICK, epochs=1))


def test_a_pair_is_held_out_with_all_its_examples() -> None:
    codes = np.repeat(np.arange(40), 3)
    examples = Examples(codes // 8, codes % 8, np.zeros(120), np.ones(120))
    rest, held = hold_out_pairs(examples, 8, HeadOptions(holdout=0.25))
    kept, gone = ({*zip(part.users.tolist(), part.items.tolist(), strict=True)} for part in (rest, held))
    assert (len(kept), len(gone), kept & gone, len(rest) + len(held)) == (30, 10, set(), 120)


def test_item_means_by_hand() -> None:
    examples = Examples(np.zeros(3, dtype=int), np.array([0, 0, 1]), np.array([5.0, 3.0, 1.0]), np.ones(3))
    mean, means = item_means(examples, 3, shrinkage=2.0)
    assert mean == 3.0
    np.testing.assert_allclose(means, [3 + 2 / 4, 3 - 2 / 3, 3])


@given(st.floats(-3, 3), st.floats(-2, 2))
def test_the_logistic_line_is_found_again(slope: float, intercept: float) -> None:
    scores = np.linspace(-2, 2, 201)
    found = fit_logistic(scores, sigmoid(slope * scores + intercept))  # soft labels: no noise
    np.testing.assert_allclose(found, (slope, intercept), atol=0.1)
    np.testing.assert_allclose(fit_line(scores, slope * scores + intercept), (slope, intercept), atol=1e-9)


def test_separable_and_constant_scores_have_a_line() -> None:
    slope, intercept = fit_logistic(np.array([-1.0, -0.5, 0.5, 1.0]), np.array([0.0, 0, 1, 1]))
    assert 1 < slope < 100
    assert intercept == pytest.approx(0, abs=1e-6)
    slope, intercept = fit_logistic(np.ones(4), np.array([1.0, 0, 0, 0]))
    assert slope * 1 + intercept == pytest.approx(np.log(1 / 3), abs=1e-3)
    assert fit_line(np.ones(2), np.array([1.0, 3.0])) == (0.0, 2.0)


@given(st.floats(-15, 15))
def test_logit_turns_sigmoid_round(x: float) -> None:
    assert logit(sigmoid(np.array(x))) == pytest.approx(x, abs=1e-6)


def test_evaluation_by_hand() -> None:
    class Fixed(Head):
        def predict(self, users: Any, items: Any = None, rows: Any = None) -> Any:
            return users[:, 0]

    train = Examples(np.array([0, 1]), np.array([0, 1]), np.array([1.0, 3.0]), np.ones(2))
    test = Examples(np.array([0, 1]), np.array([1, 0]), np.array([2.0, 1.0]), np.ones(2))
    users, items = np.array([[2.0], [3.0]], dtype=np.float32), np.zeros((2, 1), dtype=np.float32)
    found = evaluate_head(Fixed("rating", b"", 1, HeadOptions(shrinkage=1.0)), test, train, users, items)
    assert found["metrics"] == {"rmse": pytest.approx(2**0.5), "mae": 1.0}
    assert found["baselines"]["global mean"] == {"rmse": pytest.approx(0.5**0.5), "mae": 0.5}
    assert found["baselines"]["item mean"]["mae"] == pytest.approx(0.5)  # 2.5 and 1.5


def test_the_tables_show_figures_baselines_and_classes(world: World, heads: dict[Task, Head]) -> None:
    out = Console(file=StringIO(), width=80)
    for task in TASKS:
        print_task_report(world.report(heads[task]), out)
    many = world.report(heads["category"])
    rows = [
        {"class": f"[c{n}]", "precision": None, "recall": 0.0, "f1": 0.0, "support": n} for n in range(30)
    ]
    print_task_report(many | {"classes": rows, "unlabelled_events": 7}, out)
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    for word in (
        "popularity",
        "item mean",
        "own distribution",
        "AUC",
        "macro-F1",
        "genre 3",
        "[c29]",
        "7 events",
    ):
        assert word in shown
    assert "9 less frequent classes are not shown" in shown
    assert "1 classes have no event" in shown
