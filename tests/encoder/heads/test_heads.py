import json
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from scipy import sparse
from scipy.special import expit

from encoder.arrays import NO_TIME, Actions, Events, TextColumns
from encoder.content import RawContent
from encoder.dataset import Dataset
from encoder.heads.class_fit import fit_categories
from encoder.heads.examples import (
    Examples,
    NoExamplesError,
    category_examples,
    drawn_examples,
    folds_of,
    rating_examples,
)
from encoder.heads.fit import HeadParityError, fit_head
from encoder.heads.graph import category_graph, pair_graph
from encoder.heads.labels import LabelError, item_labels
from encoder.heads.model import FrozenVectors, HeadRows, head_report, train_head
from encoder.heads.options import HeadOptions, HeadOptionsError, Task, TaskError
from encoder.heads.pair_fit import fit_pairs
from encoder.heads.report import evaluate_head
from encoder.heads.runtime import Head, HeadInputError, Pairs, load_heads, save_head
from encoder.heads.statistics import bent_line, fit_line, item_means, platt_line, rating_biases
from encoder.heads.subjects import Asked, Subjects, asked
from scripts.evaluate.tables import print_task_report
from store.artifact import DamagedArtifactError, sha256

USERS, ITEMS, DIM, GENRES = 150, 60, 8, 4
QUICK = HeadOptions(epochs=12, patience=3, batch=256, rate=0.02, decays=(0.3,), taste_rank=4, folds=4, seed=1)
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

    def rows(self, data: Dataset | None = None) -> HeadRows:
        return HeadRows(data or self.data, self.attributes, self.kinds)

    @property
    def vectors(self) -> FrozenVectors:
        return FrozenVectors(lambda _, rows: self.users[rows], self.items)

    def train(self, task: Task, data: Dataset | None = None) -> tuple[Head, dict[str, Any]]:
        return train_head(task, self.rows(data), self.vectors, OPTIONS[task])

    def report(self, head: Head, split: str = "test") -> dict[str, Any]:
        return head_report(head, self.rows(), split, self.vectors)

    def asked(self, examples: Examples) -> Asked:
        return asked(examples, self.data, self.vectors.of_users, ())


def pairs_of(world: World, users: list[int], items: list[int], rows: list[int] | None = None) -> Pairs:
    subject, asked_for = np.array(users, dtype=np.int64), np.array(items, dtype=np.int64)
    known = asked_for if rows is None else np.array(rows, dtype=np.int64)
    return Pairs(subject, world.items[asked_for], known, np.zeros(len(users), dtype=np.int64))


def people(vectors: Any) -> Subjects:
    none = np.zeros(0, dtype=np.int64)
    return Subjects(vectors, none, none, np.zeros(0, dtype=np.float32))


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
    assert train_head("click", world.rows(), world.vectors, other)[0].graph != heads["click"].graph


@pytest.mark.parametrize("task", ["click", "rating"])
def test_the_graph_agrees_with_torch_on_pairs(world: World, task: Task) -> None:
    def examples(split: str) -> Asked:
        click = task == "click"
        return world.asked(
            drawn_examples(world.data, split, QUICK) if click else rating_examples(world.data, split)
        )

    train, test = examples("train"), examples("test")
    fitted = fit_pairs(task, train, test, world.items, replace(QUICK, epochs=2))
    head = Head(task, pair_graph(fitted.weights()).SerializeToString(), DIM, QUICK, "score")
    shown = test.examples
    pairs = Pairs(test.subject, world.items[shown.items], shown.items, shown.positions)
    found, wanted = head.predict(test.subjects, pairs), fitted.predict(test, world.items)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * max(1, np.abs(wanted).max()))
    assert np.std(found) > 0.05


