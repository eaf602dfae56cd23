"""BPR: matrix factorisation that learns to order pairs of items."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from evaluation.baselines.selection import Valid, best_setting, binary
from evaluation.ranking import Csr

Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]

EPOCHS = 60
MAX_TRIPLES = 6_000_000  # of one model: where the data is larger there are fewer epochs
FOLD_IN_PASSES = 30
_BATCH = 2_048

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BprSettings:
    """Size of the vectors, learning rate and regularisation."""

    dim: int
    rate: float
    reg: float


BPR_SETTINGS = tuple(BprSettings(64, rate, reg) for rate, reg in product((0.05, 0.15), (0.002, 0.01, 0.03)))


@dataclass(frozen=True)
class Bpr:
    """Scores <w_u, v_i> + b_i; a user's w is learned from the history at hand, so unseen users score too.

    Maximises Σ ln σ(x_ui − x_uj) less the regularisation, over what a user has (i) and has not (j).

    Source:
        Rendle et al. 2009, "BPR: Bayesian personalized ranking from implicit feedback", UAI, figure 4.
        Here in batches, and with users folded in afterwards by the same steps, the items held still.
    """

    items: Floats32  # (N, dim)
    biases: Floats32  # (N,)
    settings: BprSettings

    @classmethod
    def fit(cls, train: Csr, settings: BprSettings, seed: int = 0) -> "Bpr":
        """Fit a model to `train` (U, N), in which any nonzero counts as 1.

        Raises:
            ValueError: dim < 1, the rate is not positive or reg is negative.
        """
        if settings.dim < 1 or not settings.rate > 0 or not settings.reg >= 0:
            raise ValueError(f"{settings}: dim is at least 1, the rate positive, reg at least 0")
        generator = np.random.default_rng(seed)
        x = binary(train)
        owners, had = _entries(x)
        codes = owners * x.shape[1] + had  # ascending
        users, items = (generator.normal(0, 0.1, (rows, settings.dim)).astype(np.float32) for rows in x.shape)
        biases = np.zeros((x.shape[1], 1), dtype=np.float32)
        rate, keep = np.float32(settings.rate), np.float32(settings.rate * settings.reg)
        for _ in range(min(EPOCHS, max(1, MAX_TRIPLES // max(1, len(had))))):
            order = generator.permutation(len(had))
            others = generator.integers(x.shape[1], size=len(had))
            for start in range(0, len(had), _BATCH):
                chosen = order[start : start + _BATCH]
                u, i, j = owners[chosen], had[chosen], others[chosen]
                fresh = ~_contains(codes, u * x.shape[1] + j)
                u, i, j = u[fresh], i[fresh], j[fresh]
                apart = items[i] - items[j]  # (b, dim)
                margin = (users[u] * apart).sum(axis=1) + (biases[i] - biases[j])[:, 0]
                pull = _sigmoid(-margin)[:, None]  # (b, 1)
                toward = pull * users[u]
                _add(users, u, rate * pull * apart - keep * users[u])
                both = np.concatenate([i, j])
                _add(items, both, rate * np.concatenate([toward, -toward]) - keep * items[both])
                _add(biases, both, rate * np.concatenate([pull, -pull]) - keep * biases[both])
        return cls(items, biases[:, 0], settings)

    def scores(self, history: Csr) -> Floats32:
        """Return (B, N) float32 scores from the users' items (B, N); no history gives the biases."""
        return self._fold_in(binary(history)) @ self.items.T + self.biases

    def _fold_in(self, x: "sparse.csr_array[np.float32]") -> Floats32:
        """Return the vectors (B, dim) of users, by passes over their items.

        The item that each one is held against is drawn once a pass for all users: nobody's vector depends on
        who else is in the batch.
        """
        owners, had = _entries(x)
        users = np.zeros((x.shape[0], self.settings.dim), dtype=np.float32)
        if not len(had):
            return users
        codes = owners * x.shape[1] + had
        ones = np.ones(len(had), dtype=np.float32)
        of_user = sparse.csr_array((ones, (owners, np.arange(len(had)))), shape=(x.shape[0], len(had)))
        mean = np.float32(1) / np.maximum(np.diff(x.indptr), 1).astype(np.float32)[:, None]  # (B, 1)
        generator = np.random.default_rng(0)
        for _ in range(FOLD_IN_PASSES):
            other = generator.permutation(x.shape[1])[had]
            apart = self.items[had] - self.items[other]  # (n, dim)
            margin = (users[owners] * apart).sum(axis=1) + self.biases[had] - self.biases[other]
            pull = _sigmoid(-margin) * ~_contains(codes, owners * x.shape[1] + other)
            users += mean * (of_user @ (pull[:, None] * apart)) - np.float32(self.settings.reg) * users
        return users


def choose_bpr(
    train: Csr,
    valid_relevant: Csr,
    excluded: Csr,
    settings: Sequence[BprSettings] = BPR_SETTINGS,
    k: int = 20,
) -> tuple[BprSettings, Bpr]:
    """Return the settings with the best mean recall@k on valid, and their model; of equal ones the first.

    The arguments are those of `choose_ease`.

    Raises:
        NoTargetsError: valid_relevant is empty.
        ValueError: no settings, or ones out of range.
    """
    valid = Valid.of(train, valid_relevant, excluded)
    log.info("choosing BPR: %d x %d, %d settings", *train.shape, len(settings))
    bar = tqdm(settings, desc="BPR", disable=None)
    return best_setting("BPR", bar, lambda setting: Bpr.fit(train, setting), valid, k)


def _entries(x: "sparse.csr_array[np.float32]") -> tuple[Ints, Ints]:
    """Return user and item of each entry, by user, then item."""
    x.sort_indices()
    owners = np.repeat(np.arange(x.shape[0], dtype=np.int64), np.diff(x.indptr))
    return owners, x.indices.astype(np.int64)


def _contains(codes: Ints, wanted: Ints) -> NDArray[np.bool_]:
    """Return which of `wanted` occur among the ascending `codes` (n,), n at least 1."""
    at = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.asarray(codes[at] == wanted)


def _sigmoid(values: Floats32) -> Floats32:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))), dtype=np.float32)


def _add(table: Floats32, rows: Ints, steps: Floats32) -> None:
    """Add each step (b, dim) to its row of `table`; a row named twice takes both."""
    named, position = np.unique(rows, return_inverse=True)
    spread = sparse.csr_array(
        (np.ones(len(rows), dtype=np.float32), (position, np.arange(len(rows)))),
        shape=(len(named), len(rows)),
    )
    table[named] += spread @ steps
