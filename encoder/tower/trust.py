"""Choice of how far each view is trusted, judged by people whose views are cut short or replaced."""

import logging
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn

from encoder.dataset import Dataset
from encoder.thinning import disturbed
from encoder.tower.fusion import MAX_GATE_SLOPE, ChosenTrust, Trust
from encoder.tower.gates import TrustedGates
from encoder.tower.select import HeldOutScorer
from encoder.tower.tower import Tower
from encoder.views import (
    Matrix,
    ViewBatch,
    history_view,
    social_view,
    text_pool,
    text_view,
    view_batch,
)

log = logging.getLogger(__name__)

# Values that two public data sets agree on: taken where too few people can judge, and the mean of the prior.
USUAL = Trust(pseudo_counts=(10.0, 0.5, 1.0), sharpness=(14.0, 6.0, 6.0), expected=(0.5, 0.2, 0.2))
USUAL_SCALE = 1.3
LEAST_USERS = 100  # with two views and something held out; fewer judge nothing
MAX_USERS = 2_000

_DRAWS = 8
_CUT = (0.75, 0.3, 0.3)  # shares of the users whose H, T, S a draw cuts short
_FOREIGN = (0.15, 0.05, 0.05)  # and replaces
_WHOLE = 0.4  # share of the steps on views as they are
_STEPS = 200
_ROWS = 384  # users of a step
_ITEMS = 10_000  # ranked in a step where there are more
_RATE = 0.05
_SHARPNESS = 3.0  # of the softmax over scores of unit variance: most of its weight lies on the top items
_PRIOR = 10.0  # weight of the prior, in users


def choose_trust(tower: Tower, data: Dataset, split: str | None, seed: int = 0) -> ChosenTrust:
    """Choose the trust of a tower's views on a held-out split.

    Users are ranked with their views as they are, and with draws of them in which views are cut short or
    replaced by what is not the user's own. The likelihood of the held-out items under a softmax of the
    scores, to unit variance for each user, is maximised over the pseudo-counts, sharpness, expected agreement
    and the scale of H, with a normal prior around USUAL.

    Args:
        tower: not compressed; its gates are kept, its trust is not looked at.
        data: whose held-out rows are ranked.
        split: the name of the held-out rows; None where nothing is held out.
        seed: of every random draw.
    """
    if split is None:
        return ChosenTrust(USUAL, USUAL_SCALE, 0)
    scorer = HeldOutScorer(data, split, seed, MAX_USERS)
    draws = Draws(tower, data, scorer.users, np.random.default_rng(seed))
    judged = int((draws.whole.present.sum(axis=1) > 1).sum())
    if judged < LEAST_USERS:
        log.info(
            "trust: %d held-out users have two views, too few to judge by: the usual one is taken", judged
        )
        return ChosenTrust(USUAL, USUAL_SCALE, judged)
    batches = [draws.whole, *(draws.next() for _ in range(_DRAWS))]
    search = _Search(tower, scorer, seed)
    search.run([_Aligned.of(tower, batch) for batch in batches])
    found = ChosenTrust(search.gates.trust(), search.gates.log_scale.exp().item(), judged)
    log.info(
        "trust: pseudo-counts %s, sharpness %s, expected agreement %s, H times %.2f, by %d users",
        *(tuple(round(x, 2) for x in values) for values in asdict(found.trust).values()),
        found.scale, judged,
    )  # fmt: skip
    return found


class Draws:
    """The raw views of users, whole and as random draws leave them; friends' histories stay whole."""

    def __init__(
        self, tower: Tower, data: Dataset, users: npt.NDArray[np.int64], rng: np.random.Generator
    ) -> None:
        self.users = users
        self.whole = tower.views(data, users)
        self._data, self._rng = data, rng
        self._table, self._widths = tower.table, tower.widths
        events = data.events(tower.config)
        self._history: Matrix = events[users]
        texts = len(data.texts.users)
        self._texts: Matrix = text_pool(data.texts.users, np.arange(texts), (len(data.users), texts))[users]
        self._ties: Matrix = sparse.csr_array(data.ties)[users]
        self._events = events

    def next(self) -> ViewBatch:
        """Draw the views of all the users anew."""
        whole = (self._history, self._texts, self._ties)
        (history, texts, ties), _ = disturbed(whole, self._data.history.items, _CUT, _FOREIGN, self._rng)
        friends = np.unique(ties.indices)
        pooled = history_view(self._events[friends], self._table, self._widths)
        return view_batch(
            history_view(history, self._table, self._widths),
            text_view(texts, self._data.texts.vectors) if texts.nnz else np.zeros_like(self.whole.text),
            social_view(sparse.csr_array(ties[:, friends]), pooled, self._widths),
            np.stack([np.diff(rows.indptr) for rows in (history, texts, ties)], axis=1),
        )


