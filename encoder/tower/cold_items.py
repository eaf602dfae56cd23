"""Vectors of items that nobody has touched: fitted on the content of the others, chosen on held-out rows.

Source:
    Koren, Gantner et al. 2010, "Learning attribute-to-feature mappings for cold-start recommendations", ICDM:
    factors of items regressed on their attributes.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt

from encoder.arrays import IntArray
from encoder.content import (
    AttributeEncoder,
    AttributeEncoding,
    ContentMaps,
    ContentSettings,
    ContentTower,
    ItemContent,
)
from encoder.content.maps import MOST_ITEMS, PATTERNS, Moments, sum_of
from encoder.dataset import Dataset
from encoder.progress import LongStage
from encoder.tower.select import HeldOutScorer
from encoder.tower.tower import Tower
from encoder.views import FloatArray
from evaluation.metrics import mean_over_users, ndcg
from evaluation.ranking import top_k

RIDGES = (0.1, 1.0, 10.0)
POPULARITIES = (0.0, 0.5, 1.0)
SCALES = (1.0, 1.5, 2.0, 3.0)
FOLDS = 5
_MOST_SCORES = 10_000_000  # users × items that are ranked for one setting
_FEWEST = 100  # users
_K = 20

Floats = npt.NDArray[np.float64]

log = logging.getLogger(__name__)


def fit_content(tower: Tower, data: Dataset, settings: ContentSettings) -> Tower:
    """Return the tower with maps from content to item vectors, fitted over the items that have an id vector.

    Args:
        tower: whose item vectors are aimed at.
        data: that it was fitted on.
        settings: as `choose_content` chose them.
    """
    encoder = fit_attributes(data, tower.id_vectors, settings.encoding)
    regression = _Regression.of(tower.id_vectors, data, encoder)
    return replace(tower, content=ContentTower(encoder, regression.maps(settings)))


def fit_attributes(data: Dataset, id_vectors: FloatArray, encoding: AttributeEncoding) -> AttributeEncoder:
    """Learn the attributes of the items that have an id vector; one-hot where there are none to learn."""
    known = data.described.take(np.flatnonzero(id_vectors.any(axis=1)))
    one_hot = AttributeEncoder.fit(known, "one-hot")
    return one_hot if encoding == "one-hot" or not one_hot.dim else AttributeEncoder.fit(known, encoding)


def choose_content(tower: Tower, data: Dataset, split: str | None, seed: int) -> ContentSettings:
    """Choose how item vectors are made from content, by NDCG@20 on a held-out split.

    A fifth of the items at a time is encoded from its content by a regression over the others, and ranked among
    them with their id vectors; targets among all items count, new and known, so that neither drives out the other.

    Args:
        tower: fitted and, above all, trusted as it will serve.
        data: that it was fitted on.
        split: None where nothing can be chosen: then settings are those of `ContentSettings`.
        seed: of the folds.
    """
    default = ContentSettings()
    encoders = [fit_attributes(data, tower.id_vectors, "one-hot")]
    if encoders[0].dim:
        encoders.append(fit_attributes(data, tower.id_vectors, "hashed"))
    if split is None or not any(data.content(encoders[0]).widths):
        return default
    judge = _Judge(tower, data, split, seed)
    tried: dict[ContentSettings, float] = {}
    total = len(encoders) * (len(RIDGES) * len(POPULARITIES) + len(SCALES) - 1)
    with LongStage("new items", total, "setting") as stage:
        for encoder in encoders:
            regression = _Regression.of(tower.id_vectors, data, encoder)
            grid = [
                replace(default, encoding=encoder.encoding, ridge=ridge, popularity=popularity)
                for ridge, popularity in product(RIDGES, POPULARITIES)
            ]
            for settings in grid:
                tried[settings] = judge.score(regression, settings)
                stage.advance(note=f"NDCG@20 {max(tried.values()):.4f}")
            best = max(grid, key=lambda one: tried[one])
            for settings in (replace(best, scale=scale) for scale in SCALES if scale != best.scale):
                tried[settings] = judge.score(regression, settings)
                stage.advance(note=f"NDCG@20 {max(tried.values()):.4f}")
    best = max(tried, key=lambda one: tried[one])
    log.info(
        "new items: attributes %s, ridge %g, weights n^%g, scale %g, NDCG@20 %.4f of targets a fifth of which is new",
        best.encoding, best.ridge, best.popularity, best.scale, tried[best],
    )  # fmt: skip
    return best


class _Regression:
    """The regression of id vectors on content, over all items that have both and without a fold of them.

    Args:
        vectors: (N, D) float32, zero for an item without id vector.
        content: of the N items.
        popularity: (N,) users behind each item.
        seed: of the folds.
    """

    def __init__(self, vectors: FloatArray, content: ItemContent, popularity: Floats, seed: int = 0) -> None:
        self._vectors, self._content, self._popularity = vectors, content, popularity
        rows = np.flatnonzero(vectors.any(axis=1) & content.present.any(axis=1))
        if len(rows) > MOST_ITEMS:  # the most popular ones
            rows = np.sort(rows[np.argsort(-popularity[rows], kind="stable")[:MOST_ITEMS]])
        self.folds = np.array_split(np.random.default_rng([seed, 2]).permutation(rows), FOLDS)
        parts = content.present[rows].any(axis=0) if len(rows) else np.zeros(3, bool)
        self._patterns = np.array(
            [p for p in range(1, PATTERNS) if not p & ~int(parts @ [1, 2, 4])], np.int64
        )
        self._moments: dict[float, list[Moments]] = {}

    @classmethod
    def of(
        cls, vectors: FloatArray, data: Dataset, encoder: AttributeEncoder, seed: int = 0
    ) -> "_Regression":
        """Regress on the content of a data set."""
        popularity = np.asarray(data.seen.sum(axis=0), dtype=np.float64)
        return cls(vectors, data.content(encoder), popularity, seed)

    def maps(self, settings: ContentSettings) -> ContentMaps:
        """Solve over all items."""
        return self._solve(sum_of(self._by_fold(settings.popularity)), settings)

    def unseen(self, settings: ContentSettings) -> Iterator[tuple[IntArray, FloatArray]]:
        """Yield the items of each fold and their vectors (n, D) by the regression over all the others."""
        moments = self._by_fold(settings.popularity)
        whole = sum_of(moments)
        for fold, own in zip(self.folds, moments, strict=True):
            yield fold, self._solve(whole - own, settings).vectors(self._content.take(fold))

    def _solve(self, moments: Moments, settings: ContentSettings) -> ContentMaps:
        return moments.solve(settings, self._content.widths, self._patterns)

    def _by_fold(self, exponent: float) -> list[Moments]:
        if exponent not in self._moments:
            weights = np.power(np.maximum(self._popularity, 1.0), exponent)
            self._moments = {exponent: [
                Moments.of(self._content, self._vectors, weights, fold, self._patterns) for fold in self.folds
            ]}  # fmt: skip
        return self._moments[exponent]


class _Judge:
    """Ranks all items for users of a held-out split while a fold of them is encoded from content."""

    def __init__(self, tower: Tower, data: Dataset, split: str, seed: int) -> None:
        self._items = tower.id_vectors
        most = max(_FEWEST, _MOST_SCORES // len(self._items))
        self._scorer = HeldOutScorer(data, split, seed, most)
        views = tower.views(data, self._scorer.users)
        self._vectors = tower.vectors(views).astype(np.float32)
        self._scores = self._vectors @ self._items.T  # (B, N)

    def score(self, regression: _Regression, settings: ContentSettings) -> float:
        """Return the mean NDCG@20 over users and folds."""

        def ndcg_of(unseen: tuple[IntArray, FloatArray]) -> float:
            fold, vectors = unseen
            scores = self._scores.copy()
            scores[:, fold] = self._vectors @ vectors.T
            ranked = top_k(scores, self._scorer.seen, _K)
            return float(mean_over_users(ndcg(ranked, self._scorer.relevant, _K)))

        return float(np.mean([ndcg_of(one) for one in regression.unseen(settings)]))
