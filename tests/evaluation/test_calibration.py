import numpy as np
import pytest
from sklearn import metrics

from evaluation.calibration import brier_scores, log_losses, reliability
from evaluation.classification import ExamplesError, log_loss


def test_losses_by_example_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 50).astype(float), rng.random(50)
    assert brier_scores(y, p).mean() == pytest.approx(metrics.brier_score_loss(y, p))
    assert log_losses(y, p).mean() == pytest.approx(log_loss(y, p))
    assert log_losses([1, 0], [0.0, 1.0]).tolist() == pytest.approx([-np.log(1e-15)] * 2, rel=1e-3)
    assert brier_scores([1, 0], [0.75, 0.5]).tolist() == [0.0625, 0.25]
    with pytest.raises(ExamplesError, match="neither 0 nor 1"):
        brier_scores([2.0], [0.5])
    with pytest.raises(ExamplesError, match=r"not in 0\.\.1"):
        log_losses([1.0], [1.5])


def test_reliability_by_hand() -> None:
    found = reliability([0, 1, 1, 0, 1], [0.1, 0.2, 0.9, 0.4, 0.8], 2)
    assert found == [
        {"mean": pytest.approx(0.7 / 3), "rate": pytest.approx(1 / 3), "count": 3},
        {"mean": pytest.approx(0.85), "rate": 1, "count": 2},
    ]
    weighted = reliability([0, 1], [0.5, 0.7], 1, [3, 1])
    assert weighted == [{"mean": pytest.approx(0.55), "rate": 0.25, "count": 4}]
    assert len(reliability([0, 1], [0.5, 0.7], 10)) == 2
