"""A fitted head as plain arrays and as an ONNX graph; written node by node, so that it needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from encoder.views import FloatArray

_OPSET = 17
_IR_VERSION = 8


@dataclass(frozen=True)
class PairWeights:
    """A head of click or rating, with scaling and calibration folded in.

    With v = V_u − user_mean and y = x_j − item_mean,
    score(u, j) = inner <V_u, x_j> + <v left, y right> + <v, user> + <y, item> + biases_j + constant.

    Shapes:
        user_mean, item_mean, user, item: (D,); left, right: (D, r); biases: (N + 1,), the last one 0, for an
        item that is none of the N. All float32.
        low, high: what a rating is clipped to; a click has None and goes through a sigmoid.
    """

    user_mean: FloatArray
    item_mean: FloatArray
    left: FloatArray
    right: FloatArray
    user: FloatArray
    item: FloatArray
    biases: FloatArray
    inner: float
    constant: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class CategoryWeights:
    """A head of category: softmax((V_u − mean) matrix + constants).

    Shapes:
        mean: (D,); matrix: (D, C); constants: (C,). All float32.
    """

    mean: FloatArray
    matrix: FloatArray
    constants: FloatArray


def pair_graph(weights: PairWeights) -> onnx.ModelProto:
    """Write a click or rating head as a graph; see `PairWeights` for the function that it computes.

    Inputs: users (B, D) float32, V_u; items (B, D) float32, x_j; rows (B,) int64, the item's row, −1 where it
    has none.
    Output: predictions (B,) float32, a probability of a click or a rating.
    """
    rated = weights.low is not None
    constants: dict[str, Any] = {
        "user_mean": weights.user_mean,
        "item_mean": weights.item_mean,
        "left": weights.left,
        "right": weights.right,
        "user": weights.user,
        "item": weights.item,
        "biases": weights.biases,
        "inner": np.float32(weights.inner),
        "constant": np.float32(weights.constant),
        "last": np.array([1]),
    } | ({"low": np.float32(weights.low), "high": np.float32(weights.high)} if rated else {})
    nodes = [
        helper.make_node("Mul", ["users", "items"], ["products"]),
        helper.make_node("ReduceSum", ["products", "last"], ["inner_product"], keepdims=0),  # (B,)
        helper.make_node("Mul", ["inner_product", "inner"], ["matched"]),
        helper.make_node("Sub", ["users", "user_mean"], ["user_centred"]),
        helper.make_node("Sub", ["items", "item_mean"], ["item_centred"]),
        helper.make_node("MatMul", ["user_centred", "left"], ["user_factors"]),  # (B, r)
        helper.make_node("MatMul", ["item_centred", "right"], ["item_factors"]),  # (B, r)
        helper.make_node("Mul", ["user_factors", "item_factors"], ["factors"]),
        helper.make_node("ReduceSum", ["factors", "last"], ["bilinear"], keepdims=0),
        helper.make_node("MatMul", ["user_centred", "user"], ["of_user"]),
        helper.make_node("MatMul", ["item_centred", "item"], ["of_item"]),
        helper.make_node("Gather", ["biases", "rows"], ["bias"]),  # −1 takes the last one, 0
        helper.make_node("Sum", ["matched", "bilinear", "of_user", "of_item", "bias"], ["varying"]),
        helper.make_node("Add", ["varying", "constant"], ["score"]),
        helper.make_node("Clip", ["score", "low", "high"], ["predictions"])
        if rated
        else helper.make_node("Sigmoid", ["score"], ["predictions"]),
    ]
    dim = len(weights.user_mean)
    inputs = [
        _value("users", ["B", dim]),
        _value("items", ["B", dim]),
        helper.make_tensor_value_info("rows", TensorProto.INT64, ["B"]),
    ]
    model = _model(nodes, constants, inputs, _value("predictions", ["B"]))
    helper.set_model_props(model, {"n_items": str(len(weights.biases) - 1)})
    return model


def category_graph(weights: CategoryWeights) -> onnx.ModelProto:
    """Write a category head as a graph.

    Input: users (B, D) float32, V_u.
    Output: predictions (B, C) float32, probabilities of the classes.
    """
    constants = {"mean": weights.mean, "matrix": weights.matrix, "constants": weights.constants}
    nodes = [
        helper.make_node("Sub", ["users", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "matrix"], ["products"]),
        helper.make_node("Add", ["products", "constants"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["predictions"], axis=1),
    ]
    dim, n_classes = weights.matrix.shape
    return _model(nodes, constants, [_value("users", ["B", dim])], _value("predictions", ["B", n_classes]))


def _model(
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, Any],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "head", inputs, [output], tensors)
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="triptych")
    onnx.checker.check_model(model)
    return model


def _value(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
