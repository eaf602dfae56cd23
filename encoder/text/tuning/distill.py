"""A smaller language model: fewer layers, taught on the users' own texts what the whole model gives."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from encoder.progress import LongStage
from encoder.text.graph import load, quiet
from encoder.text.source import UnsupportedTextModelError, fetch
from encoder.text.tuning.loop import TuningResult, TuningTask, autocast, reproducible, run_tuning, tokenize
from encoder.text.tuning.options import CompressOptions
from encoder.text.tuning.pairs import draw_texts
from encoder.text.tuning.registry import TuningRequest
from store.export import Export

log = logging.getLogger(__name__)


class LayerCountError(ValueError):
    """A model was to keep more layers than it can give, or none."""

    def __init__(self, source: str, layers: int, total: int) -> None:
        can = f"1..{total - 1}" if total > 1 else "no fewer"
        super().__init__(f"text model {source!r} has {total} layers and can keep {can}, not {layers}")
        self.layers = layers
        self.total = total


def evenly_spaced(layers: int, total: int) -> list[int]:
    """Choose the layers that stay, counted from 0: the middle one of each of `layers` equal stretches."""
    return [(2 * row + 1) * total // (2 * layers) for row in range(layers)]


def prune(source: str, model: Any, layers: int | None) -> list[int]:
    """Cut layers out of a SentenceTransformer and return those that stay, counted from 0.

    Args:
        source: of the model, for errors.
        model: changed in place.
        layers: number of those that stay; None: half of them.

    Raises:
        LayerCountError: not at least one, or not fewer than there are.
        UnsupportedTextModelError: its layers are not kept in one list, as where they share weights.
    """
    transformer = model[0].auto_model
    stack = _stack(source, transformer)
    total = len(stack)
    wanted = total // 2 if layers is None else layers
    if not 1 <= wanted < total:
        raise LayerCountError(source, wanted, total)
    kept = evenly_spaced(wanted, total)
    for row in sorted(set(range(total)) - set(kept), reverse=True):
        del stack[row]
    for row, layer in enumerate(stack):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # by which decoders find their place in the cache
                module.layer_idx = row  # type: ignore[assignment]
    config = transformer.config
    config.num_hidden_layers = wanted
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[row] for row in kept]
    return kept


def _stack(source: str, transformer: Any) -> nn.ModuleList:
    """Return the list that holds the layers of a transformer.  Raises: UnsupportedTextModelError."""
    total = getattr(transformer.config, "num_hidden_layers", None)
    lists = [one for one in transformer.modules() if isinstance(one, nn.ModuleList) and len(one) == total]
    if len(lists) != 1:
        kind = transformer.config.model_type
        raise UnsupportedTextModelError(source, f"{len(lists)} lists of {total} layers in {kind}, not one")
    return lists[0]


def compress_text_model(source: str, export: Export, text_models: Path, options: CompressOptions) -> Path:
    """Make a language model with fewer layers, or find the result of an equal earlier call.

    The layers that stay begin as the teacher's own and learn to give its vectors, so dim, tokenizer and
    pooling are the teacher's. The returned folder, in the sentence-transformers layout, is a source for
    `export_text_model`; metrics.json lies beside it.

    Args:
        source: the teacher, as `export_text_model` takes it.
        export: the texts of its users and items; texts about held-out behaviours are invisible to it.
        text_models: folder of the language models.
        options: equal ones on the same source and export find the earlier result.

    Raises:
        TextModelUnavailableError, UnsupportedTextModelError: of the source.
        LayerCountError: not fewer layers than the teacher has, or none.
        TooFewTextsError: fewer than two texts to train on or to judge by.
        TextTuningDivergedError: the loss is no longer a number.
        DamagedArtifactError: the earlier result is damaged.

    Source:
        Sanh et al. 2019, "DistilBERT" (layers of the teacher to begin with, cosine loss); Reimers and
        Gurevych 2020, "Making monolingual sentence embeddings multilingual" (the sentence vector as target).
    """
    folder = fetch(source)
    request = TuningRequest.of(text_models, source, folder, export, "compress", options)
    found = request.find()
    if found is not None:
        return found
    with quiet():
        teacher, student = (load(source, folder, options.pooling).model for _ in range(2))
    if student.tokenizer.pad_token_id is None:
        raise UnsupportedTextModelError(source, "its tokenizer has no padding token")
    kept = prune(source, student, options.layers)
    texts, held_out = draw_texts(export, options)
    log.info("compressing text model %s to layers %s on %d texts", source, kept, len(texts))
    result = _distil(teacher, student, texts, held_out, options)
    more = {
        "layers": kept,
        "texts": len(texts),
        "held_out_texts": len(held_out),
        "cosine_before": 1 - result.before,
        "cosine_after": 1 - result.after,
    }
    log.info("held-out cosine to the teacher %.4f → %.4f", more["cosine_before"], more["cosine_after"])
    return request.publish(student, result, more)


def _distil(
    teacher: Any, student: Any, texts: list[str], held_out: list[str], options: CompressOptions
) -> TuningResult:
    batch = min(options.batch, len(texts))
    steps = max(1, min(options.texts, len(texts)) // batch)

    def distance(some: list[str], wanted: Tensor) -> Tensor:
        """Return 1 − cosine, the mean over texts; half the squared distance of unit vectors."""
        return 1 - (_vectors(student, some, options, device) * wanted.to(device)).sum(dim=-1).mean()

    def step_loss(step: int) -> Tensor:
        rows = (step * batch + np.arange(batch)) % len(texts)
        return distance([texts[row] for row in rows], targets[rows])

    def judge() -> float:
        total = 0.0
        for start in range(0, len(held_out), options.batch):
            some = held_out[start : start + options.batch]
            total += distance(some, judged[start : start + options.batch]).item() * len(some)
        return total / len(held_out)

    with reproducible(options.seed) as device:
        teacher.to(device)
        targets, judged = (_targets(teacher, some, options, device) for some in (texts, held_out))
        teacher.to("cpu")
        student.to(device)
        return run_tuning(
            TuningTask("compress text", student, _trained(student), steps, step_loss, judge), options
        )


def _trained(student: Any) -> dict[str, nn.Parameter]:
    """Return all parameters but those of the words.

    Words that no text holds would stay behind while the others move, and their gradient alone is larger
    than that of all layers of a small model.
    """
    words = student[0].auto_model.get_input_embeddings().weight.requires_grad_(requires_grad=False)
    return {name: one for name, one in student.named_parameters() if one is not words}


def _targets(teacher: Any, texts: list[str], options: CompressOptions, device: torch.device) -> Tensor:
    """Encode texts with the teacher, once for all epochs: unit vectors (N, D) float32 on the CPU."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]), reverse=True)
    targets = torch.zeros(len(texts), teacher.get_embedding_dimension())
    with torch.no_grad(), LongStage("teacher", len(texts), "text") as stage:
        for start in range(0, len(order), options.batch):
            rows = order[start : start + options.batch]
            targets[rows] = _vectors(teacher, [texts[row] for row in rows], options, device).cpu()
            stage.advance(len(rows))
    return targets


def _vectors(model: Any, texts: list[str], options: CompressOptions, device: torch.device) -> Tensor:
    with autocast(device):
        vectors = model(tokenize(model, texts, options.max_tokens))["sentence_embedding"]
    return normalize(vectors.float(), dim=-1)  # (B, D)
