"""Continued pre-training of a language model on the users' own texts and the items' texts."""

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from encoder.progress import LongStage
from encoder.text.graph import load, quiet
from encoder.text.source import UnsupportedTextModelError, fetch
from encoder.text.tuning.loop import TuningResult, TuningTask, autocast, reproducible, run_tuning, tokenize
from encoder.text.tuning.options import AdaptOptions
from encoder.text.tuning.pairs import draw_texts
from encoder.text.tuning.registry import TuningRequest
from encoder.training_loop import Progress, Training, adamw, do_nothing, train_epochs
from store.export import Export

_AT_ONCE = 512  # predictions in memory: each has a score for every word of the vocabulary
_MASKED, _RANDOM = 0.8, 0.1  # of the tokens to guess; the rest stay
_IGNORED = -100  # as transformers labels a token that is not to be guessed
_HEAD_RATE = 1e-3
_HEAD_DECAY = 0.01

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictor:
    """A model with a head over its input embeddings.

    A sentence-transformers checkpoint has no prediction head, so one is made: a square map, at first
    the identity, then the input embeddings and a bias. Where the model was pre-trained with tied
    embeddings and nothing between (GPT-2, small Llama and Qwen models) that is its own head.

    Attributes:
        model: the SentenceTransformer.
        dense: (D, E), from the last layer to the embeddings.
        bias: (V,), one of each word.
        mask: share of the tokens that an encoder model has to guess.
        causal: predict the next token; else masked ones.

    Source:
        Press and Wolf 2017, "Using the output embedding to improve language models" (tying); Devlin et
        al. 2019, "BERT", section 3.1 (masking).
    """

    model: Any
    dense: nn.Linear
    bias: nn.Parameter
    mask: float
    causal: bool

    @classmethod
    def of(cls, model: Any, mask: float, device: torch.device, *, causal: bool) -> "Predictor":
        """Make a predictor with a new head on the device of the model."""
        words, width = model[0].auto_model.get_input_embeddings().weight.shape
        dense = nn.Linear(model[0].get_embedding_dimension(), width, bias=False)
        nn.init.eye_(dense.weight)
        bias = nn.Parameter(torch.zeros(words, device=device))
        return cls(model, dense.to(device), bias, mask, causal)

    def head(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the head."""
        return {f"head.{name}": one for name, one in self.dense.named_parameters()} | {"head.bias": self.bias}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of model and head."""
        return dict(self.model.named_parameters()) | self.head()

    def loss(self, encoded: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Compute the mean cross-entropy of at most 512 random predictions on a batch.

        Args:
            encoded: input of the transformer, as `tokenize` makes it.
            generator: of the CPU; draws the masked tokens and the predicted ones.
        """
        vectors, targets = self._predictions(encoded, generator)  # (N, D), (N,)
        if len(targets) > _AT_ONCE:
            rows = torch.randperm(len(targets), generator=generator)[:_AT_ONCE].to(targets.device)
            vectors, targets = vectors[rows], targets[rows]
        return self._cross_entropy(vectors, targets) / len(targets)

    def total(self, encoded: dict[str, Tensor], generator: torch.Generator) -> tuple[float, int]:
        """Sum the cross-entropy of all predictions on a batch; return it with their number."""
        vectors, targets = self._predictions(encoded, generator)
        total = 0.0
        for start in range(0, len(targets), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            total += self._cross_entropy(vectors[some], targets[some]).item()
        return total, len(targets)

    def _cross_entropy(self, vectors: Tensor, targets: Tensor) -> Tensor:
        embeddings = self.model[0].auto_model.get_input_embeddings().weight  # (V, E)
        scores = linear(self.dense(vectors), embeddings) + self.bias  # (N, V)
        return cross_entropy(scores.float(), targets, reduction="sum")

    def _predictions(self, encoded: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Compute the vectors (N, D) that predict; return them and the token ids (N,) to be predicted."""
        ids, real = encoded["input_ids"], encoded["attention_mask"].bool()  # (B, L)
        if self.causal:
            vectors = self.model[0](dict(encoded))["token_embeddings"][:, :-1]  # (B, L - 1, D)
            known = real[:, 1:] & real[:, :-1]
            return vectors[known], ids[:, 1:][known]
        words = len(self.bias)
        guessed, targets = masked(ids, self.model.tokenizer, words, self.mask, generator)
        vectors = self.model[0](encoded | {"input_ids": guessed})["token_embeddings"]  # (B, L, D)
        return vectors[targets != _IGNORED], targets[targets != _IGNORED]


def masked(
    ids: Tensor, tokenizer: Any, words: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Hide some token ids; return the new ids and the targets: the true ids of hidden ones, -100 elsewhere.

    Of the tokens to be predicted 80 % become the mask token, 10 % a random one and 10 % stay. Special tokens
    are never predicted; each text has at least one token to predict.

    Shapes:
        ids and both results: (B, L) int64.
    """
    here = ids.cpu()
    special = torch.isin(here, torch.tensor(tokenizer.all_special_ids))
    drawn = torch.rand(here.shape, generator=generator).masked_fill(special, 2.0)  # 2: never
    least = drawn.min(dim=1, keepdim=True).values
    chosen = (drawn < share) | ((drawn == least) & ~special)
    fate = torch.rand(here.shape, generator=generator)
    other = torch.randint(words, here.shape, generator=generator)
    guessed = torch.where(chosen & (fate < _MASKED), tokenizer.mask_token_id, here)
    guessed = torch.where(chosen & (fate >= _MASKED) & (fate < _MASKED + _RANDOM), other, guessed)
    return guessed.to(ids.device), here.masked_fill(~chosen, _IGNORED).to(ids.device)


def is_causal(source: str, config: Any) -> bool:
    """Return whether a model predicts the next token; otherwise it predicts masked tokens.

    Raises:
        UnsupportedTextModelError: transformers knows it as neither, or it is a decoder that was
            changed to look ahead, which would see what it has to predict.
    """
    from transformers.models.auto.modeling_auto import (  # noqa: PLC0415  loads torch
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return False
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedTextModelError(source, f"{kind} is neither a masked nor a causal language model")
    if getattr(config, "use_bidirectional_attention", False) or getattr(config, "is_causal", True) is False:
        raise UnsupportedTextModelError(source, f"{kind} with attention to what follows cannot be adapted")
    return True


def adapt_text_model(source: str, export: Export, text_models: Path, options: AdaptOptions) -> Path:
    """Adapt a language model to the texts of an export, or find the result of an equal earlier call.

    An encoder model predicts masked tokens, a decoder model the next one; all weights are trained. The
    returned folder, in the sentence-transformers layout, is a source for `tune_text_model` and
    `export_text_model`. Where no epoch lowers the perplexity of held-out texts the weights are the untouched
    ones, and metrics.json beside the folder says so.

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
    """Return e to the loss; None beyond what a float can hold, as of an untrained head."""
    return math.exp(loss) if loss < math.log(sys.float_info.max) else None


def _adapt(
    model: Any, texts: list[str], held_out: list[str], options: AdaptOptions, *, causal: bool
) -> TuningResult:
    batch = min(options.batch, len(texts))
    steps = max(1, min(options.texts, len(texts)) // batch)

    def encoded(some: list[str]) -> dict[str, Tensor]:
        return tokenize(model, some, options.max_tokens)

    def step_loss(step: int) -> Tensor:
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
        return run_tuning(
            TuningTask("adapt text", model, predictor.parameters(), steps, step_loss, judge), options
        )


def _warm_head(predictor: Predictor, step_loss: Callable[[int], Tensor], steps: int) -> None:
    """Train the head alone, so that the model need not change to suit an untrained head."""
    head = predictor.head()
    predictor.model.eval().requires_grad_(requires_grad=False)
    with LongStage("prediction head", steps, "step") as stage:
        training = Training(
            head,
            adamw(head, _HEAD_RATE, _HEAD_DECAY, lambda *_: True),
            lambda _: map(step_loss, range(steps)),
            None,
            do_nothing,
            epochs=1,
            patience=1,
            after_step=lambda _: stage.advance(),
        )
        train_epochs(training, Progress())
    predictor.model.requires_grad_(requires_grad=True)
