"""The graphs of heads by hand: terms, tastes, places, and what holds of everybody."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from encoder.heads.graph import CategoryWeights, PairWeights, TasteWeights, category_graph, pair_graph
from encoder.heads.options import HeadOptions
from encoder.heads.runtime import Head, Pairs
from encoder.heads.subjects import Subjects
from encoder.views import FloatArray


def f32(*values: object) -> FloatArray:
    return np.array(values, dtype=np.float32)


def weights(**more: object) -> PairWeights:
    terms = {
        "user_mean": f32(0.5, 0), "item_mean": f32(0, 1), "left": f32([1], [2]), "right": f32([3], [0]),
        "user": f32(0.1, 0), "item": f32(0, 0.2), "biases": f32(0.3, -0.3, 0), "everybody": f32(4, 3, 2),
        "inner": 2.0, "constant": 1.0,
    }  # fmt: skip
    return PairWeights(**(terms | more))  # type: ignore[arg-type]


SUBJECTS = Subjects(f32([1, 1], [0, 0]), np.array([0, 0]), np.array([0, 1]), f32(5, 2))
PAIRS = Pairs(np.array([0, 0, 1]), f32([1, 0], [0, 1], [1, 0]), np.array([0, -1, 1]), np.array([0, 25, -1]))
# u = (1, 1): <u, x> = 1 and 1; factors (0.5 + 2) · (3, 0); linear 0.05 and (−0.2, 0); biases 0.3, 0
FIRST, SECOND = 2 + 7.5 + 0.05 - 0.2 + 0.3 + 1, 2 + 0 + 0.05 + 0 + 0 + 1


def head(task: str, graph: bytes) -> Head:
    return Head(task, graph, 2, HeadOptions(), "score")  # type: ignore[arg-type]


def test_the_terms_of_a_click_and_its_place() -> None:
    places = np.zeros(22, dtype=np.float32)
    places[0], places[20], places[21] = 0.5, -1, 9
    graph = pair_graph(weights(places=places)).SerializeToString()
    found = head("click", graph).predict(SUBJECTS, PAIRS)
    np.testing.assert_allclose(found, expit([FIRST + 0.5, SECOND - 1, 3]), atol=1e-6)
    without = pair_graph(weights()).SerializeToString()
    np.testing.assert_allclose(
        head("click", without).predict(SUBJECTS, PAIRS), expit([FIRST, SECOND, 3]), atol=1e-6
    )


def test_hinges_bend_the_log_odds_of_a_click() -> None:
    graph = pair_graph(weights(knots=f32(2, 5), bends=f32(-0.5, 0.25))).SerializeToString()
    bent = [FIRST - 0.5 * (FIRST - 2) + 0.25 * (FIRST - 5), SECOND - 0.5 * (SECOND - 2), 3]
    np.testing.assert_allclose(head("click", graph).predict(SUBJECTS, PAIRS), expit(bent), atol=1e-6)


def test_the_taste_of_a_rating() -> None:
    taste = TasteWeights(
        biases=f32(0.5, -0.5), history=f32([1], [2]), asked=f32([3], [4], [0]),
        mean=3.0, deviation=2.0, gain=0.5, shrinkage=2.0,
    )  # fmt: skip
    graph = pair_graph(weights(taste=taste, low=-100.0, high=100.0)).SerializeToString()
    residual = np.array([(5 - 3) / 2 - 0.5, (2 - 3) / 2 + 0.5])  # 0.5, 0
    bias = residual.sum() / (2 + 2)
    p = ((residual - bias) * [1, 2]).sum() / np.sqrt(3)
    wanted = [FIRST + 0.5 * bias + 3 * p, SECOND + 0.5 * bias, 3]
    np.testing.assert_allclose(head("rating", graph).predict(SUBJECTS, PAIRS), wanted, atol=1e-5)
    clipped = pair_graph(weights(taste=taste, low=3.5, high=5.0)).SerializeToString()
    np.testing.assert_allclose(head("rating", clipped).predict(SUBJECTS, PAIRS), [5, 3.5, 3.5], atol=1e-5)


def test_an_item_without_a_vector_gets_what_holds_of_everybody() -> None:
    graph = pair_graph(weights(low=0.0, high=9.0)).SerializeToString()
    pairs = Pairs(np.array([0, 0]), f32([0, 0], [0, 0]), np.array([0, -1]), np.array([0, 0]))
    assert head("rating", graph).predict(SUBJECTS, pairs).tolist() == [4, 2]


def test_the_history_counts_among_the_categories() -> None:
    graph = category_graph(
        CategoryWeights(
            mean=f32(0, 1), matrix=f32([1, 0, 0], [0, 1, 0]), constants=f32(0, 0, 0.5),
            everybody=f32(0.5, 0.25, 0.25), classes=np.array([[0, 1], [2, 0]]),
            shares=f32([0.5, 0.5], [1, 0]), own=2.0, amount=4.0,
        )
    ).SerializeToString()  # fmt: skip
    nobody = Subjects(f32([1, 1], [0, 0], [0, 3]), np.array([0, 0]), np.array([0, 1]), f32(1, 1))
    found = head("category", graph).predict(nobody)
    own = (np.array([0.5, 0.5, 1]) + 4 * np.array([0.5, 0.25, 0.25])) / 6
    everybody = np.array([0.5, 0.25, 0.25])
    wanted = [
        softmax(np.array([1, 0, 0.5]) + 2 * np.log(own)),
        everybody,
        softmax(np.array([0, 2, 0.5]) + 2 * np.log(everybody)),
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert found.sum(axis=1) == pytest.approx([1, 1, 1])
