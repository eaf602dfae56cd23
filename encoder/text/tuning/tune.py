"""A language model tuned on what users wrote and did: low-rank adapters, merged into its weights."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from encoder.text.graph import load, quiet
from encoder.text.source import UnsupportedTextModelError, fetch
from encoder.text.tuning.loop import TuningResult, TuningTask, autocast, reproducible, run_tuning, tokenize
from encoder.text.tuning.lora import attach
from encoder.text.tuning.options import TuneOptions
from encoder.text.tuning.pairs import TextPair, draw_pairs, normalised
from encoder.text.tuning.registry import TuningRequest
from store.export import Export

# Scripts that write no spaces: there each character counts as a word.
_CHARACTER = r"[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_WORD = re.compile(rf"({_CHARACTER}|(?:(?!{_CHARACTER})\S)+)(\s*)")
_SHORTEST = 4  # a text of fewer words is left as it is

log = logging.getLogger(__name__)


def words(text: str) -> list[tuple[str, str]]:
    """Return the words of a text, each with the space after it; Chinese characters are words."""
    return _WORD.findall(text.strip())


def augmented(texts: Sequence[str], truncate: float, replace: float, rng: np.random.Generator) -> list[str]:
    """Cut some texts to a random span and replace some words by words of the other texts.

    Args:
        texts: of one batch, none of them blank.
        truncate: probability that a text is cut; at least half of its words stay.
        replace: share of the words to replace, in expectation.
        rng: of every draw.

    Source:
        Xie et al. 2017, "Data noising as smoothing in neural network language models", section 3.2
        (unigram noising; here the unigrams are those of the batch).
    """
    split = [words(text) for text in texts]
    result = []
    for row, own in enumerate(split):
        kept = own
        if len(own) >= _SHORTEST and rng.random() < truncate:
            length = int(rng.integers((len(own) + 1) // 2, len(own) + 1))
            start = int(rng.integers(len(own) - length + 1))
            kept = own[start : start + length]
        if len(own) >= _SHORTEST and replace:
            kept = [
                (_foreign(split, row, rng), gap) if changed else (word, gap)
                for (word, gap), changed in zip(kept, rng.random(len(kept)) < replace, strict=True)
            ]
        result.append("".join(word + gap for word, gap in kept).strip())
    return result


def _foreign(split: Sequence[Sequence[tuple[str, str]]], row: int, rng: np.random.Generator) -> str:
    """Draw a word of another text of the batch; of the same text where it is alone."""
    other = (row + int(rng.integers(1, max(len(split), 2)))) % len(split)
    return split[other][int(rng.integers(len(split[other])))][0]


def tune_text_model(source: str, export: Export, text_models: Path, options: TuneOptions) -> Path:
    """Tune a language model on what users wrote and did, or find the result of an equal earlier call.

    The returned folder, in the sentence-transformers layout, is a source for `export_text_model`. The loss
    draws a user's text near the items of the user's visible history and away from those of others. Where no
    epoch beats the untouched model on users held out for it, the weights are the untouched ones and
    metrics.json beside the folder says so.

    Args:
        source: as `export_text_model` takes it.
        export: the data; held-out behaviours and texts about them are invisible to it.
        text_models: folder of the language models.
        options: equal ones on the same source and export find the earlier result.

    Raises:
        TextModelUnavailableError, UnsupportedTextModelError: of the source.
        NoAttentionLayersError: no layer to adapt.
        TooFewTextsError: no pairs.
        TextTuningDivergedError: the loss is no longer a number.
        DamagedArtifactError: the earlier result is damaged.
    """
    folder = fetch(source)
    request = TuningRequest.of(text_models, source, folder, export, options.method, options)
    found = request.find()
    if found is not None:
        return found
    with quiet():
        model = load(source, folder, options.pooling).model
    if model.tokenizer.pad_token_id is None:
        raise UnsupportedTextModelError(source, "its tokenizer has no padding token")
    pairs, held_out = draw_pairs(export, options)
    log.info("tuning text model %s by %s on %d pairs", source, options.method, len(pairs))
    result = _tune(model, pairs, held_out, options)
    return request.publish(model, result, {"pairs": len(pairs), "held_out_pairs": len(held_out)})


def contrastive_loss(texts: Tensor, items: Tensor, masked: Tensor, temperature: float) -> Tensor:
    """Compute the mean cross-entropy of ranking each text's item first among those of the batch.

    Shapes:
        texts, items: (B, D), of any length.
        masked: (B, B) bool; items that are no fair negatives of a text; False on the diagonal.
        returns: () float32.

    Source:
        van den Oord et al. 2018, equation 4 (InfoNCE) with negatives of the batch, as
        Henderson et al. 2017, section 4 (multiple negatives ranking).
    """
    cosines = normalize(texts.float(), dim=-1) @ normalize(items.float(), dim=-1).T  # (B, B)
    scores = (cosines / temperature).masked_fill(masked, float("-inf"))
    return cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def unfair_negatives(pairs: Sequence[TextPair]) -> NDArray[np.bool_]:
    """Return the items of a batch that are no fair negatives of a text.

    These are the same item, an item with the same text, an item of the same user, and the item of
    an equal text of another user.

    Shapes:
        returns: (B, B) bool, row = text, column = item; the diagonal is False.
    """
    masked = np.zeros((len(pairs), len(pairs)), dtype=np.bool_)
    keys = (
        [pair.user_id for pair in pairs],
        [pair.item_id for pair in pairs],
        [normalised(pair.item_text) for pair in pairs],
        [normalised(pair.text) for pair in pairs],
    )
    for key in keys:
        numbers = np.unique(key, return_inverse=True)[1]
        masked |= numbers[:, None] == numbers[None, :]
    np.fill_diagonal(masked, val=False)
    return masked


def _tune(model: Any, pairs: list[TextPair], held_out: list[TextPair], options: TuneOptions) -> TuningResult:
    rng = np.random.default_rng([options.seed, 1])  # apart from the one that drew the pairs
    batch = min(options.batch, len(pairs))
    steps = max(1, min(options.pairs, len(pairs)) // batch)

    def step_loss(step: int) -> Tensor:
        rows = (step * batch + np.arange(batch)) % len(pairs)
        drawn = [pairs[row] for row in rows]
        texts = augmented([pair.text for pair in drawn], options.truncate, options.replace, rng)
        items = augmented([pair.item_text for pair in drawn], options.truncate, options.replace, rng)
        return _loss(model, drawn, texts, items, options, device) + adapters.penalty()

    def judge() -> float:
        total, seen = 0.0, 0
        for start in range(0, len(held_out), options.batch):
            judged = held_out[start : start + options.batch]
            if len(judged) < options.batch and start:  # among fewer items the task is easier
                break
            texts, items = [pair.text for pair in judged], [pair.item_text for pair in judged]
            total += _loss(model, judged, texts, items, options, device).item() * len(judged)
            seen += len(judged)
        return total / seen

    with reproducible(options.seed) as device:
        with quiet():
            adapters = attach(model[0].auto_model, options, steps * options.epochs)
        model.to(device)
        label = f"tune text ({options.method})"
        task = TuningTask(label, model, adapters.parameters(), steps, step_loss, judge, adapters.after_step)
        result = run_tuning(task, options)
        adapters.merge()
    return result


def _loss(
    model: Any,
    pairs: Sequence[TextPair],
    texts: list[str],
    items: list[str],
    options: TuneOptions,
    device: torch.device,
) -> Tensor:
    masked = torch.from_numpy(unfair_negatives(pairs)).to(device)
    with autocast(device):
        left, right = (
            model(tokenize(model, side, options.max_tokens))["sentence_embedding"] for side in (texts, items)
        )  # (B, D) each
    return contrastive_loss(left, right, masked, options.temperature)
