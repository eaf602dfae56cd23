"""One tower of several blocks: the closed form mixed with learned blocks by a weight, compressed to a dim."""

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from encoder.dataset import Dataset
from encoder.progress import watched
from encoder.tower.select import HeldOutScorer, balanced, half_lives
from encoder.tower.tower import Block, Compression, Tower
from encoder.views import FloatArray

log = logging.getLogger(__name__)

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_USERS = 2_000  # over whom the spread of a block's scores is measured
_ROWS = 8_192
_RIDGE = 1e-9


@dataclass(frozen=True)
class Mix:
    """The weight of learned blocks beside the closed form, the half-life, and NDCG@20 of all tried."""

    weight: float
    half_life: float
    ndcg_by_weight: dict[str, float]
    ndcg_by_half_life: dict[str, float]


def mixed(closed: Tower, learned: list[Block], weight: float, data: Dataset) -> Tower:
    """Join blocks into one tower, scaled so that their scores spread alike, the learned ones times a weight.

    A block's spread is the mean over users of the standard deviation of its scores over items.
    """
    if not weight or not learned:
        return closed
    share = weight / len(learned)
    towers = [closed, *(Tower(closed.config, (block,)) for block in learned)]
    factors = [1.0, *(share for _ in learned)]
    blocks = [
        tower.blocks[0].scaled(factor / _spread(tower, data))
        for tower, factor in zip(towers, factors, strict=True)
    ]
    return Tower(closed.config, tuple(blocks))


def choose_mix(closed: Tower, learned: list[Block], data: Dataset, split: str) -> Mix:
    """Choose the weight of the learned blocks by NDCG@20 on a split, then the half-life.

    Weight 0 leaves the learned blocks out. First visits have their share in the choice of the weight
    (`select.balanced`).
    """
    scorer = HeldOutScorer(data, split)
    whole = mixed(closed, learned, 1.0, data)
    views = whole.views(data, scorer.users)
    vectors, first = whole.vectors(views), whole.vectors(views.only(("T", "S")))
    items = whole.id_vectors
    own = closed.blocks[0].fusion.dim
    tried, scores = {}, {}
    for weight in watched(WEIGHTS, "mix", "weight"):
        weighted = items * np.where(np.arange(items.shape[1]) < own, 1.0, weight).astype(np.float32)
        tried[f"{weight:g}"] = scorer.score(vectors, weighted)
        cold = scorer.score(first, weighted) if first.any() else tried[f"{weight:g}"]
        scores[weight] = balanced(tried[f"{weight:g}"], cold)
    best = max(WEIGHTS, key=lambda weight: scores[weight])
    log.info("learned blocks: weight %g, NDCG@20 %.4f on %s", best, tried[f"{best:g}"], split)
    lives = {0.0, closed.config.half_life, *half_lives(data)}
    tower = mixed(closed, learned, best, data)
    reached = {
        life: scorer.score_tower(with_half_life(tower, life))
        for life in watched(sorted(lives), "half-life", "setting")
    }
    life = max(reached, key=lambda each: reached[each])
    log.info("half-life %g events, NDCG@20 %.4f on %s", life, reached[life], split)
    return Mix(best, life, tried, {f"{each:g}": ndcg for each, ndcg in reached.items()})


def with_half_life(tower: Tower, half_life: float) -> Tower:
    """Return the tower with another half-life of the events that it pools."""
    return replace(tower, config=replace(tower.config, half_life=half_life))


def compressed(tower: Tower, data: Dataset, dim: int) -> Tower:
    """Compress a tower to at most `dim` coordinates: the closest scores in least squares over users × items.

    Source:
        Eckart and Young 1936: with Gram matrices VᵀV = L_v L_vᵀ and XᵀX = L_x L_xᵀ, the best V' X'ᵀ of rank
        D' keeps the top D' singular triples of L_vᵀ L_x.
    """
    whole = sum(block.fusion.dim for block in tower.blocks)
    if whole <= dim:
        return tower
    users = np.zeros((whole, whole))
    for batch in tower.batches(data):
        vectors = tower.vectors(batch)  # (B, Σ D)
        users += vectors.T @ vectors
    left, right = _root(users), _root(_gram(tower.id_vectors))
    u, s, vt = np.linalg.svd(left.T @ right)
    root = np.sqrt(s[:dim])
    users_map = np.linalg.solve(left.T, u[:, :dim] * root)
    items_map = np.linalg.solve(right.T, vt[:dim].T * root)
    squares = float(np.einsum("ij,ij->", users_map, users @ users_map))  # of all users' lengths
    length = np.sqrt(squares / len(data.users)) or 1.0
    users_map, items_map = users_map / length, items_map * length  # V_u keep a length of about 1
    kept = float((s[:dim] ** 2).sum() / (s**2).sum())
    log.info("compressed %d coordinates to %d, %.2f %% of the squared scores kept", whole, dim, 100 * kept)
    return Tower(tower.config, tower.blocks, Compression(_f32(users_map), _f32(items_map)))


def _spread(tower: Tower, data: Dataset) -> float:
    """Return the mean over users of the standard deviation of scores over items; 1 where it is 0."""
    sample: list[npt.NDArray[np.float64]] = []
    for batch in tower.batches(data):
        with_view = np.flatnonzero(batch.amounts.any(axis=1))[: _USERS - sum(map(len, sample))]
        sample.append(tower.vectors(batch.rows(with_view)))
        if sum(map(len, sample)) == _USERS:
            break
    vectors, items = np.concatenate(sample), tower.id_vectors
    mean = items.mean(axis=0, dtype=np.float64)
    covariance = _gram(items) / len(items) - np.outer(mean, mean)
    variance = np.einsum("ud,de,ue->u", vectors, covariance, vectors, optimize=True)
    return float(np.sqrt(np.maximum(variance, 0.0)).mean()) or 1.0


def _gram(rows: FloatArray) -> npt.NDArray[np.float64]:
    """Return rowsᵀ rows (D, D) in float64, a bounded number of rows at a time."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS].astype(np.float64)
        total += some.T @ some
    return total


def _root(gram: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the lower Cholesky factor of a matrix that may be singular."""
    return np.linalg.cholesky(gram + _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)))


def _f32(matrix: npt.NDArray[np.floating]) -> FloatArray:
    return np.ascontiguousarray(matrix, dtype=np.float32)