def test_the_graph_agrees_with_torch_on_categories(world: World) -> None:
    labels = item_labels("attributes.style.genre", world.attributes, world.kinds, 9)
    train = world.asked(category_examples(world.data, "train", labels.shares)[0])
    fitted = fit_categories(train, train, labels, QUICK)
    head = Head("category", category_graph(fitted.weights()).SerializeToString(), DIM, QUICK, "probability")
    found = head.predict(train.subjects)
    np.testing.assert_allclose(found, fitted.predict(train), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_saved_heads_come_back_as_they_were(world: World, heads: dict[Task, Head], tmp_path: Path) -> None:
    for head in heads.values():
        save_head(head, tmp_path)
    back = load_heads(tmp_path)
    assert back == heads
    assert world.report(back["rating"]) == world.report(heads["rating"])
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert names == {f"heads/{task}.{kind}" for task in TASKS for kind in ("onnx", "json")}


def test_the_one_head_of_a_model_of_before_still_loads(tmp_path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("users", TensorProto.FLOAT, ["B", 2]),
            ("items", TensorProto.FLOAT, ["B", 2]),
            ("rows", TensorProto.INT64, ["B"]),
        )
    ]
    last = numpy_helper.from_array(np.array([1]), "last")
    nodes = [
        helper.make_node("Mul", ["users", "items"], ["products"]),
        helper.make_node("ReduceSum", ["products", "last"], ["matched"], keepdims=0),
        helper.make_node("Cast", ["rows"], ["bias"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["matched", "bias"], ["predictions"]),
    ]
    output = helper.make_tensor_value_info("predictions", TensorProto.FLOAT, ["B"])
    graph = helper.make_graph(nodes, "head", inputs, [output], [last])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "head.onnx").write_bytes(model.SerializeToString())
    facts = {
        "task": "rating", "dim": 2, "options": {"label": None, "decay": 0.01, "holdout": 0.1, "rank": 8},
        "classes": [], "metrics": {}, "sha256": sha256(tmp_path / "head.onnx"),
    }  # fmt: skip
    (tmp_path / "head.json").write_text(json.dumps(facts))
    (head,) = load_heads(tmp_path).values()
    assert (head.task, head.quantity, head.actions) == ("rating", "rating", ())
    subject, rows = np.array([0, 1, 1]), np.array([0, 1, 2])
    pairs = Pairs(subject, np.array([[1, 1], [1, 1], [0, 2]], dtype=np.float32), rows, rows)
    assert head.predict(people(np.array([[1, 2], [3, 4]], dtype=np.float32)), pairs).tolist() == [3, 8, 10]


def test_a_damaged_head_is_named(heads: dict[Task, Head], tmp_path: Path) -> None:
    assert load_heads(tmp_path) == {}
    save_head(heads["click"], tmp_path)
    graph, about = tmp_path / "heads" / "click.onnx", tmp_path / "heads" / "click.json"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + b"x")
    with pytest.raises(DamagedArtifactError, match=r"click\.onnx: is damaged"):
        load_heads(tmp_path)
    graph.write_bytes(whole)
    told = about.read_text()
    for broken in ("{}", "[]", "not json", told.replace('"dim"', '"dims"')):
        about.write_text(broken)
        with pytest.raises(DamagedArtifactError, match=r"click\.json: is damaged"):
            load_heads(tmp_path)
    about.write_text(told.replace(f'"dim": {DIM}', '"dim": 3'))
    with pytest.raises(DamagedArtifactError, match=r"click\.onnx: cannot be run as a head"):
        load_heads(tmp_path)
    about.unlink()
    with pytest.raises(DamagedArtifactError, match=r"click\.json: is missing"):
        load_heads(tmp_path)


def test_serving_a_head_loads_neither_torch_nor_onnx(heads: dict[Task, Head], tmp_path: Path) -> None:
    save_head(heads["category"], tmp_path)
    code = (
        "import sys, numpy as np; from pathlib import Path; from encoder.heads import Subjects, load_heads; "
        f"head = load_heads(Path({str(tmp_path)!r}))['category']; none = np.zeros(0, 'i8'); "
        f"nobody = Subjects(np.zeros((1, {DIM}), 'f4'), none, none, np.zeros(0, 'f4')); "
        "print(head.predict(nobody).shape, {'torch', 'onnx', 'sklearn'} & set(sys.modules))"
    )
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert ended.stdout == f"(1, {GENRES}) set()\n"


def test_a_new_item_has_no_bias_but_a_score(world: World, heads: dict[Task, Head]) -> None:
    users, five = people(world.users[:5]), list(range(5))
    new = heads["rating"].predict(users, pairs_of(world, five, five, [-1] * 5))
    known = heads["rating"].predict(users, pairs_of(world, five, five))
    assert np.abs(new - known).max() > 1e-3
    assert heads["rating"].predict(users, pairs_of(world, [], [])).shape == (0,)


