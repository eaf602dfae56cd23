"""Metrics of the task heads: click (AUC, log loss), rating (RMSE, MAE), category (accuracy, F1, report).

scikit-learn does the arithmetic. What stays here checks the input with errors that name the bad value, and
holds what scikit-learn lacks; each of those says why. A weighted metric takes `weights` (n,), not negative;
where none are given every example weighs 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SMALLEST = 1e-15  # a probability is kept so far from 0 and 1: scikit-learn's own bound differs by dtype


class ExamplesError(ValueError):
    """Labels, predictions and weights do not make one table that a metric is defined on."""


@dataclass(frozen=True)
class Report:
    """How well a classifier does, by class; all (C,) float64, NaN where 0 / 0.

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

    @property
    def micro_f1(self) -> float:
        """2 ΣTP / (2 ΣTP + ΣFP + ΣFN): with one label and one prediction an example, the accuracy."""
        return self.accuracy


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve; NaN unless both labels, 0 and 1, occur.

    AUC = P(score of a positive > score of a negative) + ½ P(they are equal), over all pairs.

    Raises:
        ExamplesError: lengths differ, a score is not finite, or a label is neither 0 nor 1.

    Source:
        Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve", Radiology 143(1).
    """
    y, s = _binary(labels), _finite("scores", scores)
    _check_one_table(y, s)
    return float(_metrics().roc_auc_score(y, s)) if 0 < y.sum() < len(y) else float("nan")


def auc_by_group(labels: ArrayLike, scores: ArrayLike, groups: Ints, n_groups: int) -> Floats:
    """Return the AUC within each group (n_groups,); NaN where a group lacks positives or negatives.

    By hand, because scikit-learn knows no groups and a call for each of thousands of users takes minutes:
    from the rank sum of the positives, equal scores sharing their mean rank,
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
    y, s = _binary(labels), _finite("scores", scores)
    _check_one_table(y, s, groups)
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
    found = np.full(n_groups, np.nan)
    np.divide(rank_sums - positives * (positives + 1) / 2, pairs, out=found, where=pairs > 0)
    return found


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean of −y ln p − (1 − y) ln(1 − p), natural logarithm; p is kept 1e-15 from 0 and 1.

    Raises:
        ExamplesError: there is no example, lengths differ, a label is neither 0 nor 1, or p is not in [0, 1].

    Source:
        Good 1952, "Rational decisions", JRSS B 14(1): the logarithmic score.
    """
    y, p = checked_probabilities(labels, probabilities)
    return float(_metrics().log_loss(y, np.clip(p, _SMALLEST, 1 - _SMALLEST), labels=[0, 1]))


def checked_probabilities(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """Return labels and probabilities (n,) as float64, checked.  Raises: ExamplesError, as `log_loss`."""
    y, p = _binary(labels), _finite("probabilities", probabilities)
    _check_one_table(y, p)
    _check_some(y)
    _check_probabilities(p)
    return y, p


def cross_entropy(classes: Ints, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the weighted mean of −ln p of the true class, p at least 1e-15; probabilities are (n, C).

    By hand, because scikit-learn refuses a single class and makes a second (n, C) array of the labels.

    Raises:
        ExamplesError: as `log_loss`, or a class is not in 0..C−1.

    Source:
        Good 1952, as `log_loss`.
    """
    p = _finite("probabilities", probabilities)
    _check_some(p)
    _check_probabilities(p)
    w = _weights(weights, len(p))
    _check_one_table(classes, p)
    _check_classes(classes, p.shape[1])
    own = np.maximum(p[np.arange(len(p)), classes], _SMALLEST)
    return float(-(w @ np.log(own)) / w.sum())


