"""Continued pre-training of a language model on the users' own texts and the items' texts."""

import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from encoder.text.graph import load, quiet
from encoder.text.source import UnsupportedTextModelError, fetch
from encoder.text.tuning.device import autocast, reproducible, tokens
from encoder.text.tuning.loop import Fit, Task, fit
from encoder.text.tuning.masked_lm import Predictor, is_causal
from encoder.text.tuning.options import AdaptOptions
from encoder.text.tuning.pairs import draw_texts
from encoder.text.tuning.registry import TuningRequest
from store.export import Export

if TYPE_CHECKING:
    from torch import Tensor

_HEAD_RATE = 1e-3

log = logging.getLogger(__name__)


def adapt_text_model(source: str, export: Export, text_models: Path, options: AdaptOptions) -> Path:
    """Return a folder in the sentence-transformers layout, adapted now or found from before.

    An encoder model guesses masked tokens, a decoder model the next one; all weights are trained.
    The folder is a source for `tune_text_model` and `export_text_model`. Where no epoch lowers the
    perplexity of held-out texts the weights are the untouched ones, and metrics.json beside the
    folder says so.

    Raises:
        TextModelUnavailableError, UnsupportedTextModelError: of the source.
        TooFewTextsError: fewer than two texts to train on or to judge by.
        TextTuningDivergedError: the loss is no longer a number.
        DamagedArtifactError: the earlier result is damaged.

    Source:
        Gururangan et al. 2020, "Don't stop pretraining: adapt language models to domains and tasks".
    """
    folder = fetch(source)
    request = TuningRequest.of(text_models, source, folder, export, "adapt", options)
    found = request.find()
    if found is not None:
        return found
    with quiet():
        model = load(source, folder, options.pooling).model
    causal = is_causal(source, model[0].auto_model.config)
    if model.tokenizer.pad_token_id is None:
        raise UnsupportedTextModelError(source, "its tokenizer has no padding token")
    if not causal and model.tokenizer.mask_token_id is None:
        raise UnsupportedTextModelError(source, "its tokenizer has no mask token to train with")
    texts, held_out = draw_texts(export, options)
    log.info("adapting text model %s on %d texts", source, len(texts))
    result = _adapt(model, texts, held_out, options, causal=causal)
    more = {
        "objective": "causal" if causal else "masked",
        "perplexity_before": _perplexity(result.before),
        "perplexity_after": _perplexity(result.after),
        "texts": len(texts),
        "held_out_texts": len(held_out),
    }
    log.info("perplexity %s → %s", more["perplexity_before"], more["perplexity_after"])
    return request.publish(model, result, more)


def _perplexity(loss: float) -> float | None:
    """Return e to the loss; None beyond what a float can hold, as of a head that knows nothing yet."""
    return math.exp(loss) if loss < math.log(sys.float_info.max) else None


def _adapt(model: Any, texts: list[str], held_out: list[str], options: AdaptOptions, *, causal: bool) -> Fit:
    import torch  # noqa: PLC0415  only while training

    batch = min(options.batch, len(texts))
    steps = max(1, min(options.texts, len(texts)) // batch)

    def encoded(some: list[str]) -> "dict[str, Tensor]":
        return tokens(model, some, options.max_tokens)

    def step_loss(step: int) -> "Tensor":
        rows = (step * batch + np.arange(batch)) % len(texts)
        with autocast(device):
            return predictor.loss(encoded([texts[row] for row in rows]), generator)

    def judge() -> float:
        again = torch.Generator().manual_seed(options.seed)  # every epoch guesses the same tokens
        total, seen = 0.0, 0
        for start in range(0, len(held_out), options.batch):
            with autocast(device):
                loss, count = predictor.total(encoded(held_out[start : start + options.batch]), again)
            total, seen = total + loss, seen + count
        return total / seen

    with reproducible(options.seed) as device:
        generator = torch.Generator().manual_seed(options.seed)
        model.to(device)
        predictor = Predictor.of(model, options.mask, device, causal=causal)
        _warm_head(predictor, step_loss, options.head_steps)
        return fit(Task("adapt text", model, predictor.parameters(), steps, step_loss, judge), options)


def _warm_head(predictor: Predictor, step_loss: "Callable[[int], Tensor]", steps: int) -> None:
    """Train the head alone, so that the model need not change to suit a head that knows nothing."""
    import torch  # noqa: PLC0415

    optimiser = torch.optim.AdamW(predictor.head().values(), lr=_HEAD_RATE)
    predictor.model.eval().requires_grad_(requires_grad=False)
    for step in tqdm(range(steps), desc="prediction head", unit="step", disable=None):
        step_loss(step).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    predictor.model.requires_grad_(requires_grad=True)
