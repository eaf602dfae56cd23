"""What a classifier got right, class by class: precision, recall, F1 and support."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.examples import (
    Floats,
    Ints,
    check_classes,
    check_one_table,
    check_some,
    divide,
    weights_or_ones,
)


@dataclass(frozen=True)
class Report:
    """What a classifier got right, by class; all (C,) float64, NaN where 0 / 0.

    precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN), support = TP + FN.

    Source:
        Van Rijsbergen 1979, "Information retrieval", chapter 7.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    support: Floats
    accuracy: float
    macro_f1: float
    micro_f1: float


def classification_report(
    classes: Ints, predicted: Ints, n_classes: int, weights: ArrayLike | None = None
) -> Report:
    """Return precision, recall, F1 and support by class, accuracy, macro-F1 and micro-F1.

    macro-F1 is the plain mean of F1 over the classes that occur as a label or as a prediction; micro-F1 is
    2 ΣTP / (2 ΣTP + ΣFP + ΣFN), which with one label and one prediction an example equals the accuracy.

    Raises:
        ExamplesError: nothing is given, lengths differ, or a class is not in 0..n_classes−1.

    Source:
        Lewis 1991, "Evaluating text categorization", and Yang 1999, Information Retrieval 1(1), 2.
    """
    w = weights_or_ones(weights, len(classes))
    check_one_table(classes, predicted)
    check_some(classes)
    check_classes(classes, n_classes)
    check_classes(predicted, n_classes)
    support: Floats = np.bincount(classes, weights=w, minlength=n_classes).astype(np.float64)
    named: Floats = np.bincount(predicted, weights=w, minlength=n_classes).astype(np.float64)
    hit = w * (classes == predicted)
    right: Floats = np.bincount(classes, weights=hit, minlength=n_classes).astype(np.float64)
    f1 = divide(2 * right, support + named)
    micro = 2 * right.sum() / (support.sum() + named.sum())
    return Report(
        precision=divide(right, named),
        recall=divide(right, support),
        f1=f1,
        support=support,
        accuracy=float(right.sum() / support.sum()),
        macro_f1=float(np.nanmean(f1)),
        micro_f1=float(micro),
    )