def test_many_subjects_and_pairs_are_predicted_in_parts(
    world: World, heads: dict[Task, Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    users = np.repeat(np.arange(USERS), 3)
    examples = world.asked(
        Examples.of_pairs(users, np.tile(np.arange(3), USERS), np.zeros(len(users)), ITEMS)
    )
    shown = examples.examples
    pairs = Pairs(examples.subject, world.items[shown.items], shown.items, shown.positions)
    at_once = {task: heads[task].predict(examples.subjects, pairs) for task in ("click", "rating")}
    classes = heads["category"].predict(examples.subjects)
    monkeypatch.setattr("encoder.heads.runtime._SUBJECTS", 7)
    monkeypatch.setattr("encoder.heads.runtime._PAIRS", 4)
    for task, whole in at_once.items():
        np.testing.assert_allclose(heads[task].predict(examples.subjects, pairs), whole, atol=1e-5)  # type: ignore[index]
    np.testing.assert_allclose(heads["category"].predict(examples.subjects), classes, atol=1e-6)


def test_ratings_stay_within_those_of_train(world: World, heads: dict[Task, Head]) -> None:
    pairs = pairs_of(world, list(range(USERS)), [0] * USERS)
    far = heads["rating"].predict(people(100 * world.users), replace(pairs, items=-100 * pairs.items))
    given = world.data.history.weights
    assert far.min() == np.float32(given.min())
    assert far.max() <= np.float32(given.max())


def test_what_does_not_fit_a_head_is_refused(world: World, heads: dict[Task, Head]) -> None:
    users, pairs = people(world.users[:3]), pairs_of(world, [0, 1, 2], [0, 1, 2])
    unknown = replace(users, owners=np.array([0]), rows=np.array([ITEMS]), ratings=np.ones(1, np.float32))
    short = FrozenVectors(world.vectors.of_users, world.items[:5])
    few, far = replace(pairs, items=world.items[:2]), replace(pairs, rows=np.array([0, 1, ITEMS]))
    bare = replace(world.rows(), attributes=[])
    for call, message in (
        (lambda: heads["click"].predict(users), "takes subjects and pairs"),
        (lambda: heads["category"].predict(users, pairs), "takes subjects alone"),
        (lambda: heads["click"].predict(users, few), r"items are float32 \(2, 8\), not float32 \(3,"),
        (lambda: heads["category"].predict(people(world.users.astype(np.float64))), "vectors are float64"),
        (lambda: heads["click"].predict(users, far), r"not in -1\.\.59"),
        (lambda: heads["rating"].predict(unknown, pairs), r"rows of histories 60\.\.60 are not in 0\.\.59"),
        (lambda: head_report(heads["click"], world.rows(), "test", short), "item vectors are"),
        (lambda: head_report(heads["category"], bare, "test", world.vectors), "0 items"),
    ):
        with pytest.raises(HeadInputError, match=message):
            call()


def test_drawn_clicks_are_the_observed_pairs_and_pairs_of_no_split() -> None:
    history = events([(0, 0), (0, 0), (0, 1), (1, 2), (2, 3), (2, 4)])
    data = dataset(history, {"valid": events([(0, 2)]), "test": events([(1, 3), (0, 0), (0, 2)])}, 3, 6)
    train = drawn_examples(data, "train", HeadOptions(negatives=50))
    pairs = list(zip(train.users.tolist(), train.items.tolist(), train.labels.tolist(), strict=True))
    assert sorted(pair[:2] for pair in pairs if pair[2]) == [(0, 0), (0, 1), (1, 2), (2, 3), (2, 4)]
    assert {pair[:2] for pair in pairs if not pair[2]} == {
        (0, 3), (0, 4), (1, 0), (1, 1), (1, 4), (2, 0), (2, 1), (2, 2),
    }  # fmt: skip  # item 5 has no user
    test = drawn_examples(data, "test", HeadOptions(negatives=1))
    assert (test.users[test.labels == 1].tolist(), test.items[test.labels == 1].tolist()) == ([1], [3])


def test_unobserved_pairs_are_drawn_by_popularity() -> None:
    history = events([(user, 0) for user in range(1, 17)] + [(17, 1), (0, 2)])
    drawn = drawn_examples(dataset(history, {}, 18, 3), "train", HeadOptions(negatives=3000))
    of_first = drawn.items[(drawn.labels == 0) & (drawn.users == 0)]
    assert (of_first == 0).sum() / (of_first == 1).sum() == pytest.approx(16**0.75, rel=0.2)


def test_who_has_seen_everything_gives_no_clicks() -> None:
    with pytest.raises(NoExamplesError, match="nobody has an unseen item"):
        drawn_examples(dataset(events([(0, 0), (0, 1)]), {}, 1, 2), "train", HeadOptions())


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
    with pytest.raises(TaskError, match="'retrieval' has no head"):
        train_head("retrieval", world.rows(), world.vectors, QUICK)
    with pytest.raises(LabelError, match="click takes no label"):
        train_head("click", world.rows(), world.vectors, OPTIONS["category"])
    other = [{"style": {"genre": f"g {i % 2}"}} for i in range(ITEMS)]
    with pytest.raises(LabelError, match="other than the 4 of the head"):
        head_report(heads["category"], replace(world.rows(), attributes=other), "test", world.vectors)
    for wrong in (
        {"epochs": 0},
        {"rate": 0.0},
        {"decays": (-1.0,)},
        {"decays": ()},
        {"max_classes": 1},
        {"folds": 1},
        {"seed": -1},
    ):
        with pytest.raises(HeadOptionsError, match=f"head option {next(iter(wrong))} is"):
            HeadOptions(**wrong)  # type: ignore[arg-type]


def test_labels_that_do_not_vary_and_empty_splits_are_refused(world: World) -> None:
    same = events([(0, 0), (1, 1), (2, 0)])
    examples = rating_examples(dataset(same, {}, 3, 2), "train")
    some = world.asked(examples)

    def fit(task: Task, valid: Asked) -> Head:
        return fit_head(task, some, valid, world.items, QUICK, quantity="rating")

    with pytest.raises(NoExamplesError, match="every label is 1"):
        fit("rating", some)
    with pytest.raises(NoExamplesError, match="'valid': there is none"):
        fit("rating", some.where(examples.users < 0))
    with pytest.raises(TaskError):
        fit("retrieval", some)
    alone = dataset(events([(0, 0, 1.0), (0, 0, 2.0)]), {}, 1, ITEMS)
    with pytest.raises(NoExamplesError):
        world.train("rating", alone)


def test_vectors_that_are_not_finite_are_refused(world: World) -> None:
    broken = world.users.copy()
    broken[7, 0] = np.nan
    examples = rating_examples(world.data, "train")
    some = asked(examples, world.data, lambda _, rows: broken[rows], ())
    with pytest.raises(HeadInputError, match="the user vector of row 7 is not finite"):
        fit_head("rating", some, some, world.items, QUICK, quantity="rating")


def test_a_graph_that_differs_from_torch_is_no_head(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.heads.fit.PARITY", 0.0)  # the last digits always differ
    some = world.asked(drawn_examples(world.data, "train", QUICK))
    with pytest.raises(HeadParityError, match="the graph of click differs from the trained head by"):
        fit_head("click", some, some, world.items, replace(QUICK, epochs=1), quantity="score")


def test_a_unit_is_dealt_to_one_fold_with_all_its_examples() -> None:
    codes = np.repeat(np.arange(40), 3)
    examples = Examples.of_pairs(codes // 8, codes % 8, np.zeros(120), 8)
    folds = folds_of(examples, 4, seed=0)
    assert [len(set(folds[codes == code])) for code in range(40)] == [1] * 40
    assert np.bincount(folds).tolist() == [30] * 4
    np.testing.assert_array_equal(folds, folds_of(examples, 4, seed=0))
    assert (folds != folds_of(examples, 4, seed=1)).any()


def test_item_means_by_hand() -> None:
    examples = Examples.of_pairs(np.zeros(3, dtype=int), np.array([0, 0, 1]), np.array([5.0, 3.0, 1.0]), 3)
    mean, means = item_means(examples, 3, shrinkage=2.0)
    assert mean == 3.0
    np.testing.assert_allclose(means, [3 + 2 / 4, 3 - 2 / 3, 3])


def test_rating_biases_are_those_of_items_among_strict_and_kind_users() -> None:
    users, items = np.repeat(np.arange(40), 5), np.tile(np.arange(5), 40)
    of_user, of_item = np.linspace(-1, 1, 40), np.array([-0.5, 0, 0, 0.25, 0.25])
    examples = Examples.of_pairs(users, items, 3 + of_user[users] + of_item[items], 6)
    found = rating_biases(examples, 6, shrinkage=1e-6)
    np.testing.assert_allclose(found, np.append(of_item, 0), atol=1e-4)
    assert np.abs(rating_biases(examples, 6, shrinkage=40.0)).max() < 0.3


@given(st.floats(-3, 3), st.floats(-2, 2))
def test_the_logistic_line_is_found_again(slope: float, intercept: float) -> None:
    scores = np.linspace(-2, 2, 4001)
    drawn = np.random.default_rng(0).random(4001)
    found = platt_line(scores, (drawn < expit(slope * scores + intercept)).astype(np.float64))
    np.testing.assert_allclose(found, (slope, intercept), atol=0.35)
    np.testing.assert_allclose(fit_line(scores, slope * scores + intercept), (slope, intercept), atol=1e-9)


def test_hinges_straighten_what_a_line_cannot() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=20_000)
    p = np.where(scores > 0.5, 0.6, 0.05)  # a step
    labels = (rng.random(len(p)) < p).astype(np.float64)
    slope, intercept, hinges = bent_line(scores, labels)
    bent, (a, b) = expit(hinges.apply(slope * scores + intercept)), platt_line(scores, labels)
    assert len(hinges.knots)
    assert np.abs(bent - p).mean() < 0.5 * np.abs(expit(a * scores + b) - p).mean()
    order = np.argsort(scores)
    assert np.diff(bent[order]).min() > -1e-9
    straight = (rng.random(len(p)) < expit(2 * scores - 1)).astype(np.float64)
    slope, intercept, hinges = bent_line(scores[:5_000], straight[:5_000])
    line = hinges.apply(slope * scores + intercept)
    np.testing.assert_allclose(line[np.abs(scores) < 2], (2 * scores - 1)[np.abs(scores) < 2], atol=0.35)
    assert not len(bent_line(scores[:300], labels[:300])[2].knots)  # too few to tell


def test_separable_and_constant_scores_have_a_line() -> None:
    slope, intercept = platt_line(np.array([-1.0, -0.5, 0.5, 1.0]), np.array([0.0, 0, 1, 1]))
    assert 1 < slope < 100
    assert intercept == pytest.approx(0, abs=1e-4)
    slope, intercept = platt_line(np.ones(4), np.array([1.0, 0, 0, 0]))
    assert slope * 1 + intercept == pytest.approx(np.log(1 / 3), abs=1e-3)
    assert platt_line(np.array([1.0, 2.0]), np.zeros(2)) == (0.0, pytest.approx(np.log(1 / 3)))
    assert fit_line(np.ones(2), np.array([1.0, 3.0])) == (0.0, 2.0)


def test_evaluation_by_hand() -> None:
    class Fixed(Head):
        def predict(self, subjects: Subjects, pairs: Pairs | None = None) -> Any:
            assert pairs is not None
            return subjects.vectors[pairs.subject, 0]

    train = Examples.of_pairs(np.array([0, 1]), np.array([0, 1]), np.array([1.0, 3.0]), 2)
    test = Examples.of_pairs(np.array([0, 1]), np.array([1, 0]), np.array([2.0, 1.0]), 2)
    users, items = np.array([[2.0], [3.0]], dtype=np.float32), np.zeros((2, 1), dtype=np.float32)
    some = Asked(test, people(users), np.arange(2), np.full(2, -1))
    head = Fixed("rating", b"", 1, HeadOptions(shrinkage=1.0, rating_shrinkage=1.0), "rating")
    found = evaluate_head(head, some, train, items)
    assert found["metrics"] == {"rmse": pytest.approx(2**0.5), "mae": 1.0}
    assert found["baselines"]["global mean"] == {"rmse": pytest.approx(0.5**0.5), "mae": 0.5}
    assert found["baselines"]["item mean"]["mae"] == pytest.approx(0.5)  # 2.5 and 1.5
    assert found["baselines"]["user mean"]["mae"] == pytest.approx(1.0)  # 1.5 and 2.5
    gain = found["gains"]["global mean"]["absolute_error"]
    assert gain["mean"] == pytest.approx(-0.5)  # (0 − 0 + 1 − 2) / 2
    assert gain["ci95"] == [pytest.approx(-1), 0]


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
