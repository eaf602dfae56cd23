"""The parts of a step, which several ranks have, add up to the whole, whatever is drawn."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn import functional as F  # noqa: N812  its usual name

from encoder.dataset import Dataset
from encoder.learned.batches import Step, Steps
from encoder.learned.config import LearnConfig
from encoder.learned.losses import RankingLoss, step_loss
from encoder.learned.model import Inputs, LearnedBlock, StepDraws
from encoder.views import unit_rows
from tests.tiny_dataset import CONFIG, ITEMS, USERS, dataset

CPU = torch.device("cpu")
OPTIONS = LearnConfig(dim=16, batch=17, cut=0.5, foreign=0.3, alignment=0.5)  # 24 users: 17 and 7


def described() -> Dataset:
    """A data set whose items have texts, too."""
    data = dataset(dated=False)
    text = unit_rows(np.random.default_rng(0).random(data.item_text_vectors.shape, dtype=np.float32))
    return replace(data, item_content=replace(data.item_content, text_vectors=text))


def without_text(data: Dataset) -> Dataset:
    none = data.item_content.without(np.ones(ITEMS, bool))
    content = replace(none, text_vectors=np.zeros((ITEMS, 0), np.float32))
    texts = data.texts.where(np.zeros(len(data.texts.users), bool))
    return replace(
        data,
        texts=replace(texts, vectors=np.zeros((0, 0), np.float32)),
        item_content=content,
    )


def lonely(data: Dataset) -> Dataset:
    return replace(data, ties=sparse.csr_array((USERS, USERS)))


def of_parts(
    data: Dataset, options: LearnConfig, parts: Sequence[slice]
) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
    """The loss and the gradient of the last step of an epoch, summed over its parts; the largest addends."""
    torch.manual_seed(1)
    block = LearnedBlock(ITEMS, data.item_text_vectors, options)
    ranking = RankingLoss(torch.arange(float(ITEMS)), options.negatives, 0)
    *_, step = Steps(data, CONFIG, options).epoch(2)
    draws = block.draw(step.users, CPU)
    total = 0.0
    summed: dict[str, torch.Tensor] = {}
    sizes: dict[str, torch.Tensor] = {}
    for part in parts:
        ranking.seed(2)  # every rank draws the same negatives
        own = step.part(part)
        loss = step_loss(block, ranking, own, Inputs.of(own, CPU, draws.part(part)), options)
        block.zero_grad()
        loss.backward()
        total += loss.item()
        for name, one in block.named_parameters():
            if one.grad is not None:
                summed[name] = summed.get(name, 0.0) + one.grad
                sizes[name] = sizes.get(name, 0.0) + one.grad.abs()
    return total, summed, {name: float(size.max()) if size.numel() else 0.0 for name, size in sizes.items()}


@pytest.mark.parametrize("ranks", [2, 3, 9])  # of 9, two have none of the 7 users
@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda data: data, OPTIONS),
        (lonely, OPTIONS),
        (without_text, OPTIONS),
        (lambda data: lonely(without_text(data)), OPTIONS),
        (lambda data: data, replace(OPTIONS, negatives=12)),
        (lambda data: data, replace(OPTIONS, adversarial=0.5)),
    ],
    ids=["all views", "no friends", "no text", "history alone", "negatives", "adversarial"],
)
def test_the_gradients_of_the_parts_add_up_to_that_of_the_step(
    change: object, options: LearnConfig, ranks: int
) -> None:
    data = change(described())  # type: ignore[operator]
    loss, whole, _ = of_parts(data, options, [slice(None)])
    found, summed, sizes = of_parts(data, options, [slice(rank, None, ranks) for rank in range(ranks)])
    assert found == pytest.approx(loss, rel=1e-6)
    assert summed.keys() == whole.keys()
    assert any(gradient.any() for gradient in whole.values())
    for name, gradient in whole.items():
        largest = sizes[name]  # of what is added up: users cancel each other out, and rounding errors do not
        if float(gradient.abs().max() if gradient.numel() else 0.0) < 1e-4:
            largest = max(largest, 1.0)  # with one view gates are 1 whatever their parameters: errors alone
        torch.testing.assert_close(summed[name], gradient, rtol=1e-5, atol=1e-6 * largest, msg=name)


def test_a_part_has_its_users_and_their_friends_alone() -> None:
    step = next(iter(Steps(described(), CONFIG, OPTIONS).epoch(0)))
    part = slice(1, None, 3)
    own = step.part(part)
    assert own.users == step.users == 17
    for name in ("history", "targets", "everything"):
        np.testing.assert_array_equal(getattr(own, name).toarray(), getattr(step, name)[part].toarray())
    for name in ("text", "amounts", "genuine"):
        np.testing.assert_array_equal(getattr(own, name), getattr(step, name)[part])
    assert own.friends.shape[0] == len(np.unique(step.ties[part].indices)) < step.friends.shape[0]
    np.testing.assert_allclose(
        (own.ties @ own.friends).toarray(), (step.ties @ step.friends).toarray()[part], atol=1e-6
    )


def test_what_is_left_out_is_what_dropout_leaves_out() -> None:
    """The same numbers in the same order as one process has always drawn them."""
    data = described()
    options = replace(OPTIONS, noise=0.3, id_dropout=0.2, view_dropout=0.4)
    block = LearnedBlock(ITEMS, data.item_text_vectors, options)
    step: Step = next(iter(Steps(data, CONFIG, options).epoch(0)))
    torch.manual_seed(5)
    draws: StepDraws = block.draw(step.users, CPU)
    torch.manual_seed(5)
    text = torch.from_numpy(step.text)
    assert draws.text is not None
    assert draws.ids is not None
    assert torch.equal(text * draws.text, F.dropout(text, 0.3))
    assert torch.equal(draws.views, torch.rand(step.users, 3) >= 0.4)
    assert torch.equal(draws.ids, torch.rand(ITEMS, 1) >= 0.2)
