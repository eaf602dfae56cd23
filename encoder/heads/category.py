"""Fitting the head of category on frozen user vectors, in torch."""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from encoder.heads.descent import descend
from encoder.heads.examples import Examples, Floats
from encoder.heads.options import HeadOptions
from encoder.heads.weights import CategoryWeights, Scaling
from encoder.views import FloatArray

_AT_ONCE = 8_192


class CategoryFit:
    """A trained linear layer on standardised user vectors.

    Attributes:
        layer: D → C.
        scaling: of the vectors.
    """

    def __init__(self, layer: nn.Linear, scaling: Scaling) -> None:
        self.layer = layer
        self.scaling = scaling

    def predict(self, users: FloatArray) -> Floats:
        """Return the probabilities of the classes (B, C), computed by torch."""
        with torch.no_grad():
            logits = self.layer(torch.from_numpy(self.scaling.apply(users)))
        return np.asarray(torch.softmax(logits, dim=1).double().numpy())

    def weights(self) -> CategoryWeights:
        """Return the same function folded into plain arrays."""
        matrix = self.layer.weight.detach().double().numpy().T / self.scaling.deviation[:, None]  # (D, C)
        return CategoryWeights(
            self.scaling.mean.astype(np.float32),
            np.ascontiguousarray(matrix, dtype=np.float32),
            self.layer.bias.detach().numpy().copy(),
        )


def fit_categories(
    train: Examples, valid: Examples, users: FloatArray, n_classes: int, options: HeadOptions
) -> CategoryFit:
    """Return the multinomial logistic regression with the best valid loss.

    The target of a user is the distribution over the classes of the user's events; users weigh by their
    events, so that the loss is the mean cross-entropy of an event, the one that is measured.

    Args:
        train: examples of category.
        valid: for early stopping.
        users: (U, D) float32.
        n_classes: C.
        options: of the head.
    """
    totals = np.bincount(train.labels.astype(np.int64), weights=train.weights, minlength=n_classes)
    layer = nn.Linear(users.shape[1], n_classes)
    with torch.no_grad():  # begins as the most frequent category; a class never seen counts as one event
        layer.weight.zero_()
        layer.bias.copy_(torch.from_numpy(np.log((totals + 1) / (totals + 1).sum())))
    scaling = Scaling.of(users[np.unique(train.users)])
    standardised = scaling.apply(users)
    rows, counts = _by_user(train, n_classes, len(users))
    inputs = torch.from_numpy(standardised[rows])
    valid_rows, valid_counts = _by_user(valid, n_classes, len(users))
    mean_total = float(counts.sum()) / len(rows)

    def loss(vectors: Tensor, targets: Tensor) -> Tensor:
        return -(functional.log_softmax(layer(vectors), dim=1) * targets).sum()

    def train_loss(at: Tensor) -> Tensor:
        targets = torch.from_numpy(counts[at.numpy()].toarray()).float()  # (b, C)
        return loss(inputs[at], targets) / (len(at) * mean_total)

    def valid_loss() -> float:
        total = 0.0
        for start in range(0, len(valid_rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            targets = torch.from_numpy(valid_counts[part].toarray()).float()
            with torch.no_grad():
                total += float(loss(torch.from_numpy(standardised[valid_rows[part]]), targets))
        return total / float(valid_counts.sum())

    descend(layer, len(rows), train_loss, valid_loss, options, "category", options.user_batch)
    return CategoryFit(layer, scaling)


def _by_user(
    examples: Examples, n_classes: int, n_users: int
) -> tuple["np.ndarray[tuple[int], np.dtype[np.int64]]", "sparse.csr_array[np.float64]"]:
    """Return the users with examples (n,), and their events by class (n, C)."""
    entries = (examples.weights, (examples.users, examples.labels.astype(np.int64)))
    counts = sparse.csr_array(entries, shape=(n_users, n_classes))
    rows = np.unique(examples.users)
    return rows, counts[rows]
