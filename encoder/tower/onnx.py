"""A fitted tower as ONNX graphs; written node by node, so that it needs no torch."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from encoder.content import INPUTS
from encoder.model_files import ITEM_GRAPH, USER_GRAPH
from encoder.tower.fusion import MAX_GATE_SLOPE, Fusion
from encoder.tower.tower import Tower

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
        _constant("one", np.float32(1.0)),
        _constant("last", np.array([1])),
        _constant("widths", np.array(tower.widths)),
    ]
    blocks = range(len(tower.blocks))
    nodes = [
        helper.make_node("Greater", ["amounts", "zero"], ["there"]),
        helper.make_node("Cast", ["there"], ["present"], to=TensorProto.FLOAT),
        helper.make_node("Exp", ["amounts"], ["counts_and_one"]),
        helper.make_node("Sub", ["counts_and_one", "one"], ["counts"]),  # (B, 3)
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
    width, dim = sum(tower.widths), tower.dim
    widths = [width, tower.text_dim, width, 3]
    return _model(
        "user_tower", nodes, constants,
        [_value(n, ["B", w]) for n, w in zip([*_VIEWS, "amounts"], widths, strict=True)],
        [_value("vectors", ["B", dim]), _value("parts", ["B", 3, dim])],
    )  # fmt: skip


def _block(fusion: Fusion, b: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes and constants that give parts<b> (B, 3, D) of one block, as `Fusion.parts` does."""
    nodes, constants = _aligned(fusion, b)
    for added, named in (_gates(fusion, b), _credits(fusion, b)):
        nodes += added
        constants += named
    nodes += [
        helper.make_node("ReduceSum", [f"trusted{b}", "last"], [f"total{b}"], keepdims=1),
        helper.make_node("Max", [f"total{b}", "tiny"], [f"total_safe{b}"]),
        helper.make_node("Div", [f"trusted{b}", f"total_safe{b}"], [f"weights{b}"]),  # (B, 3)
        helper.make_node("Split", [f"weights{b}"], [f"weight_{v}{b}" for v in _VIEWS], axis=1),
    ]
    for view in _VIEWS:
        at = f"{view}{b}"
        nodes.append(helper.make_node("Mul", [f"z_{at}", f"weight_{at}"], [f"gated_{at}"]))
        gated = [f"gated_{at}"]
        if fusion.constant:
            gated.append(f"weight_{at}")  # the coordinate that is 1 before the gate
        nodes += [
            helper.make_node("Concat", gated, [f"full_{at}"], axis=1),
            helper.make_node("Unsqueeze", [f"full_{at}", "last"], [f"part_{at}"]),  # (B, 1, D)
        ]
    nodes.append(helper.make_node("Concat", [f"part_{v}{b}" for v in _VIEWS], [f"parts{b}"], axis=1))
    return nodes, constants