def rmse(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Return √(mean of (prediction − target)²).

    Raises:
        ExamplesError: there is no example, lengths differ, or a value is not finite.

    Source:
        Herlocker et al. 2004, "Evaluating collaborative filtering recommender systems", TOIS 22(1), 4.1.
    """
    return float(_metrics().root_mean_squared_error(*_numbers(targets, predictions)))


def mae(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Return the mean of |prediction − target|.

    Raises:
        ExamplesError: as `rmse`.

    Source:
        Herlocker et al. 2004, as `rmse`.
    """
    return float(_metrics().mean_absolute_error(*_numbers(targets, predictions)))


def top_k_accuracy(classes: Ints, scores: ArrayLike, k: int, weights: ArrayLike | None = None) -> float:
    """Return the weighted share of examples whose class is among the k best scored of (n, C).

    By hand, because of equal scores scikit-learn ranks the higher class first; here the lower one is, as
    `argmax` has it, so that k = 1 is the accuracy of the predictions.

    Raises:
        ExamplesError: there is no example, lengths differ, a class is not in 0..C−1, or k < 1.

    Source:
        Russakovsky et al. 2015, "ImageNet large scale visual recognition challenge", IJCV 115(3), section 4.
    """
    s = _finite("scores", scores)
    if k < 1:
        raise ExamplesError(f"k is {k}, not at least 1")
    _check_some(s)
    _check_one_table(classes, s)
    _check_classes(classes, s.shape[1])
    own = s[np.arange(len(s)), classes][:, None]  # (n, 1)
    ahead = (s > own) | ((s == own) & (np.arange(s.shape[1]) < classes[:, None]))
    w = _weights(weights, len(s))
    return float(w @ (ahead.sum(axis=1) < k) / w.sum())


def classification_report(
    classes: Ints, predicted: Ints, n_classes: int, weights: ArrayLike | None = None
) -> Report:
    """Return precision, recall, F1 and support by class, accuracy and macro-F1.

    macro-F1 is the plain mean of F1 over the classes that occur as a label or as a prediction.

    Raises:
        ExamplesError: there is no example, lengths differ, or a class is not in 0..n_classes−1.

    Source:
        Lewis 1991, "Evaluating text categorization", and Yang 1999, Information Retrieval 1(1), 2.
    """
    w = _weights(weights, len(classes))
    _check_one_table(classes, predicted)
    _check_some(classes)
    _check_classes(classes, n_classes)
    _check_classes(predicted, n_classes)
    precision, recall, f1, support = _metrics().precision_recall_fscore_support(
        classes, predicted, labels=np.arange(n_classes), sample_weight=w, zero_division=np.nan
    )
    return Report(
        precision=precision,
        recall=recall,
        f1=f1,
        support=np.asarray(support, dtype=np.float64),
        accuracy=float(_metrics().accuracy_score(classes, predicted, sample_weight=w)),
        macro_f1=float(np.nanmean(f1)),
    )


def _binary(labels: ArrayLike) -> Floats:
    """Return labels as float64 after checking that each is 0 or 1."""
    y = _finite("labels", labels)
    wrong = (y != 0) & (y != 1)
    if wrong.any():
        raise ExamplesError(f"label {y[wrong][0]} of example {int(wrong.argmax())} is neither 0 nor 1")
    return y


def _numbers(targets: ArrayLike, predictions: ArrayLike) -> tuple[Floats, Floats]:
    """Return targets and predictions as float64 after checking that they make one table."""
    wanted, given = _finite("targets", targets), _finite("predictions", predictions)
    _check_one_table(wanted, given)
    _check_some(wanted)
    return wanted, given


def _finite(name: str, values: ArrayLike) -> Floats:
    """Return values as float64 after checking that all are finite."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ExamplesError(f"{name} hold {array[at]} at {at}")
    return array


def _weights(weights: ArrayLike | None, n: int) -> Floats:
    """Return the weights (n,) float64, checked, or ones where none are given."""
    w = np.ones(n) if weights is None else _finite("weights", weights)
    if len(w) != n:
        raise ExamplesError(f"{len(w)} weights for {n} examples")
    if n and (w.min() < 0 or not w.sum() > 0):
        raise ExamplesError(f"weights are {w.min()}..{w.max()}: none may be negative, nor all 0")
    return w


def _check_one_table(*columns: NDArray[np.generic]) -> None:
    if len({len(column) for column in columns}) != 1:
        raise ExamplesError(
            f"columns of {', '.join(str(len(c)) for c in columns)} examples are not one table"
        )


def _check_some(column: NDArray[np.generic]) -> None:
    if not len(column):
        raise ExamplesError("there are no examples")


def _check_probabilities(p: Floats) -> None:
    if p.min() < 0 or p.max() > 1:
        raise ExamplesError(f"probabilities are {p.min()}..{p.max()}, not in 0..1")


def _check_classes(classes: Ints, n_classes: int) -> None:
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ExamplesError(f"classes {classes.min()}..{classes.max()} are not in 0..{n_classes - 1}")


def _metrics() -> Any:
    from sklearn import metrics  # noqa: PLC0415  half a second, which who has no heads does not wait for

    return metrics
