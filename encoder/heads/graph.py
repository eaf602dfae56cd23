"""A fitted head as plain arrays and as an ONNX graph; written node by node, so that it needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from encoder.arrays import IntArray
from encoder.views import FloatArray

_OPSET = 17
_IR_VERSION = 8


@dataclass(frozen=True)
class TasteWeights:
    """What the ratings of a person add to a score: a bias and a taste; see `encoder.heads.scores.Taste`.

    Shapes:
        biases: (N,) of the items of a history; history: (N, r); asked: (N + 1, r), the last row 0. All
            float32.

    Attributes:
        mean, deviation: of a rating; e_i = (rating_i − mean) / deviation − biases_i.
        gain: of the bias.
        shrinkage: of the bias.
    """

    biases: FloatArray
    history: FloatArray
    asked: FloatArray
    mean: float
    deviation: float
    gain: float
    shrinkage: float


@dataclass(frozen=True)
class PairWeights:
    """A head of click or rating, with scaling and calibration folded in.

    With v = V_u − user_mean and y = x_j − item_mean,
    score(u, j) = inner <V_u, x_j> + <v left, y right> + <v, user> + <y, item> + biases_j + constant, of click
    with places_p added, of rating with the taste. For a person without any view, or an item without a vector,
    it is everybody_j.

    Shapes:
        user_mean, item_mean, user, item: (D,); left, right: (D, r); biases, everybody: (N + 1,), the last
        one for an item that is none of the N; places: (P,), None where nothing was shown. All float32.
        low, high: what a rating is clipped to; a click has None and goes through a sigmoid.
        knots, bends: (m,) float32; of click, Σ bends_k max(score − knots_k, 0) is added to the score.
    """

    user_mean: FloatArray
    item_mean: FloatArray
    left: FloatArray
    right: FloatArray
    user: FloatArray
    item: FloatArray
    biases: FloatArray
    everybody: FloatArray
    inner: float
    constant: float
    places: FloatArray | None = None
    taste: TasteWeights | None = None
    low: float | None = None
    high: float | None = None
    knots: FloatArray | None = None
    bends: FloatArray | None = None


@dataclass(frozen=True)
class CategoryWeights:
    """A head of category: softmax((V_u − mean) matrix + constants + own log(shares of the history)).

    Shapes:
        mean: (D,); matrix: (D, C); constants, everybody: (C,), the latter the shares of all events. float32.
        classes: (N, m) int64, shares: (N, m) float32, the classes of each item and how much of it each has;
            where an item has fewer than m, the others are class 0 with share 0.

    Attributes:
        own: see above.
        amount: so many events like everybody's are added to a history.
    """

    mean: FloatArray
    matrix: FloatArray
    constants: FloatArray
    everybody: FloatArray
    classes: IntArray
    shares: FloatArray
    own: float
    amount: float


def pair_graph(weights: PairWeights) -> onnx.ModelProto:
    """Write a click or rating head as a graph; see `PairWeights` for the function that it computes.

    Inputs: vectors (S, D) float32, V_u; of rating the histories: owners, rated (h,) int64, positions among
    the S subjects and item rows, and ratings (h,) float32. For each pair: subject (B,) int64, items (B, D)
    float32, x_j, rows (B,) int64, the item's row, −1 where it has none, and of click, where something was
    shown, places (B,) int64.
    Output: predictions (B,) float32, a probability of a click or a rating.
    """
    rated, dim = weights.low is not None, len(weights.user_mean)
    graph = _Graph()
    for name in ("user_mean", "item_mean", "left", "right", "user", "item", "biases", "everybody"):
        graph.constant(name, getattr(weights, name))
    for name in ("inner", "constant"):
        graph.constant(name, np.float32(getattr(weights, name)))
    graph.takes("vectors", ["S", dim])
    if weights.taste is not None:
        graph.takes("owners", ["h"], TensorProto.INT64)
        graph.takes("rated", ["h"], TensorProto.INT64)
        graph.takes("ratings", ["h"])
    graph.takes("subject", ["B"], TensorProto.INT64)
    graph.takes("items", ["B", dim])
    graph.takes("rows", ["B"], TensorProto.INT64)

    users = graph("Gather", "vectors", "subject")  # (B, D)
    matched = graph("Mul", graph.row_sum(graph("Mul", users, "items")), "inner")
    user_centred, item_centred = graph("Sub", "vectors", "user_mean"), graph("Sub", "items", "item_mean")
    factors = graph("Gather", graph("MatMul", user_centred, "left"), "subject")  # (B, r)
    bilinear = graph.row_sum(graph("Mul", factors, graph("MatMul", item_centred, "right")))
    of_user = graph("Gather", graph("MatMul", user_centred, "user"), "subject")
    of_item = graph("MatMul", item_centred, "item")
    terms = [matched, bilinear, of_user, of_item, graph("Gather", "biases", "rows")]  # −1 takes the last one
    if weights.places is not None:
        graph.takes("places", ["B"], TensorProto.INT64)
        terms.append(graph("Gather", graph.constant("of_places", weights.places), "places"))
    if weights.taste is not None:
        terms += _taste(graph, weights.taste)
    score = graph("Add", graph("Sum", *terms), "constant")
    if weights.knots is not None and weights.bends is not None and len(weights.knots):
        knots, bends = graph.constant("knots", weights.knots), graph.constant("bends", weights.bends)
        beyond = graph("Relu", graph("Sub", graph.column(score), knots))  # (B, m)
        score = graph("Add", score, graph("MatMul", beyond, bends))
    known = graph("And", graph("Gather", _known(graph), "subject"), _known(graph, "items"))
    score = graph("Where", known, score, graph("Gather", "everybody", "rows"))
    if rated:
        for name in ("low", "high"):
            graph.constant(name, np.float32(getattr(weights, name)))
        graph.gives("predictions", ["B"], graph("Clip", score, "low", "high"))
    else:
        graph.gives("predictions", ["B"], graph("Sigmoid", score))
    return graph.model({"n_items": str(len(weights.biases) - 1)})


def category_graph(weights: CategoryWeights) -> onnx.ModelProto:
    """Write a category head as a graph.

    Inputs: vectors (S, D) float32, V_u; owners, rated (h,) int64, the items of the histories.
    Output: predictions (S, C) float32, probabilities of the classes; for a person without any view those of
    everybody.
    """
    dim, n_classes = weights.matrix.shape
    graph = _Graph()
    for name in ("mean", "matrix", "constants", "classes", "shares"):
        graph.constant(name, getattr(weights, name))
    everybody = graph.constant("everybody", weights.everybody)
    amount = graph.constant("amount", np.float32(weights.amount))
    graph.takes("vectors", ["S", dim])
    graph.takes("owners", ["h"], TensorProto.INT64)
    graph.takes("rated", ["h"], TensorProto.INT64)
    classes = graph("Gather", "classes", "rated")  # (h, m)
    owners = graph("Expand", graph.column("owners"), graph("Shape", classes))
    places = graph("Concat", graph.column(owners, 2), graph.column(classes, 2), axis=2)  # (h, m, 2)
    counts = graph.sums(places, graph("Gather", "shares", "rated"), [n_classes])  # (S, C)
    total = graph("Add", graph.row_sum(counts, keep=True), amount)
    shares = graph("Div", graph("Add", counts, graph("Mul", everybody, amount)), total)
    own = graph("Mul", graph("Log", shares), graph.constant("own", np.float32(weights.own)))
    linear = graph("MatMul", graph("Sub", "vectors", "mean"), "matrix")
    logits = graph("Sum", linear, "constants", own)
    known = graph.column(_known(graph))  # (S, 1)
    logits = graph("Where", known, logits, graph("Log", everybody))
    graph.gives("predictions", ["S", n_classes], graph("Softmax", logits, axis=1))
    return graph.model({"n_items": str(len(weights.classes))})


def _taste(graph: "_Graph", weights: TasteWeights) -> list[str]:
    """Add the terms (B,) of what the ratings of a person say."""
    scaled = graph("Sub", "ratings", graph.constant("rating_mean", np.float32(weights.mean)))
    scaled = graph("Div", scaled, graph.constant("rating_deviation", np.float32(weights.deviation)))
    table = graph.constant("history_biases", weights.biases)
    residual = graph("Sub", scaled, graph("Gather", table, "rated"))  # (h,)
    owners, one = graph.column("owners"), graph.constant("one", np.float32(1))
    counts = graph.sums(owners, graph("Expand", one, graph("Shape", "ratings")))  # (S,)
    shrunk = graph("Add", counts, graph.constant("shrinkage", np.float32(weights.shrinkage)))
    bias = graph("Div", graph.sums(owners, residual), shrunk)
    left = graph.column(graph("Sub", residual, graph("Gather", bias, "owners")))  # (h, 1)
    left = graph("Mul", left, graph("Gather", graph.constant("y", weights.history), "rated"))  # (h, r)
    taste = graph.sums(owners, left, [weights.history.shape[1]])  # (S, r)
    taste = graph("Div", taste, graph.column(graph("Sqrt", graph("Add", counts, one))))
    of_pair = graph(
        "Mul", graph("Gather", taste, "subject"), graph("Gather", graph.constant("q", weights.asked), "rows")
    )
    gained = graph("Mul", bias, graph.constant("bias_gain", np.float32(weights.gain)))
    return [graph("Gather", gained, "subject"), graph.row_sum(of_pair)]


def _known(graph: "_Graph", vectors: str = "vectors") -> str:
    """Add whether a vector (n, D) is anything but zero: (n,) bool."""
    longest = graph("ReduceMax", graph("Abs", vectors), axes=[1], keepdims=0)
    return graph("Greater", longest, graph.constant("nothing", np.float32(0)))


class _Graph:
    """A graph that is being written; a call adds a node and returns the name of its output."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Any] = {"last": np.array([1])}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"value_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        """Add a constant and return its name."""
        self._constants[name] = np.asarray(value)
        return name

    def takes(self, name: str, shape: Sequence[str | int], kind: int = TensorProto.FLOAT) -> None:
        """Add an input."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))

    def gives(self, name: str, shape: Sequence[str | int], value: str) -> None:
        """Make a value the output, under a name."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def row_sum(self, value: str, *, keep: bool = False) -> str:
        """Sum the rows of a matrix (n, m): (n,), or (n, 1)."""
        return self("ReduceSum", value, "last", keepdims=int(keep))

    def column(self, value: str, axis: int = 1) -> str:
        """Add an axis of length 1."""
        return self("Unsqueeze", value, self.constant(f"axis_{axis}", np.array([axis])))

    def sums(self, places: str, values: str, width: Sequence[int] = ()) -> str:
        """Sum values by subject (and column): (S, *width); `places` end in the place of each value."""
        size = self("Gather", self("Shape", "vectors"), self.constant("first", np.array([0])))
        if width:
            size = self("Concat", size, self.constant("width", np.array(width)), axis=0)
        zeros = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
        return self("ScatterND", self("ConstantOfShape", size, value=zeros), places, values, reduction="add")

    def model(self, facts: Mapping[str, str]) -> onnx.ModelProto:
        """Return the model, checked, with facts in its metadata."""
        tensors = [numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        graph = helper.make_graph(self._nodes, "head", self._inputs, self._outputs, tensors)
        opset = helper.make_opsetid("", _OPSET)
        model = helper.make_model(
            graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="triptych"
        )
        helper.set_model_props(model, dict(facts))
        onnx.checker.check_model(model)
        return model
