"""Metrics of the task heads: click (AUC, log loss), rating (RMSE, MAE), category (accuracy, F1, report).

A weighted metric takes `weights` (n,), not negative; where none are given every example weighs 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class ExamplesError(ValueError):
    """Labels, predictions and weights do not make one table that a metric is defined on."""


def check_binary(labels: ArrayLike) -> Floats:
    """Return labels as float64 after checking that each is 0 or 1."""
    y = check_finite("labels", labels)
    wrong = (y != 0) & (y != 1)
    if wrong.any():
        raise ExamplesError(f"label {y[wrong][0]} of example {int(wrong.argmax())} is neither 0 nor 1")
    return y


def check_finite(name: str, values: ArrayLike) -> Floats:
    """Return values as float64 after checking that all are finite."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ExamplesError(f"{name} hold {array[at]} at {at}")
    return array


def weights_or_ones(weights: ArrayLike | None, n: int) -> Floats:
    """Return the weights (n,) float64, checked, or ones where none are given."""
    w = np.ones(n) if weights is None else check_finite("weights", weights)
    if len(w) != n:
        raise ExamplesError(f"{len(w)} weights for {n} examples")
    if n and (w.min() < 0 or not w.sum() > 0):
        raise ExamplesError(f"weights are {w.min()}..{w.max()}: none may be negative, nor all 0")
    return w


def check_one_table(*columns: NDArray[np.generic]) -> None:
    """Raise unless all columns have the same length."""
    if len({len(column) for column in columns}) != 1:
        raise ExamplesError(
            f"columns of {', '.join(str(len(c)) for c in columns)} examples are not one table"
        )


def check_some(column: NDArray[np.generic]) -> None:
    """Raise where there is no example."""
    if not len(column):
        raise ExamplesError("there are no examples")


def check_probabilities(p: Floats) -> None:
    """Raise unless every value is in [0, 1]."""
    if p.min() < 0 or p.max() > 1:
        raise ExamplesError(f"probabilities are {p.min()}..{p.max()}, not in 0..1")


def check_classes(classes: Ints, n_classes: int) -> None:
    """Raise unless every class is in 0..n_classes−1."""
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ExamplesError(f"classes {classes.min()}..{classes.max()} are not in 0..{n_classes - 1}")


