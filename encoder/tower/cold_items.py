"""Vectors of items that nobody has touched: fitted on the content of the others, chosen on held-out rows.

Source:
    Koren, Gantner et al. 2010, "Learning attribute-to-feature mappings for cold-start recommendations", ICDM:
    factors of items regressed on their attributes.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import IntArray
from encoder.content import (
    AttributeEncoder,
    AttributeEncoding,
    ContentEncoder,
    ContentMaps,
    ContentSettings,
    ContentTower,
    ItemContent,
    WordEncoder,
    patterns_of,
)
from encoder.content.maps import MOST_ITEMS, PATTERNS, Moments, most_patterns, sum_of
from encoder.dataset import Dataset
from encoder.progress import LongStage
from encoder.tower.select import HeldOutScorer
from encoder.tower.tower import Tower
from encoder.views import FloatArray
from evaluation.metrics import mean_over_users, ndcg
from evaluation.ranking import top_k

RIDGES = (0.1, 0.3, 1.0, 3.0)
POPULARITIES = (0.0, 0.25, 0.5, 1.0)
COST = 0.02  # of NDCG@20 over all targets, for new items to be found
FOLDS = 5
_MOST_SCORES = 4_000_000  # users × items that are ranked for one setting
_USERS = 200, 1_000  # at least and at most
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
    encoder = fit_encoder(data, tower.id_vectors, settings.encoding)
    regression = _Regression.of(tower.id_vectors, data, encoder)
    return replace(tower, content=ContentTower(encoder, regression.maps(settings)))


def fit_encoder(data: Dataset, id_vectors: FloatArray, encoding: AttributeEncoding) -> ContentEncoder:
    """Learn words and attributes of the items that have an id vector; nothing to hash is one-hot."""
    known = data.item_content.take(np.flatnonzero(id_vectors.any(axis=1)))
    attributes = AttributeEncoder.fit(known.described, "one-hot")
    if encoding == "hashed" and attributes.dim:
        attributes = AttributeEncoder.fit(known.described, encoding)
    return ContentEncoder(WordEncoder.fit(known.texts), attributes, data.item_content.vectors.shape[1])


def choose_content(tower: Tower, data: Dataset, split: str | None, seed: int) -> ContentSettings:
    """Choose how item vectors are made from content, by NDCG@20 on a held-out split.

    A fifth of the items at a time is encoded from its content by a regression over the others, and ranked
    among them with their id vectors. By all targets, the surest choice is never to show a new item. So of the
    settings that cost at most COST of the best NDCG@20 over all targets, the one is taken that finds new
    targets best.

    Args:
        tower: fitted and, above all, trusted as it will serve.
        data: that it was fitted on.
        split: None where nothing can be chosen: then settings are those of `ContentSettings`.
        seed: of the folds.
    """
    default = ContentSettings()
    encoders = [fit_encoder(data, tower.id_vectors, "one-hot")]
    if encoders[0].attributes.dim:
        encoders.append(fit_encoder(data, tower.id_vectors, "hashed"))
    known = encoders[0].encode(data.item_content).present.any(axis=1) & tower.id_vectors.any(axis=1)
    if split is None or known.sum() < FOLDS:
        return default
    judge = _Judge(tower, data, split, seed)
    tried: dict[ContentSettings, _Reached] = {}
    with LongStage("new items", len(encoders) * len(RIDGES) * len(POPULARITIES), "setting") as stage:
        for encoder in encoders:
            regression = _Regression.of(tower.id_vectors, data, encoder)
            for popularity, ridge in product(POPULARITIES, RIDGES):
                settings = ContentSettings(encoder.attributes.encoding, ridge, popularity)
                tried[settings] = judge.score(regression, settings)
                stage.advance(note=f"NDCG@20 {max(tried.values()).whole:.4f}")
    least = (1 - COST) * max(tried.values()).whole
    best = max((one for one in tried if tried[one].whole >= least), key=lambda one: tried[one].new)
    log.info(
        "new items: attributes %s, ridge %g, weights n^%g, NDCG@20 %.4f of new targets, %.4f of all",
        best.encoding, best.ridge, best.popularity, tried[best].new, tried[best].whole,
    )  # fmt: skip
    return best


class _Reached(NamedTuple):
    """NDCG@20 over all targets, and over the new ones alone."""

    whole: float
    new: float


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
        present = patterns_of(content.present[rows])
        self._whole = np.unique(present)  # of the items themselves
        there = int(np.bitwise_or.reduce(present, initial=0))
        self._any = np.array([p for p in range(1, PATTERNS) if not p & ~there], np.int64)
        self._moments: dict[float, list[Moments]] = {}

    @classmethod
    def of(cls, vectors: FloatArray, data: Dataset, encoder: ContentEncoder, seed: int = 0) -> "_Regression":
        """Regress on the content of a data set."""
        popularity = np.asarray(data.seen.sum(axis=0), dtype=np.float64)
        return cls(vectors, encoder.encode(data.item_content), popularity, seed)

    def maps(self, settings: ContentSettings) -> ContentMaps:
        """Solve over all items, for every combination of the parts that any of them has."""
        if not len(self._any):
            widths, dim = self._content.widths, self._vectors.shape[1]
            return ContentMaps(np.zeros((most_patterns(widths), 1 + sum(widths), dim), np.float32), widths)
        rows = np.sort(np.concatenate(self.folds))
        return self._sum(rows, settings.popularity, self._any).solve(settings)

    def unseen(self, settings: ContentSettings) -> Iterator[tuple[IntArray, FloatArray]]:
        """Yield the items of each fold and their vectors (n, D) by the regression over all the others."""
        moments = self._by_fold(settings.popularity)
        whole = sum_of(moments)
        for fold, own in zip(self.folds, moments, strict=True):
            yield fold, (whole - own).solve(settings).vectors(self._content.take(fold))

    def _by_fold(self, exponent: float) -> list[Moments]:
        if exponent not in self._moments:
            self._moments = {exponent: [self._sum(fold, exponent, self._whole) for fold in self.folds]}
        return self._moments[exponent]

    def _sum(self, rows: IntArray, exponent: float, patterns: IntArray) -> Moments:
        weights = np.power(np.maximum(self._popularity, 1.0), exponent)
        return Moments.of(self._content, self._vectors, weights, rows, patterns)


class _Judge:
    """Ranks all items for users of a held-out split while a fold of them is encoded from content."""

    def __init__(self, tower: Tower, data: Dataset, split: str, seed: int) -> None:
        self._items = tower.id_vectors
        most = int(np.clip(_MOST_SCORES // len(self._items), *_USERS))
        self._scorer = HeldOutScorer(data, split, seed, most)
        views = tower.views(data, self._scorer.users)
        self._vectors = tower.vectors(views).astype(np.float32)
        self._scores = self._vectors @ self._items.T  # (B, N)

    def score(self, regression: _Regression, settings: ContentSettings) -> _Reached:
        """Return the means over users and folds."""
        relevant, reached = self._scorer.relevant, list[tuple[float, float]]()
        for fold, vectors in regression.unseen(settings):
            scores = self._scores.copy()
            scores[:, fold] = self._vectors @ vectors.T
            ranked = top_k(scores, self._scorer.seen, _K)
            new = np.zeros(relevant.shape[1], dtype=np.float32)
            new[fold] = 1.0
            of_new = sparse.csr_array(relevant @ sparse.diags_array(new))
            of_new.eliminate_zeros()
            whole, some = (mean_over_users(ndcg(ranked, targets, _K)) for targets in (relevant, of_new))
            reached.append((whole, some))
        return _Reached(*np.nanmean(reached, axis=0).tolist())
