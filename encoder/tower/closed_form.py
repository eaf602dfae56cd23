"""The tower in closed form: a spectral table, views aligned by regression or MAXVAR; one block."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy import sparse

from encoder.arrays import IntArray
from encoder.config import TowerConfig, Weighting
from encoder.dataset import Dataset
from encoder.tower.alignment import Alignment, Covariances, maxvar_alignment, ridge_alignment, solve
from encoder.tower.fusion import fixed_gates, fused_parts
from encoder.tower.spectral import Spectrum, spectrum
from encoder.tower.tower import Block, Tower, view_batches
from encoder.views import FloatArray, Matrix, ViewBatch

_KEPT = 6  # spectra, of items × rank floats each: as many as a search makes without repeating one


class Decompositions:
    """Weighted histories of a data set and their spectra; the last few are kept.

    Settings that differ in dim, damping, λ, gates or half-life share a spectrum.

    Args:
        data: held-out rows of it are not looked at.
        base: for the weights of actions.
        rank: of a spectrum, unless another is asked for; cut to the rank of the data.
        users: rows of the users whose histories are decomposed; None is all.
    """

    def __init__(self, data: Dataset, base: TowerConfig, rank: int, users: IntArray | None = None) -> None:
        self._data = data
        self._base = replace(base, half_life=0.0)
        self._rank = rank
        self._users = users
        self._events = lru_cache(maxsize=2)(self._weigh)
        self._spectrum = lru_cache(maxsize=_KEPT)(self._decompose)

    def of(self, config: TowerConfig, rank: int | None = None) -> tuple[Matrix, Spectrum]:
        """Return `data.events` of all users without a half-life, and the spectrum."""
        exponents = config.user_exponent, config.item_exponent
        svd = self._spectrum(config.weighting, *exponents, self._rank if rank is None else rank)
        return self._events(config.weighting), svd

    def _weigh(self, weighting: Weighting) -> Matrix:
        return self._data.events(replace(self._base, weighting=weighting))

    def _decompose(
        self, weighting: Weighting, user_exponent: float, item_exponent: float, rank: int
    ) -> Spectrum:
        events = self._events(weighting)
        some = events if self._users is None else events[self._users]
        return spectrum(some, rank, user_exponent, item_exponent)


def fit_closed_form(
    data: Dataset,
    config: TowerConfig,
    events: Matrix | None = None,
    svd: Spectrum | None = None,
    users: IntArray | None = None,
) -> Tower:
    """Fit the closed-form tower, of one block, to the visible data.

    Args:
        data: held-out rows of it are not looked at.
        config: the hyper-parameters; `dim` is cut to the rank of the data.
        events: `data.events` without a half-life, where the caller has it already; the table is fitted on it.
        svd: the spectrum of `events` where the caller has it already, of rank `dim` or more.
        users: rows of the users over whom views are aligned; None is all.
    """
    events = data.events(replace(config, half_life=0.0)) if events is None else events
    svd = spectrum(events, config.dim, config.user_exponent, config.item_exponent) if svd is None else svd
    dim = min(config.dim, len(svd.singular))
    table = svd.table(dim, config.damping)
    covariances = Covariances((dim, data.text.shape[1], dim), config.fusion)
    if config.fusion == "maxvar" or data.text.any() or data.ties.nnz:  # else there is nothing to align
        recent = data.events(config) if config.half_life else events
        for batch in view_batches(data, recent, table, users=users):
            covariances.add(batch)
    if config.fusion == "maxvar":
        alignment = maxvar_alignment(covariances, config.ridge, dim)
        some = events if users is None else events[users]
        id_vectors = _items_by_ridge(view_batches(data, recent, table, users=users), alignment, config, some)
    else:
        alignment = ridge_alignment(covariances, config.ridge, centred=config.centred)
        id_vectors = svd.items(dim)
    return Tower(config, (Block(table, fixed_gates(alignment, config.gates), id_vectors),))


def _items_by_ridge(
    batches: Iterator[ViewBatch], alignment: Alignment, config: TowerConfig, events: Matrix
) -> FloatArray:
    """Regress the degree-normalised behaviour matrix on V by ridge: item vectors (N, D), times D^½.

    Source: DESIGN section 1, "items enter the space by ridge regression of the behaviour matrix on V".
    """
    degree = np.asarray(events.sum(axis=1), dtype=np.float64)
    scale = np.power(degree, -config.user_exponent, out=np.zeros_like(degree), where=degree > 0)
    scaled = sparse.csr_array(sparse.diags_array(scale) @ events)
    dim = alignment.matrices[0].shape[1]
    gram, cross = config.ridge * np.eye(dim), np.zeros((dim, events.shape[1]))
    start = 0
    for batch in batches:
        vectors = fused_parts(batch, alignment, config.gates).sum(axis=1)  # (B, D)
        gram += vectors.T @ vectors
        cross += (scaled[start : start + len(batch)].T @ vectors).T
        start += len(batch)
    return np.ascontiguousarray(solve(gram, cross).T, dtype=np.float32)