def divide(part: Floats, whole: Floats) -> Floats:
    """Return part / whole, NaN where whole is 0."""
    quotient = np.full(len(whole), np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


_SMALLEST = 1e-15  # what a probability is raised to before its logarithm, as scikit-learn had it


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve; NaN where only one of the labels 0 and 1 is there.

    AUC = P(score of a positive > score of a negative) + ½ P(they are equal), over all pairs.

    Raises:
        ExamplesError: lengths differ, a score is not finite, or a label is neither 0 nor 1.

    Source:
        Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve", Radiology 143(1).
    """
    return float(auc_by_group(labels, scores, np.zeros(len(np.asarray(labels)), dtype=np.int64), 1)[0])


def auc_by_group(labels: ArrayLike, scores: ArrayLike, groups: Ints, n_groups: int) -> Floats:
    """Return the AUC within each group (n_groups,); NaN where a group lacks positives or negatives.

    From the rank sum of the positives, equal scores sharing their mean rank:
    AUC = (Σ ranks of positives − P (P + 1) / 2) / (P · N).

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) finite, higher means more likely 1.
        groups: (n,) in 0..n_groups−1, such as the users; the mean over them is the GAUC of Zhou et al. 2018.
        n_groups: how many.

    Raises:
        ExamplesError: as `auc`, or a group is out of range.

    Source:
        Mann and Whitney 1947, Annals of Mathematical Statistics 18(1); Zhou et al. 2018, "Deep interest
        network for click-through rate prediction", KDD, section 6.2 (there weighted by impressions).
    """
    y, s = check_binary(labels), check_finite("scores", scores)
    check_one_table(y, s, groups)
    if len(groups) and not (groups.min() >= 0 and groups.max() < n_groups):
        raise ExamplesError(f"groups {groups.min()}..{groups.max()} are not in 0..{n_groups - 1}")
    order = np.lexsort((s, groups))
    y, s, g = y[order], s[order], groups[order]
    first = np.ones(len(y), dtype=bool)  # of a run of equal scores in one group
    first[1:] = (s[1:] != s[:-1]) | (g[1:] != g[:-1])
    starts = np.append(np.flatnonzero(first), len(y))
    mean_rank = (starts[:-1] + starts[1:] + 1) / 2  # ranks from 1, over all groups
    ranks = mean_rank[np.cumsum(first) - 1]
    sizes = np.bincount(g, minlength=n_groups)
    before = np.cumsum(sizes) - sizes  # examples in the groups before
    positives = np.bincount(g, weights=y, minlength=n_groups)
    rank_sums = np.bincount(g, weights=y * ranks, minlength=n_groups) - before * positives
    pairs = positives * (sizes - positives)
    return divide(rank_sums - positives * (positives + 1) / 2, pairs)


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean of −y ln p − (1 − y) ln(1 − p), natural logarithm; p is kept 1e-15 from 0 and 1.

    Raises:
        ExamplesError: nothing is given, lengths differ, a label is neither 0 nor 1, or p is not in [0, 1].

    Source:
        Good 1952, "Rational decisions", JRSS B 14(1): the logarithmic score.
    """
    y, p = check_binary(labels), check_finite("probabilities", probabilities)
    check_one_table(y, p)
    check_some(y)
    check_probabilities(p)
    p = np.clip(p, _SMALLEST, 1 - _SMALLEST)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def cross_entropy(classes: Ints, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the weighted mean of −ln p of the true class, p at least 1e-15; probabilities are (n, C).

    Raises:
        ExamplesError: as `log_loss`, or a class is not in 0..C−1.

    Source:
        Good 1952, as `log_loss`.
    """
    p = check_finite("probabilities", probabilities)
    check_some(p)
    check_probabilities(p)
    w = weights_or_ones(weights, len(p))
    check_one_table(classes, p)
    check_classes(classes, p.shape[1])
    own = np.maximum(p[np.arange(len(p)), classes], _SMALLEST)
    return float(-(w @ np.log(own)) / w.sum())


def rmse(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Return √(mean of (prediction − target)²).

    Raises:
        ExamplesError: nothing is given, lengths differ, or a value is not finite.

    Source:
        Herlocker et al. 2004, "Evaluating collaborative filtering recommender systems", TOIS 22(1), 4.1.
    """
    return float(np.sqrt(np.mean(_errors(targets, predictions) ** 2)))


def mae(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Return the mean of |prediction − target|.

    Raises:
        ExamplesError: as `rmse`.

    Source:
        Herlocker et al. 2004, as `rmse`.
    """
    return float(np.mean(np.abs(_errors(targets, predictions))))


def top_k_accuracy(classes: Ints, scores: ArrayLike, k: int, weights: ArrayLike | None = None) -> float:
    """Return the weighted share of examples whose class is among the k best scored of (n, C).

    Of equal scores the lower class ranks first, so that the figure never depends on the machine.

    Raises:
        ExamplesError: nothing is given, lengths differ, a class is not in 0..C−1, or k < 1.

    Source:
        Russakovsky et al. 2015, "ImageNet large scale visual recognition challenge", IJCV 115(3), section 4.
    """
    s = check_finite("scores", scores)
    if k < 1:
        raise ExamplesError(f"k is {k}, not at least 1")
    check_some(s)
    check_one_table(classes, s)
    check_classes(classes, s.shape[1])
    own = s[np.arange(len(s)), classes][:, None]  # (n, 1)
    ahead = (s > own) | ((s == own) & (np.arange(s.shape[1]) < classes[:, None]))
    w = weights_or_ones(weights, len(s))
    return float(w @ (ahead.sum(axis=1) < k) / w.sum())


def _errors(targets: ArrayLike, predictions: ArrayLike) -> Floats:
    wanted, given = check_finite("targets", targets), check_finite("predictions", predictions)
    check_one_table(wanted, given)
    check_some(wanted)
    return given - wanted


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
