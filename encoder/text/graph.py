"""The torch side of the export of a language model: load it, and write it as one ONNX graph."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.text.source import POOLINGS, Pooling, UnsupportedTextModelError, check_modules

if TYPE_CHECKING:
    from torch import Tensor, nn

_OPSET = 17
_INLINE_BYTES = 1_900_000_000  # protobuf ends at 2 GiB; heavier weights go beside the graph


@dataclass(frozen=True)
class Sentence:
    """A loaded SentenceTransformer, the pooling that it uses, and the one that its own modules name."""

    model: Any
    pooling: str
    own_pooling: str | None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the notices of transformers, the tracer and the quantiser off the terminal; errors still show."""
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415  loads torch

    notices: Any = transformers_logging  # partly untyped
    level, bars = logging.root.manager.disable, notices.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    notices.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            notices.enable_progress_bar()


def load(source: str, folder: Path, pooling: Pooling | None) -> Sentence:
    """Load the model of a folder in float32 on the CPU, from safetensors and without its own code.

    Raises:
        UnsupportedTextModelError: it cannot be loaded so, or its pooling is unknown.
    """
    has_modules = check_modules(source, folder)
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  loads torch
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule  # noqa: PLC0415

    try:
        model = SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        )
    except (OSError, ValueError, LookupError, ImportError, RuntimeError) as error:
        raise UnsupportedTextModelError(source, f"sentence-transformers cannot load it ({error})") from error
    layer = next((module for module in model if isinstance(module, PoolingModule)), None)
    if layer is None:
        raise UnsupportedTextModelError(source, "it has no pooling module")
    own = str(layer.pooling_mode) if has_modules else None
    if (pooling or own) not in POOLINGS:
        what = "names no pooling of its own" if own is None else f"pools by {own}"
        raise UnsupportedTextModelError(source, f"it {what}; say which of {', '.join(POOLINGS)} to use")
    if model.default_prompt_name and not layer.include_prompt:
        raise UnsupportedTextModelError(source, "it leaves its default prompt out of the pooling")
    layer.pooling_mode = pooling or layer.pooling_mode
    return Sentence(model.eval(), str(layer.pooling_mode), own)


def write_graph(sentence: Sentence, path: Path, metadata: Mapping[str, str], *, int8: bool) -> None:
    """Write the model as ONNX at `path`; weights beyond protobuf's limit go to `path`.data beside it.

    Shapes:
        input_ids, attention_mask: (B, L) int64, both axes dynamic.
        vectors: (B, D) float32, unit rows.
    """
    import onnx  # noqa: PLC0415  with torch, only needed here

    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        written = Path(scratch) / "fp32" / path.name
        written.parent.mkdir()
        _trace(sentence, written)
        if int8:
            written = _quantise(written, Path(scratch) / path.name)
        graph = onnx.load(written)  # with the weights that the tracer may have put beside it
    onnx.helper.set_model_props(graph, dict(metadata))
    outside = sum(len(tensor.raw_data) for tensor in graph.graph.initializer) > _INLINE_BYTES
    onnx.save(graph, path, save_as_external_data=outside, location=f"{path.name}.data")


def _trace(sentence: Sentence, path: Path) -> None:
    import torch  # noqa: PLC0415

    # As plain products attention costs ONNX Runtime 12 to 18 % less time (128 tokens) than as what a fused
    # operator is taken apart into, which also guards against rows that are masked whole.
    sentence.model[0].auto_model.set_attn_implementation("eager")
    texts = ["one example of a text", "a longer second one, so that the first is padded"]
    tokens = sentence.model.tokenizer(texts, padding=True, return_tensors="pt")
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        _unit_vectors(sentence),
        (tokens["input_ids"], tokens["attention_mask"]),
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["vectors"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "vectors": {0: "batch"}},
        opset_version=_OPSET,
        dynamo=False,
    )


def _unit_vectors(sentence: Sentence) -> "nn.Module":
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    class UnitVectors(nn.Module):
        """Transformer, pooling and unit length; input_ids, attention_mask (B, L) -> (B, D)."""

        def __init__(self) -> None:
            super().__init__()
            self.sentence = sentence.model
            self.wants_types = "token_type_ids" in sentence.model.tokenizer.model_input_names

        def forward(self, input_ids: "Tensor", attention_mask: "Tensor") -> "Tensor":
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            if self.wants_types:
                features["token_type_ids"] = torch.zeros_like(input_ids)
            for module in self.sentence:
                features = module(features)
            return nn.functional.normalize(features["sentence_embedding"], dim=-1)  # (B, D)

    return UnitVectors().eval()


def _quantise(source: Path, target: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    # Weights of 7 bits: with 8, a processor without VNNI overflows the 16 bits in which it adds two products,
    # and the same model gives other vectors there.
    quantize_dynamic(
        source,
        target,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        use_external_data_format=sum(p.stat().st_size for p in source.parent.iterdir()) > _INLINE_BYTES,
    )
    return target
