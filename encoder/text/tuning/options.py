"""The settings of a language model's tuning, adaptation and compression; frozen, checked when made."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from encoder.text.source import POOLINGS, Pooling

Method = Literal["lora", "adalora"]
METHODS: tuple[str, ...] = get_args(Method)
_RATE_OF_ALL = 5e-5
_RATE_OF_PRUNED = 5e-4
# AdaLoRA's singular values start at 0: on MiniLM, 80 steps at 2e-3 lowered the loss by .09, at 6e-3 by .47.
_RATES: dict[Method, float] = {"lora": 5e-4, "adalora": 6e-3}


class TextTuningSettingsError(ValueError):
    """A setting of the tuning, adaptation or compression of a language model is out of its bounds."""

    def __init__(self, name: str, value: object, wanted: str) -> None:
        super().__init__(f"text tuning: {name} is {value!r}, not {wanted}")
        self.name = name
        self.value = value


@dataclass(frozen=True)
class TextTrainingOptions:
    """Settings that tuning, adaptation and compression share.

    Attributes:
        epochs: at most; each ends with a check of the held-out loss.
        batch: texts, or pairs of texts, of one step.
        max_tokens: of a text while training; the model keeps its own limit.
        learning_rate: at the end of the warm-up; falls linearly to 0. None: what suits the method.
        weight_decay: AdamW's, on matrices only.
        warmup: share of the steps in which the rate rises.
        clip: largest norm of the gradient.
        patience: epochs without a lower held-out loss before the training stops.
        held_out: share of the users (tuning) or texts (else) that only early stopping sees.
        seed: of every random draw.
        pooling: overrides what the model's own modules say, and is saved with it.
        left_out_users: users of whom no row is read, such as those on whom a model is judged.
    """

    epochs: int = 4
    batch: int = 32
    max_tokens: int = 64
    learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    patience: int = 2
    held_out: float = 0.1
    seed: int = 0
    pooling: Pooling | None = None
    left_out_users: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Check every bound.

        Raises:
            TextTuningSettingsError: a setting is out of its bounds; names it.
        """
        self._within("epochs", 1, 1000)
        self._within("batch", 2, 4096)
        self._within("max_tokens", 4, 8192)
        if self.learning_rate is not None:
            self._within("learning_rate", 1e-9, 1.0)
        self._within("weight_decay", 0.0, 10.0)
        self._within("warmup", 0.0, 1.0)
        self._within("clip", 1e-6, 1e6)
        self._within("patience", 1, 1000)
        self._within("held_out", 0.01, 0.5)
        self._within("seed", 0, 2**32 - 1)
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise TextTuningSettingsError("pooling", self.pooling, f"one of {', '.join(POOLINGS)}")

    @property
    def rate(self) -> float:
        """The learning rate that is used; by default one for training all weights."""
        return _RATE_OF_ALL if self.learning_rate is None else self.learning_rate

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON values; of the left-out users only their number and a digest."""
        users = sorted(self.left_out_users)
        digest = hashlib.sha256("\0".join(users).encode()).hexdigest() if users else None
        return {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value in asdict(self).items()
        } | {"learning_rate": self.rate, "left_out_users": {"count": len(users), "sha256": digest}}

    def _within(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        kinds = int if isinstance(low, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            kind = "a whole number" if kinds is int else "a number"
            raise TextTuningSettingsError(name, value, f"{kind} in {low}..{high}")


@dataclass(frozen=True)
class TuneOptions(TextTrainingOptions):
    """Settings of `tune_text_model`.

    Attributes:
        method: lora, or adalora, which moves rank to the layers that need it.
        rank: of an adapter; for adalora the mean rank that is left at the end.
        alpha: an adapter counts alpha / rank.
        dropout: on what goes into an adapter.
        pairs: most pairs of texts in one epoch.
        pairs_per_user: most pairs of one user, so that the busy do not drown the others.
        temperature: cosines are divided by it before the softmax.
        truncate: probability that a training text is cut to a random span of half its words or more.
        replace: share of the words of a training text that give way to words of other texts.
        ignored_actions: behaviours with these make no pairs.
    """

    method: Method = "lora"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    pairs: int = 1280
    pairs_per_user: int = 16
    temperature: float = 0.05
    truncate: float = 0.3
    replace: float = 0.1
    ignored_actions: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Check every bound."""
        super().__post_init__()
        if self.method not in METHODS:
            raise TextTuningSettingsError("method", self.method, f"one of {', '.join(METHODS)}")
        self._within("rank", 1, 512)
        self._within("alpha", 1e-3, 1e4)
        self._within("dropout", 0.0, 0.9)
        self._within("pairs", 2, 10_000_000)
        self._within("pairs_per_user", 1, 10_000)
        self._within("temperature", 1e-3, 10.0)
        self._within("truncate", 0.0, 1.0)
        self._within("replace", 0.0, 0.9)

    @property
    def rate(self) -> float:
        """The learning rate that is used; by default one that suits the method."""
        return _RATES[self.method] if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True)
class AdaptOptions(TextTrainingOptions):
    """Settings of `adapt_text_model`, which trains all weights.

    Attributes:
        texts: most texts in one epoch.
        mask: share of the tokens that an encoder model has to guess.
        head_steps: steps in which the prediction head alone learns, before anything is measured.
    """

    texts: int = 1280
    mask: float = 0.15
    head_steps: int = 30

    def __post_init__(self) -> None:
        """Check every bound."""
        super().__post_init__()
        self._within("texts", 2, 10_000_000)
        self._within("mask", 0.01, 0.9)
        self._within("head_steps", 0, 100_000)


@dataclass(frozen=True)
class CompressOptions(TextTrainingOptions):
    """Settings of `compress_text_model`, which trains all weights but those of the words.

    Attributes:
        texts: most texts in one epoch.
        layers: how many stay; None: half of them.
    """

    texts: int = 2048
    layers: int | None = None

    def __post_init__(self) -> None:
        """Check every bound."""
        super().__post_init__()
        self._within("texts", 2, 10_000_000)
        if self.layers is not None:
            self._within("layers", 1, 1000)

    @property
    def rate(self) -> float:
        """The learning rate that is used; a layer that lost its neighbours has far to go."""
        return _RATE_OF_PRUNED if self.learning_rate is None else self.learning_rate
