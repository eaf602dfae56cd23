"""Words of item texts as numbers: what a text names, where the language model says what it means."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from encoder.views import Matrix

MOST_WORDS = 1_024
_LEAST = 2  # texts that a word must occur in: one says nothing of another item
_MOST = 0.5  # share of the texts from which on a word tells nothing apart
_MOST_CHARACTERS = 20_000  # of a text that are read
_MOST_BYTES = 64  # of a word that is kept
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_RUNS = re.compile(rf"([{_CJK}]+)|([^\W{_CJK}]+)")


@dataclass(frozen=True)
class WordEncoder:
    """Turns texts into tf–idf vectors over the most frequent words that it has learned.

    Attributes:
        words: in the order of the coordinates.
        weights: inverse document frequency of each.

    Source:
        Salton and Buckley 1988, "Term-weighting approaches in automatic text retrieval": logarithmic counts,
        inverse document frequency, cosine normalisation.
    """

    words: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "_place", {word: i for i, word in enumerate(self.words)})

    @classmethod
    def fit(cls, texts: Sequence[str]) -> "WordEncoder":
        """Learn the words of some texts; one that only one of them has, or more than half, is left out."""
        written = [text for text in texts if text]
        found = Counter(word for text in written for word in set(words_of(text)))
        useful = [
            (word, count)
            for word, count in found.items()
            if _LEAST <= count <= _MOST * len(written) and len(word.encode()) <= _MOST_BYTES
        ]
        often = sorted(sorted(useful, key=lambda one: (-one[1], one[0]))[:MOST_WORDS])
        return cls(
            tuple(word for word, _ in often), tuple(math.log(len(written) / count) for _, count in often)
        )

    @property
    def dim(self) -> int:
        """D_W."""
        return len(self.words)

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Encode texts: (n, D_W) float32, unit rows; zero where a text has none of the words."""
        place: dict[str, int] = self._place  # type: ignore[attr-defined]
        rows, columns, values = list[int](), list[int](), list[float]()
        for row, text in enumerate(texts if place else ()):
            counts = Counter(place[word] for word in words_of(text) if word in place)
            weights = {at: (1 + math.log(count)) * self.weights[at] for at, count in counts.items()}
            length = math.sqrt(sum(weight * weight for weight in weights.values()))
            rows += [row] * len(weights)
            columns += weights
            values += [weight / length for weight in weights.values()]
        return sparse.csr_array((np.array(values, np.float32), (rows, columns)), shape=(len(texts), self.dim))

    def as_json(self) -> dict[str, Any]:
        """Return the encoder as JSON values."""
        return {"words": list(self.words), "weights": list(self.weights)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "WordEncoder":
        """Make an encoder of the values that `as_json` returned."""
        return cls(tuple(values["words"]), tuple(float(weight) for weight in values["weights"]))


def words_of(text: str) -> Iterator[str]:
    """Yield the words of a text in lower case; of writing without blanks, as Chinese, each two characters."""
    for cjk, word in _RUNS.findall(text[:_MOST_CHARACTERS].lower()):
        if word:
            yield word
        elif len(cjk) == 1:
            yield cjk
        else:
            yield from (cjk[at : at + 2] for at in range(len(cjk) - 1))