def _aligned(fusion: Fusion, b: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return what gives z_<view><b> (B, D) of each view, as `Fusion.aligned` does."""
    nodes, constants = [], []
    for i, (view, matrix) in enumerate(zip(_VIEWS, fusion.matrices, strict=True)):
        at = f"{view}{b}"
        constants += [
            _constant(f"alignment_{at}", matrix),
            _constant(f"offset_{at}", fusion.offsets[i : i + 1].astype(np.float32)),
        ]
        source = view if view == "text" else at
        linear = f"aligned_{at}" if fusion.unit else f"z_{at}"
        nodes += [
            helper.make_node("MatMul", [source, f"alignment_{at}"], [f"linear_{at}"]),  # (B, D)
            helper.make_node("Add", [f"linear_{at}", f"offset_{at}"], [linear]),
        ]
        if fusion.unit:
            nodes += [
                helper.make_node("ReduceL2", [linear], [f"norm_{at}"], axes=[1], keepdims=1),
                helper.make_node("Max", [f"norm_{at}", "tiny"], [f"norm_safe_{at}"]),
                helper.make_node("Div", [linear, f"norm_safe_{at}"], [f"z_{at}"]),
            ]
    return nodes, constants


def _gates(fusion: Fusion, b: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return what gives shrunk<b> (B, 3), the shrinkage of each view, and masked<b>, its gate times that."""
    bound = np.float32(MAX_GATE_SLOPE)
    constants = [
        _constant(f"gates{b}", np.array([fusion.gates], dtype=np.float32)),  # (1, 3)
        _constant(f"slopes{b}", np.ascontiguousarray(fusion.slopes.T)),
        _constant(f"low{b}", -bound),
        _constant(f"high{b}", bound),
        _constant(f"pseudo_counts{b}", np.array([fusion.trust.pseudo_counts], dtype=np.float32)),
    ]
    nodes = [
        helper.make_node("MatMul", ["amounts", f"slopes{b}"], [f"slope{b}"]),
        helper.make_node("Clip", [f"slope{b}", f"low{b}", f"high{b}"], [f"moved{b}"]),
        helper.make_node("Exp", [f"moved{b}"], [f"factor{b}"]),
        helper.make_node("Add", ["counts", f"pseudo_counts{b}"], [f"with_pseudo{b}"]),
        helper.make_node("Max", [f"with_pseudo{b}", "tiny"], [f"with_pseudo_safe{b}"]),
        helper.make_node("Div", ["counts", f"with_pseudo_safe{b}"], [f"shrunk{b}"]),
        helper.make_node("Mul", [f"factor{b}", f"gates{b}"], [f"open{b}"]),
        helper.make_node("Mul", [f"open{b}", "present"], [f"there{b}"]),
        helper.make_node("Mul", [f"there{b}", f"shrunk{b}"], [f"masked{b}"]),
    ]
    return nodes, constants


def _credits(fusion: Fusion, b: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return what gives trusted<b> (B, 3): masked<b> times the credit that agreement gives each view."""
    trust = fusion.trust
    if not any(trust.sharpness):
        return [helper.make_node("Identity", [f"masked{b}"], [f"trusted{b}"])], []
    constants = [
        _constant(f"identity{b}", np.eye(3, dtype=np.float32)[None]),
        _constant(f"off_diagonal{b}", 1 - np.eye(3, dtype=np.float32)[None]),
        _constant(f"columns{b}", np.array([2])),
        _constant(f"sharpness{b}", np.array([trust.sharpness], dtype=np.float32)),
        _constant(f"sharp{b}", np.array([trust.sharpness]) > 0),
        _constant(f"expectation{b}", np.array([trust.expected], dtype=np.float32)),
    ]
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        *(("Unsqueeze", [f"z_{view}{b}", "last"], f"row_{view}{b}", {}) for view in _VIEWS),
        ("Concat", [f"row_{view}{b}" for view in _VIEWS], f"z{b}", {"axis": 1}),  # (B, 3, D)
        ("Transpose", [f"z{b}"], f"z_t{b}", {"perm": [0, 2, 1]}),
        ("MatMul", [f"z{b}", f"z_t{b}"], f"gram{b}", {}),  # (B, 3, 3)
        ("Unsqueeze", [f"masked{b}", "last"], f"masked_row{b}", {}),
        ("Mul", [f"masked_row{b}", f"off_diagonal{b}"], f"others{b}", {}),  # (B, 3, 3)
        ("ReduceSum", [f"others{b}", f"columns{b}"], f"others_total{b}", {"keepdims": 0}),
        ("Mul", [f"others{b}", f"gram{b}"], f"toward_each{b}", {}),
        ("ReduceSum", [f"toward_each{b}", f"columns{b}"], f"toward{b}", {"keepdims": 0}),
        ("MatMul", [f"others{b}", f"gram{b}"], f"through{b}", {}),
        ("Mul", [f"through{b}", f"others{b}"], f"squares_each{b}", {}),
        ("ReduceSum", [f"squares_each{b}", f"columns{b}"], f"squares{b}", {"keepdims": 0}),
        ("Mul", [f"gram{b}", f"identity{b}"], f"own_each{b}", {}),
        ("ReduceSum", [f"own_each{b}", f"columns{b}"], f"own{b}", {"keepdims": 0}),
        ("Mul", [f"squares{b}", f"own{b}"], f"lengths_squared{b}", {}),
        ("Max", [f"lengths_squared{b}", "zero"], f"lengths_safe{b}", {}),
        ("Sqrt", [f"lengths_safe{b}"], f"lengths{b}", {}),
        ("Max", [f"lengths{b}", "tiny"], f"lengths_positive{b}", {}),
        ("Div", [f"toward{b}", f"lengths_positive{b}"], f"agreement{b}", {}),
        ("Unsqueeze", [f"shrunk{b}", "last"], f"shrunk_row{b}", {}),
        ("Mul", [f"others{b}", f"shrunk_row{b}"], f"reliable_each{b}", {}),
        ("ReduceSum", [f"reliable_each{b}", f"columns{b}"], f"reliable{b}", {"keepdims": 0}),
        ("Max", [f"others_total{b}", "tiny"], f"others_safe{b}", {}),
        ("Div", [f"reliable{b}", f"others_safe{b}"], f"reliability{b}", {}),
        ("Mul", [f"reliability{b}", f"shrunk{b}"], f"both{b}", {}),
        ("Sqrt", [f"both{b}"], f"root{b}", {}),
        ("Mul", [f"root{b}", f"expectation{b}"], f"expected{b}", {}),
        ("Sub", [f"agreement{b}", f"expected{b}"], f"beyond{b}", {}),
        ("Mul", [f"beyond{b}", f"sharpness{b}"], f"logit{b}", {}),
        ("Sigmoid", [f"logit{b}"], f"sigmoid{b}", {}),
        ("Greater", [f"others_total{b}", "zero"], f"has_others{b}", {}),
        ("And", [f"has_others{b}", f"sharp{b}"], f"judged{b}", {}),
        ("Where", [f"judged{b}", f"sigmoid{b}", "one"], f"credit{b}", {}),
        ("Mul", [f"masked{b}", f"credit{b}"], f"trusted{b}", {}),
    ]
    nodes = [helper.make_node(kind, inputs, [output], **options) for kind, inputs, output, options in steps]
    return nodes, constants


def item_graph(tower: Tower) -> onnx.ModelProto:
    """Return the graph of the item tower.

    Inputs: id_vector (B, D), zero for an item without one; those of text (B, D_T), words (B, D_W), attributes
    (B, D_A) and vector (B, D_X) that the tower knows, zero where an item has none; pattern (1,) int64, the
    combination of parts that all of these items have (`patterns_of`).
    Output: vectors (B, D) float32: the id vector, or the one from content where there is none.

    Raises:
        ValueError: the tower has no content tower.
    """
    if tower.content is None:
        raise ValueError("the tower has no content tower")
    maps = tower.content.maps
    widths = {part: width for part, width in zip(INPUTS, maps.widths, strict=True) if width}
    nodes = [
        helper.make_node("ReduceL2", ["id_vector"], ["norm"], axes=[1], keepdims=1),
        helper.make_node("Greater", ["norm", "zero"], ["known"]),
        helper.make_node("Equal", ["norm", "norm"], ["always"]),
        helper.make_node("Cast", ["always"], ["constant"], to=TensorProto.FLOAT),  # (B, 1), all 1
        helper.make_node("Concat", ["constant", *widths], ["content"], axis=1),
        helper.make_node("Gather", ["maps", "pattern"], ["chosen"], axis=0),  # (1, 1 + D_C, D)
        helper.make_node("Squeeze", ["chosen", "first"], ["map"]),
        helper.make_node("MatMul", ["content", "map"], ["projected"]),
        helper.make_node("Where", ["known", "id_vector", "projected"], ["vectors"]),
    ]
    constants = [
        _constant("zero", np.float32(0.0)),
        _constant("first", np.array([0])),
        _constant("maps", maps.maps),
    ]
    pattern = helper.make_tensor_value_info("pattern", TensorProto.INT64, [1])
    return _model(
        "item_tower", nodes, constants,
        [_value("id_vector", ["B", tower.dim]), *(_value(n, ["B", w]) for n, w in widths.items()), pattern],
        [_value("vectors", ["B", tower.dim])],
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


def _constant(name: str, value: npt.NDArray[Any] | np.generic) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _value(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