@dataclass(frozen=True)
class _Aligned:
    """Views of users in the space of each block: z (B, 3, D) and amounts (B, 3)."""

    blocks: list[Tensor]
    amounts: Tensor

    @classmethod
    def of(cls, tower: Tower, batch: ViewBatch) -> "_Aligned":
        edges = np.cumsum(tower.widths)[:-1]
        views = zip(
            np.split(batch.history, edges, axis=1), np.split(batch.social, edges, axis=1), strict=True
        )
        blocks = [
            torch.from_numpy(block.fusion.aligned(history, batch.text, social).astype(np.float32))
            for block, (history, social) in zip(tower.blocks, views, strict=True)
        ]
        return cls(blocks, torch.from_numpy(batch.amounts))

    def rows(self, chosen: Tensor) -> "_Aligned":
        return _Aligned([z[chosen] for z in self.blocks], self.amounts[chosen])


class _ScaledGates(TrustedGates):
    """The trust that is searched, with the logarithm of the factor of H's gates."""

    def __init__(self) -> None:
        super().__init__(USUAL)
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(USUAL_SCALE))))
        self._start = {name: one.detach().clone() for name, one in self.named_parameters()}
        self._spread = {"log_pseudo_counts": 1.0, "log_sharpness": 0.5, "expected": 0.15, "log_scale": 0.7}

    def prior(self) -> Tensor:
        """Return the squared distances from the usual values, in standard deviations of the prior."""
        apart = [
            (((one - self._start[name]) / self._spread[name]) ** 2).sum()
            for name, one in self.named_parameters()
        ]
        return torch.stack(apart).sum()


class _Search:
    """The search for trust by gradient: Adam over steps of random users of a random draw."""

    def __init__(self, tower: Tower, scorer: HeldOutScorer, seed: int) -> None:
        self.gates = _ScaledGates()
        self._tower = tower
        self._rng = np.random.default_rng(seed)
        self._items = torch.from_numpy(tower.id_vectors)
        self._scorer = scorer
        self._gates = [torch.tensor(block.fusion.gates, dtype=torch.float32) for block in tower.blocks]
        self._slopes = [torch.from_numpy(block.fusion.slopes.astype(np.float32)) for block in tower.blocks]

    def run(self, draws: list[_Aligned]) -> None:
        """Move the trust; the first draw is of whole views."""
        optimizer = torch.optim.Adam(self.gates.parameters(), lr=_RATE)
        chances = np.array([_WHOLE, *[(1 - _WHOLE) / (len(draws) - 1)] * (len(draws) - 1)])
        users = len(draws[0].amounts)
        for step in range(_STEPS):
            draw = draws[self._rng.choice(len(draws), p=chances)]
            chosen = self._rng.choice(users, min(_ROWS, users), replace=False)
            loss = self._loss(draw.rows(torch.from_numpy(chosen)), chosen)
            loss = loss + _PRIOR / users * self.gates.prior()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - step / _STEPS)

    def _loss(self, views: _Aligned, chosen: npt.NDArray[np.int64]) -> Tensor:
        """Return −mean log p(target) over the targets of the chosen users (B,), each user counting alike."""
        relevant, seen = self._scorer.relevant[chosen], self._scorer.seen[chosen]
        columns = self._columns(relevant)
        present = (views.amounts > 0).float()
        vectors = []
        for z, gates, slopes, block in zip(
            views.blocks, self._gates, self._slopes, self._tower.blocks, strict=True
        ):
            moved = (views.amounts @ slopes.T).clamp(-MAX_GATE_SLOPE, MAX_GATE_SLOPE)
            factor = torch.cat([self.gates.log_scale.exp()[None], torch.ones(2)])
            weights = self.gates(present * gates * factor * moved.exp(), views.amounts, z)
            vectors.append((z * weights[:, :, None]).sum(dim=1))
            if block.fusion.constant:
                vectors.append(weights.sum(dim=1, keepdim=True))
        scores = torch.cat(vectors, dim=1) @ self._items[columns].T  # (B, n)
        scores = scores - scores.mean(dim=1, keepdim=True)
        scores = _SHARPNESS * scores / scores.std(dim=1, keepdim=True).clamp_min(1e-9)
        masked, targets = (torch.from_numpy(rows[:, columns].toarray()) for rows in (seen, relevant))
        targets = targets * (masked == 0) * (present.sum(dim=1, keepdim=True) > 0)
        log_p = torch.log_softmax(scores.masked_fill(masked > 0, -torch.inf), dim=1)
        share = targets / targets.sum(dim=1, keepdim=True).clamp_min(1.0)
        return -torch.where(share > 0, log_p * share, 0.0).sum() / len(chosen)

    def _columns(self, relevant: Matrix) -> npt.NDArray[np.int64]:
        """Return the items that a step ranks: all, or the targets and random others."""
        items = len(self._items)
        if items <= _ITEMS:
            return np.arange(items)
        return np.union1d(relevant.indices, self._rng.choice(items, _ITEMS, replace=False)).astype(np.int64)
