"""Comparison of two language models on the same texts: how much their vectors agree, and their speed."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.text.encoder import TextEncoder, Vectors

_ROUNDS = 3


class IncomparableTextModelsError(ValueError):
    """Two language models cannot be compared: vectors of other lengths, or too few texts."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the text models cannot be compared: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Agreement:
    """The agreement of a student with its teacher, and the speed of both.

    Attributes:
        cosine: mean over texts, between the two vectors of a text.
        overlap: mean share of the teacher's k nearest neighbours that are among the student's.
        k: neighbours looked at.
        texts: compared.
        teacher_rate, student_rate: texts per second, medians of rounds in which the two take turns.
    """

    cosine: float
    overlap: float
    k: int
    texts: int
    teacher_rate: float
    student_rate: float

    @property
    def speedup(self) -> float:
        """The student's texts per second over the teacher's."""
        return self.student_rate / self.teacher_rate


def agreement(teacher: TextEncoder, student: TextEncoder, texts: Sequence[str], k: int = 10) -> Agreement:
    """Measure how well a student agrees with its teacher on texts that neither was trained on.

    Raises:
        IncomparableTextModelsError: their dims differ, or fewer than two texts are not blank.
    """
    written = [text for text in texts if text.strip()]
    if teacher.dim != student.dim:
        raise IncomparableTextModelsError(f"dim {teacher.dim} and {student.dim}")
    if len(written) < 2:
        raise IncomparableTextModelsError(f"{len(written)} texts, at least 2 are needed")
    seconds: tuple[list[float], list[float]] = ([], [])
    vectors: list[Vectors] = []
    for turn in range(2 * _ROUNDS):
        began = time.perf_counter()
        encoded = (teacher, student)[turn % 2].encode(written)
        seconds[turn % 2].append(time.perf_counter() - began)
        vectors = [*vectors[-1:], encoded]
    rates = [len(written) / statistics.median(rounds) for rounds in seconds]
    k = min(k, len(written) - 1)
    overlaps = overlap(neighbours(vectors[0], k), neighbours(vectors[1], k))
    cosine = float((vectors[0] * vectors[1]).sum(axis=1).mean())
    return Agreement(cosine, overlaps, k, len(written), *rates)


def neighbours(vectors: Vectors, k: int) -> NDArray[np.int64]:
    """Find for each row the k other rows of the largest inner product, best first; ties by row.

    Shapes:
        vectors: (N, D) float32, N > k; returns: (N, k) int64.
    """
    scores = vectors @ vectors.T  # (N, N)
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def overlap(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Return the mean share of a row of `left` (N, k) that is in the same row of `right` (N, k)."""
    shared = [len(np.intersect1d(one, other)) for one, other in zip(left, right, strict=True)]
    return float(np.mean(shared) / left.shape[1])
