"""Distributions of people, and how far two of them are apart."""

from math import log
from pathlib import Path

import numpy as np
import pytest

from encoder.drift.reference import Distribution, DriftReference
from encoder.drift.stability import BINS, QUANTITIES, stability_index


def people(seed: int, n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    amounts = np.log1p(rng.poisson([3.0, 1.0, 0.2], size=(n, 3))).astype(np.float32)
    vectors = rng.normal(size=(n, 8)) * [3, 2, 1, 1, 1, 1, 1, 1] + [shift] * 8
    return amounts, vectors.astype(np.float32), rng.normal(size=n).astype(np.float32)


def test_the_index_by_hand() -> None:
    assert stability_index([20, 30, 50], [25, 25, 50]) == pytest.approx(
        (0.2 - 0.25) * log(0.2 / 0.25) + (0.3 - 0.25) * log(0.3 / 0.25)
    )
    assert stability_index([1, 1], [0.5, 0.5]) == 0
    assert stability_index([10, 0], [0.5, 0.5]) == pytest.approx(
        0.5 * log(2) + (0.5 - 1e-4) * log(0.5 / 1e-4)
    )


def test_bins_are_cut_at_deciles_and_hold_all_values() -> None:
    values = np.arange(1_000, dtype=np.float32)
    one = Distribution.of(values)
    assert one.shares == pytest.approx([0.1] * BINS, abs=0.002)
    assert [one.bin_of(value) for value in (-5.0, 0.0, 500.5, 999.0, 5e6)] == [0, 0, 5, 9, 9]
    mostly_zero = Distribution.of(np.array([0.0] * 80 + [1.0] * 15 + [2.0] * 5))
    assert mostly_zero.edges == (0.0, 1.0)
    assert mostly_zero.shares == pytest.approx((0.8, 0.15, 0.05))
    assert sum(Distribution.of(np.array([7.0])).shares) == 1


def test_the_same_people_have_not_drifted_and_others_have(tmp_path: Path) -> None:
    reference = DriftReference.of(*people(1, 2_000))
    reference.save(tmp_path)
    read = DriftReference.load(tmp_path)
    assert read is not None
    assert read.distributions == reference.distributions

    def indexes(shift: float) -> dict[str, float]:
        values = read.quantities(*people(2, 2_000, shift))
        counts = np.zeros((len(QUANTITIES), BINS))
        for row, name in enumerate(QUANTITIES):
            for value in values[:, row]:
                counts[row, read.distributions[name].bin_of(float(value))] += 1
        wanted = [(*read.distributions[name].shares, *[0.0] * BINS)[:BINS] for name in QUANTITIES]
        return {
            name: stability_index(counts[row].tolist(), wanted[row]) for row, name in enumerate(QUANTITIES)
        }

    same, moved = indexes(0.0), indexes(3.0)
    assert max(same.values()) < 0.05, same
    assert moved["vector_length"] > 0.25
    assert max(moved["vector_axis_1"], moved["vector_axis_2"]) > 0.25
    assert max(moved["amount_H"], moved["best_score"]) < 0.05


def test_few_people_and_few_dimensions_make_a_reference() -> None:
    amounts, vectors, scores = people(3, 1)
    assert DriftReference.of(amounts, vectors, scores).axes.shape == (2, 8)
    assert DriftReference.of(amounts, vectors[:, :1], scores).axes.shape == (2, 1)


def test_a_model_of_before_has_none(tmp_path: Path) -> None:
    assert DriftReference.load(tmp_path) is None
