"""The loss of a learned block: the targets are ranked by the fused vector and by each view alone."""

import numpy as np
import torch
from torch import Tensor

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

    def loss(
        self,
        users: Tensor,
        items: tuple[Tensor, Tensor],
        targets: Matrix,
        counted: Tensor,
        drawn: Tensor | None,
    ) -> Tensor:
        """Return −Σ log p(target | user) over the targets, per user of the batch.

        Args:
            users: (B, D), scaled.
            items: vectors (N, D) and bias (N,).
            targets: (B, N) 1 for each target.
            counted: (B,) 1 for the users whose targets count.
            drawn: as `draw` returned it.
        """
        vectors, bias = items
        rows = np.repeat(np.arange(targets.shape[0]), np.diff(targets.indptr))
        owner = torch.from_numpy(rows).to(users.device)
        item = torch.from_numpy(targets.indices.astype(np.int64)).to(users.device)
        if drawn is None:
            scores = (users @ vectors.T).float() + bias  # (B, N)
            log_p = scores[owner, item] - torch.logsumexp(scores, dim=1)[owner]
        else:
            at = drawn.to(users.device)
            correction = torch.log(self._chances[drawn] * len(drawn)).to(users.device)
            others = (users @ vectors[at].T).float() + bias[at] - correction  # (B, n)
            own = (users[owner] * vectors[item]).sum(dim=1).float() + bias[item]
            log_p = own - torch.logaddexp(torch.logsumexp(others, dim=1)[owner], own)
        return -(log_p * counted[owner]).sum() / len(users)


def step_loss(
    block: LearnedBlock, ranking: RankingLoss, step: Step, inputs: Inputs, options: LearnConfig
) -> Tensor:
    """Return the loss of one step, a scalar.

    Fused vectors rank the hidden targets; H alone ranks the whole history (a denoising autoencoder); every
    view alone ranks the targets; α times the alignment objective; and the same for parts perturbed in the
    direction that hurts most.
    """
    views, gates = block.parts(inputs)  # (B, 3, D), (B, 3)
    items, drawn, scale = (block.items(), block.bias), ranking.draw(), block.log_scale.exp()
    all_users = torch.ones_like(inputs.present[:, 0])

    def ranked(vectors: Tensor, targets: Matrix, counted: Tensor) -> Tensor:
        return ranking.loss(scale * vectors, items, targets, counted, drawn)

    fused = (views * gates[:, :, None]).sum(dim=1)  # (B, D)
    loss = ranked(fused, step.targets, all_users)
    present = (inputs.present * inputs.genuine).T  # (3, B); a view that is dropped from the sum still learns
    if options.history_loss:
        loss = loss + options.history_loss * ranked(views[:, 0], step.everything, present[0])
    if options.view_loss:
        for i in range(3):
            if present[i].any():
                loss = loss + options.view_loss * ranked(views[:, i], step.targets, present[i])
    if options.alignment:
        apart = ((fused[:, None] - views) ** 2).sum(dim=2) * inputs.present  # (B, 3)
        loss = loss + options.alignment * apart.sum() / len(fused)
    if options.adversarial:
        (slope,) = torch.autograd.grad(loss, views, retain_graph=True)
        worst = options.adversarial * torch.nn.functional.normalize(slope.detach(), dim=2)
        loss = loss + ranked(((views + worst) * gates[:, :, None]).sum(dim=1), step.targets, all_users)
    return loss
