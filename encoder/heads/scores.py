"""What is trained of a head, in torch: a score of pairs, and a distribution over classes."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from encoder.arrays import IntArray
from encoder.heads.statistics import Scaling
from encoder.heads.subjects import Asked, Subjects
from encoder.views import FloatArray


class SubjectInputs(NamedTuple):
    """Subjects as tensors: vectors (S, D) and ratings (h,) standardised; owners, rows (h,); folds (S,)."""

    vectors: Tensor
    owners: Tensor
    rows: Tensor
    ratings: Tensor
    folds: Tensor

    @classmethod
    def of(
        cls, subjects: Subjects, scaling: Scaling, ratings: tuple[float, float], folds: IntArray
    ) -> "SubjectInputs":
        """Standardise subjects; `ratings` are the mean and deviation of a rating."""
        mean, deviation = ratings
        return cls(
            torch.from_numpy(scaling.apply(subjects.vectors)),
            torch.from_numpy(subjects.owners),
            torch.from_numpy(subjects.rows),
            torch.from_numpy((subjects.ratings - np.float32(mean)) / np.float32(deviation)),
            torch.from_numpy(folds),
        )


class PairInputs(NamedTuple):
    """Pairs as tensors (B,): subject, item row, <V_u, x_j> standardised, item's bias, place in its list."""

    subject: Tensor
    items: Tensor
    matched: Tensor
    biases: Tensor
    places: Tensor


class Taste(nn.Module):
    """What the ratings of a person say beyond the vector: a bias, and a taste for coordinates of items.

    With the n items i of the history, e_i = rating_i − bias_i, the bias is b = Σ e_i / (n + shrinkage) and
    the taste is p = Σ (e_i − b) y_i / √(n + 1); an item that is asked about counts b · gain + <p, q_j>.

    Shapes:
        y, q: (N, r).

    Source:
        Koren 2008, "Factorization meets the neighborhood", KDD, section 3: the asymmetric model.
    """

    def __init__(self, n_items: int, rank: int, shrinkage: float, generator: torch.Generator) -> None:
        super().__init__()
        self.history, self.asked = (
            nn.Parameter(torch.randn(n_items, rank, generator=generator) * 0.05) for _ in range(2)
        )
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.shrinkage = shrinkage

    def forward(self, people: SubjectInputs, tables: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bias (S,) and the taste (S, r) of people; `tables` (F + 1, N) are biases by fold."""
        size = len(people.vectors)
        residual = people.ratings - tables[people.folds[people.owners], people.rows]  # (h,)
        counts = torch.bincount(people.owners, minlength=size)
        bias = torch.zeros(size).index_add(0, people.owners, residual) / (counts + self.shrinkage)
        left = (residual - bias[people.owners])[:, None] * self.history[people.rows]  # (h, r)
        taste = torch.zeros(size, left.shape[1]).index_add(0, people.owners, left)
        return bias * self.gain, taste / torch.sqrt(counts + 1.0)[:, None]


class PairScore(nn.Module):
    """Score of a subject and an item: scaled inner product, low-rank bilinear and linear terms, item bias.

    Of click beside that a number for each place in a list, of rating the `Taste`.

    Shapes:
        items: (N, D) standardised. returns: (B,) float32.
    """

    def __init__(self, dim: int, rank: int, inner: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.left, self.right = (
            nn.Parameter(torch.randn(dim, rank, generator=generator) * 0.1 / dim**0.5) for _ in range(2)
        )
        self.user, self.item = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        self.inner, self.gain, self.constant = (
            nn.Parameter(torch.tensor(value)) for value in (inner, 1.0, 0.0)
        )
        self.places: nn.Parameter | None = None
        self.taste: Taste | None = None

    def forward(self, people: SubjectInputs, pairs: PairInputs, items: Tensor, tables: Tensor) -> Tensor:
        """Score pairs."""
        rows, place = torch.unique(pairs.items, return_inverse=True)  # each item's vector is used once
        shown = items[rows]  # (m, D)
        bilinear = (people.vectors @ self.left)[pairs.subject] * (shown @ self.right)[place]  # (B, r)
        linear = (people.vectors @ self.user)[pairs.subject] + (shown @ self.item)[place]
        score = self.inner * pairs.matched + bilinear.sum(dim=1) + linear
        score = score + self.gain * pairs.biases + self.constant
        if self.places is not None:
            score = score + self.places[pairs.places]
        if self.taste is not None:
            bias, taste = self.taste(people, tables)
            score = score + bias[pairs.subject]
            score = score + (taste[pairs.subject] * self.taste.asked[pairs.items]).sum(dim=1)
        return score


class ClassScore(nn.Module):
    """Log-odds of classes: linear in the standardised user vector and the log of the history's shares.

    With the counts c of the classes in the history and the shares f of everybody, the history's own shares
    are (c + κ f) / (Σ c + κ); κ = exp(`amount`).
    """

    def __init__(self, dim: int, everybody: Tensor) -> None:
        super().__init__()
        n_classes = len(everybody)
        self.matrix = nn.Parameter(torch.zeros(dim, n_classes))
        self.constants = nn.Parameter(torch.zeros(n_classes))
        self.own = nn.Parameter(torch.tensor(1.0))
        self.amount = nn.Parameter(torch.tensor(2.0))
        self.everybody = everybody

    def forward(self, vectors: Tensor, counts: Tensor) -> Tensor:
        """Score vectors (B, D) with counts (B, C): (B, C)."""
        amount = torch.exp(self.amount)
        shares = (counts + amount * self.everybody) / (counts.sum(dim=1, keepdim=True) + amount)
        return vectors @ self.matrix + self.constants + self.own * torch.log(shares)


def inner_products(asked: Asked, items: FloatArray) -> FloatArray:
    """Compute <V_u, x_j> of each example, (n,) float32, a bounded number at a time."""
    step = 1 << 16
    products = np.empty(len(asked), dtype=np.float32)
    for start in range(0, len(asked), step):
        at = slice(start, start + step)
        users = asked.subjects.vectors[asked.subject[at]]
        products[at] = np.einsum("bd,bd->b", users, items[asked.examples.items[at]])
    return products
