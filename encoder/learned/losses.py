"""The loss of a learned block: the targets are ranked by the fused vector and by each view alone."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its usual name

from encoder.learned.batches import Step
from encoder.learned.config import LearnConfig
from encoder.learned.model import Inputs, LearnedBlock
from encoder.views import Matrix


class RankingLoss:
    """Multinomial log-likelihood of targets over all items, or over drawn ones with log-Q correction.

    A drawn negative j counts exp(s_j − log(n q_j)): the sum over n draws estimates the sum over all items.

    Source:
        Bengio and Senécal 2008, "Adaptive importance sampling"; Yi et al. 2019, "Sampling-bias-corrected
        neural modeling", equation 4.
    """

    def __init__(self, popularity: Tensor, negatives: int, seed: int) -> None:
        self._negatives = negatives
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        weights = popularity.double() + 1.0
        self._chances = (weights / weights.sum()).float()

    def seed(self, epoch: int) -> None:
        """Seed the draws of an epoch, so that the same epoch draws the same items."""
        self._generator.manual_seed(self._seed * 1_000_003 + epoch)

    def draw(self) -> Tensor | None:
        """Draw the rows (n,) of the items that stand for all items in a step; None is all of them."""
        if not self._negatives:
            return None
        return torch.multinomial(self._chances, self._negatives, replacement=True, generator=self._generator)

    def ranked(
        self, users: Tensor, items: tuple[Tensor, Tensor], drawn: Tensor | None, rows: Tensor | None = None
    ) -> "Ranked":
        """Score the items that stand for all items, for every user of a batch.

        Args:
            users: (B, D), scaled.
            items: vectors (N, D) and bias (N,), or those of `rows`.
            drawn: as `draw` returned it.
            rows: (n,) ascending, of the items that the step names or draws; None is all.
        """
        vectors, bias = items
        if drawn is None:
            scores = (users @ vectors.T).float() + bias  # (B, N)
            return Ranked(users, items, rows, scores, torch.logsumexp(scores, dim=1))
        at = _places(rows, drawn.to(users.device))
        correction = torch.log(self._chances[drawn] * len(drawn)).to(users.device)
        others = (users @ vectors[at].T).float() + (bias[at] - correction)  # (B, n)
        return Ranked(users, items, rows, None, torch.logsumexp(others, dim=1))


@dataclass(frozen=True)
class Ranked:
    """Users (B, D) beside items, and what their likelihood is made of.

    Shapes:
        scores: (B, N) of all items; None where drawn items stand for them.
        total: (B,) log of the sum over all items, or over the drawn ones, of exp(score).
    """

    users: Tensor
    items: tuple[Tensor, Tensor]
    rows: Tensor | None
    scores: Tensor | None
    total: Tensor

    def loss(self, targets: Matrix, counted: Tensor, batch: int | None = None) -> Tensor:
        """Return −Σ log p(target | user) over the targets, per user of the batch.

        Args:
            targets: (B, N) 1 for each target.
            counted: (B,) 1 for the users whose targets count.
            batch: how many users the whole batch has; None where these are all.
        """
        users = self.users
        owners = np.repeat(np.arange(targets.shape[0]), np.diff(targets.indptr))
        owner = torch.from_numpy(owners).to(users.device)
        item = _places(self.rows, torch.from_numpy(targets.indices.astype(np.int64)).to(users.device))
        if self.scores is not None:
            log_p = self.scores[owner, item] - self.total[owner]
        else:
            vectors, bias = self.items
            own = (F.embedding(owner, users) * F.embedding(item, vectors)).sum(dim=1).float() + bias[item]
            log_p = own - torch.logaddexp(self.total[owner], own)
        return -(log_p * counted[owner]).sum() / (len(users) if batch is None else batch)


def _places(rows: Tensor | None, items: Tensor) -> Tensor:
    """Return the positions in `rows` of some of its items; the items themselves where it is None."""
    return items if rows is None else torch.searchsorted(rows, items)


def _named_rows(step: Step, drawn: Tensor | None) -> Tensor | None:
    """Return the rows of the items that a step ranks (n,), ascending, each once; None is all."""
    if drawn is None:
        return None
    named = [step.targets.indices, step.everything.indices, drawn.numpy()]
    return torch.from_numpy(np.unique(np.concatenate(named).astype(np.int64)))


def step_loss(
    block: LearnedBlock, ranking: RankingLoss, step: Step, inputs: Inputs, options: LearnConfig
) -> Tensor:
    """Return the loss of one step, a scalar.

    Fused vectors rank the hidden targets; H alone ranks the whole history (a denoising autoencoder); every
    view alone ranks the targets; α times the alignment objective; and the same for parts perturbed in the
    direction that hurts most. The losses of all parts of a batch add up to that of the whole.
    """
    views, gates = block.parts(inputs)  # (B, 3, D), (B, 3)
    drawn, scale = ranking.draw(), block.log_scale.exp()
    rows = _named_rows(step, drawn)
    rows = rows if rows is None else rows.to(inputs.present.device)
    items = block.items(rows, inputs.draws), block.bias if rows is None else block.bias[rows]
    all_users = torch.ones_like(inputs.present[:, 0])

    def ranked(vectors: Tensor) -> Ranked:
        return ranking.ranked(scale * vectors, items, drawn, rows)

    fused = (views * gates[:, :, None]).sum(dim=1)  # (B, D)
    loss = ranked(fused).loss(step.targets, all_users, step.users)
    present = (inputs.present * inputs.genuine).T  # (3, B); a view that is dropped from the sum still learns
    for i in range(3):
        weights = options.view_loss, options.history_loss if i == 0 else 0.0
        if any(weights) and (i == 0 or present[i].any()):
            alone = ranked(views[:, i])
            for weight, wanted in zip(weights, (step.targets, step.everything), strict=True):
                if weight:
                    loss = loss + weight * alone.loss(wanted, present[i], step.users)
    if options.alignment:
        apart = ((fused[:, None] - views) ** 2).sum(dim=2) * inputs.present  # (B, 3)
        loss = loss + options.alignment * apart.sum() / step.users
    if options.adversarial:
        (slope,) = torch.autograd.grad(loss, views, retain_graph=True)
        worst = options.adversarial * F.normalize(slope.detach(), dim=2)
        hurt = ((views + worst) * gates[:, :, None]).sum(dim=1)
        loss = loss + ranked(hurt).loss(step.targets, all_users, step.users)
    return loss
