"""A fitted tower as ONNX graphs; written node by node, so that it needs no torch."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from encoder.runtime import ITEM_GRAPH, USER_GRAPH
from encoder.tower import Tower
from encoder.views import FloatArray

_OPSET = 17
_IR_VERSION = 8
_VIEWS = ("history", "text", "social")


def export_towers(tower: Tower, directory: Path, facts: dict[str, str]) -> None:
    """Write the user and item graphs into a directory; `facts` become the graphs' metadata."""
    for name, model in ((USER_GRAPH, user_graph(tower)), (ITEM_GRAPH, item_graph(tower))):
        helper.set_model_props(model, facts)
        onnx.checker.check_model(model)
        onnx.save_model(model, directory / name)


def user_graph(tower: Tower) -> onnx.ModelProto:
    """Return the graph of the user tower.

    Inputs: history (B, D_H), text (B, D_T), social (B, D_H), present (B, 3), all float32.
    Outputs: vectors (B, D) and parts (B, 3, D) float32; vectors are the sum of the parts.
    """
    gates = np.array([tower.config.gates], dtype=np.float32)  # (1, 3)
    constants = [
        _constant("gates", gates),
        _constant("tiny", np.float32(1e-12)),
        _constant("last", np.array([1])),
    ]
    nodes = [
        helper.make_node("Mul", ["present", "gates"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "last"], ["total"], keepdims=1),
        helper.make_node("Max", ["total", "tiny"], ["total_safe"]),
        helper.make_node("Div", ["masked", "total_safe"], ["weights"]),  # (B, 3)
        helper.make_node("Split", ["weights"], [f"weight_{v}" for v in _VIEWS], axis=1),
    ]
    for view, matrix in zip(_VIEWS, tower.alignment.matrices, strict=True):
        constants.append(_constant(f"alignment_{view}", matrix))
        aligned = f"aligned_{view}"
        nodes.append(helper.make_node("MatMul", [view, f"alignment_{view}"], [aligned]))  # (B, D)
        if tower.alignment.unit:
            nodes += [
                helper.make_node("ReduceL2", [aligned], [f"norm_{view}"], axes=[1], keepdims=1),
                helper.make_node("Max", [f"norm_{view}", "tiny"], [f"norm_safe_{view}"]),
                helper.make_node("Div", [aligned, f"norm_safe_{view}"], [f"unit_{view}"]),
            ]
            aligned = f"unit_{view}"
        nodes += [
            helper.make_node("Mul", [aligned, f"weight_{view}"], [f"gated_{view}"]),
            helper.make_node("Unsqueeze", [f"gated_{view}", "last"], [f"part_{view}"]),  # (B, 1, D)
        ]
    nodes += [
        helper.make_node("Concat", [f"part_{v}" for v in _VIEWS], ["parts"], axis=1),  # (B, 3, D)
        helper.make_node("ReduceSum", ["parts", "last"], ["vectors"], keepdims=0),
    ]
    widths = [*(m.shape[0] for m in tower.alignment.matrices), 3]
    dim = tower.alignment.matrices[0].shape[1]
    return _model(
        "user_tower", nodes, constants,
        [_value(n, ["B", w]) for n, w in zip([*_VIEWS, "present"], widths, strict=True)],
        [_value("vectors", ["B", dim]), _value("parts", ["B", 3, dim])],
    )  # fmt: skip


def item_graph(tower: Tower) -> onnx.ModelProto:
    """Return the graph of the item tower.

    Inputs: id_vector (B, D), zero for an item without one; text (B, D_T), zero where there is no text.
    Output: vectors (B, D) float32: the id vector, or the projected text where there is none.
    """
    nodes = [
        helper.make_node("ReduceL2", ["id_vector"], ["norm"], axes=[1], keepdims=1),
        helper.make_node("Greater", ["norm", "zero"], ["known"]),
        helper.make_node("MatMul", ["text", "item_text"], ["projected"]),
        helper.make_node("Where", ["known", "id_vector", "projected"], ["vectors"]),
    ]
    constants = [_constant("zero", np.float32(0.0)), _constant("item_text", tower.item_text)]
    text_dim, dim = tower.item_text.shape
    return _model(
        "item_tower", nodes, constants,
        [_value("id_vector", ["B", dim]), _value("text", ["B", text_dim])], [_value("vectors", ["B", dim])],
    )  # fmt: skip


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="triptych")


def _constant(name: str, value: FloatArray | np.generic) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _value(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
