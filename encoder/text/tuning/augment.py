"""Training texts, slightly changed each time they are seen: random spans, foreign words."""

import re
from collections.abc import Sequence

import numpy as np

# Scripts that write no spaces: there each character counts as a word.
_CHARACTER = r"[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_WORD = re.compile(rf"({_CHARACTER}|(?:(?!{_CHARACTER})\S)+)(\s*)")
_SHORTEST = 4  # a text of fewer words is left as it is


def words(text: str) -> list[tuple[str, str]]:
    """Return the words of a text, each with the space after it; Chinese characters are words."""
    return _WORD.findall(text.strip())


def augmented(texts: Sequence[str], truncate: float, replace: float, rng: np.random.Generator) -> list[str]:
    """Return the texts with some cut to a random span and some words taken from the other texts.

    Args:
        texts: of one batch, none of them blank.
        truncate: probability that a text is cut; at least half of its words stay.
        replace: share of the words to replace, in expectation.
        rng: decides.

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
    """Return a random word of a random other text of the batch; of the same one where it is alone."""
    other = (row + int(rng.integers(1, max(len(split), 2)))) % len(split)
    return split[other][int(rng.integers(len(split[other])))][0]
