"""A fitted tower as ONNX graphs; written node by node, so that it needs no torch."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from encoder.runtime import ITEM_GRAPH, USER_GRAPH
from encoder.tower.tower import MAX_GATE_SLOPE, Fusion, Tower
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

    Inputs: history (B, Σ D_H), text (B, D_T), social (B, Σ D_H), amounts (B, 3), all float32.
    Outputs: vectors (B, D) and parts (B, 3, D) float32; vectors are the sum of the parts.
    """
    constants = [
        _constant("tiny", np.float32(1e-12)),
        _constant("zero", np.float32(0.0)),
        _constant("last", np.array([1])),
        _constant("widths", np.array(tower.widths)),
    ]
    blocks = range(len(tower.blocks))
    nodes = [
        helper.make_node("Greater", ["amounts", "zero"], ["there"]),
        helper.make_node("Cast", ["there"], ["present"], to=TensorProto.FLOAT),
        *(
            helper.make_node("Split", [view, "widths"], [f"{view}{b}" for b in blocks], axis=1)
            for view in ("history", "social")
        ),
    ]
    for b, block in enumerate(tower.blocks):
        added, named = _block(block.fusion, str(b))
        nodes += added
        constants += named
    nodes += [
        helper.make_node("Concat", [f"parts{b}" for b in blocks], ["whole"], axis=2),  # (B, 3, Σ D)
        helper.make_node("MatMul", ["whole", "compression"], ["parts"])
        if tower.compression
        else helper.make_node("Identity", ["whole"], ["parts"]),
        helper.make_node("ReduceSum", ["parts", "last"], ["vectors"], keepdims=0),
    ]
    if tower.compression:
        constants.append(_constant("compression", tower.compression.users))
    width, dim = sum(tower.widths), tower.item_text_map.shape[1]
    widths = [width, tower.item_text_map.shape[0], width, 3]
    return _model(
        "user_tower", nodes, constants,
        [_value(n, ["B", w]) for n, w in zip([*_VIEWS, "amounts"], widths, strict=True)],
        [_value("vectors", ["B", dim]), _value("parts", ["B", 3, dim])],
    )  # fmt: skip


def _block(fusion: Fusion, b: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes and constants that give parts<b> (B, 3, D) of one block, as `Fusion.parts` does."""
    gates = np.array([fusion.gates], dtype=np.float32)  # (1, 3)
    bound = np.float32(MAX_GATE_SLOPE)
    constants = [
        _constant(f"gates{b}", gates),
        _constant(f"slopes{b}", np.ascontiguousarray(fusion.slopes.T)),
        _constant(f"low{b}", -bound),
        _constant(f"high{b}", bound),
    ]
    nodes = [
        helper.make_node("MatMul", ["amounts", f"slopes{b}"], [f"slope{b}"]),
        helper.make_node("Clip", [f"slope{b}", f"low{b}", f"high{b}"], [f"moved{b}"]),
        helper.make_node("Exp", [f"moved{b}"], [f"factor{b}"]),
        helper.make_node("Mul", [f"factor{b}", f"gates{b}"], [f"open{b}"]),
        helper.make_node("Mul", [f"open{b}", "present"], [f"masked{b}"]),
        helper.make_node("ReduceSum", [f"masked{b}", "last"], [f"total{b}"], keepdims=1),
        helper.make_node("Max", [f"total{b}", "tiny"], [f"total_safe{b}"]),
        helper.make_node("Div", [f"masked{b}", f"total_safe{b}"], [f"weights{b}"]),  # (B, 3)
        helper.make_node("Split", [f"weights{b}"], [f"weight_{v}{b}" for v in _VIEWS], axis=1),
    ]
    for i, (view, matrix) in enumerate(zip(_VIEWS, fusion.matrices, strict=True)):
        at = f"{view}{b}"
        constants += [
            _constant(f"alignment_{at}", matrix),
            _constant(f"offset_{at}", fusion.offsets[i : i + 1].astype(np.float32)),
        ]
        source = view if view == "text" else at
        nodes += [
            helper.make_node("MatMul", [source, f"alignment_{at}"], [f"linear_{at}"]),  # (B, D)
            helper.make_node("Add", [f"linear_{at}", f"offset_{at}"], [f"aligned_{at}"]),
        ]
        aligned = f"aligned_{at}"
        if fusion.unit:
            nodes += [
                helper.make_node("ReduceL2", [aligned], [f"norm_{at}"], axes=[1], keepdims=1),
                helper.make_node("Max", [f"norm_{at}", "tiny"], [f"norm_safe_{at}"]),
                helper.make_node("Div", [aligned, f"norm_safe_{at}"], [f"unit_{at}"]),
            ]
            aligned = f"unit_{at}"
        nodes.append(helper.make_node("Mul", [aligned, f"weight_{at}"], [f"gated_{at}"]))
        gated = [f"gated_{at}"]
        if fusion.constant:
            gated.append(f"weight_{at}")  # the coordinate that is 1 before the gate
        nodes += [
            helper.make_node("Concat", gated, [f"full_{at}"], axis=1),
            helper.make_node("Unsqueeze", [f"full_{at}", "last"], [f"part_{at}"]),  # (B, 1, D)
        ]
    nodes.append(helper.make_node("Concat", [f"part_{v}{b}" for v in _VIEWS], [f"parts{b}"], axis=1))
    return nodes, constants


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
    constants = [_constant("zero", np.float32(0.0)), _constant("item_text", tower.item_text_map)]
    text_dim, dim = tower.item_text_map.shape
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
