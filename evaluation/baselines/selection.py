"""Choice of the settings of a baseline: the best mean recall on held-out rows of valid."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from evaluation.metrics import mean_over_users, recall
from evaluation.ranking import Csr, top_k

MAX_USERS = 3_000  # more users would not change a choice, only make it slow
_SCORES_AT_ONCE = 20_000_000

Ints = NDArray[np.int64]

log = logging.getLogger(__name__)


class NoTargetsError(ValueError):
    """No user has a held-out row to choose by."""


class Scorer(Protocol):
    """The interface of every baseline: scores of all items from histories."""

    def scores(self, history: Csr, users: Ints, /) -> NDArray[np.float32]:
        """Return (B, N) float32 scores of some users.

        Args:
            history: (B, N) their items; any nonzero counts once.
            users: (B,) their rows in what was fitted, for models that hold a vector for each user.
        """


Setting = TypeVar("Setting")
Model = TypeVar("Model", bound=Scorer)


@dataclass(frozen=True)
class Valid:
    """The users that a setting is chosen by.

    Shapes:
        users: (V,) int64 rows of them; at most MAX_USERS, drawn with a fixed seed where there are more.
        history, excluded, relevant: (V, N), the items of train, those that are not ranked, and the targets.
    """

    users: NDArray[np.int64]
    history: Csr
    excluded: Csr
    relevant: Csr

    @classmethod
    def of(cls, train: Csr, relevant: Csr, excluded: Csr) -> "Valid":
        """Choose the users with a target among all users' rows (U, N).

        Raises:
            NoTargetsError: `relevant` is empty.
        """
        users = np.flatnonzero(relevant.count_nonzero(axis=1)).astype(np.int64)
        if not len(users):
            raise NoTargetsError("no user has a held-out item to choose settings by")
        if len(users) > MAX_USERS:
            users = np.sort(np.random.default_rng(0).choice(users, MAX_USERS, replace=False))
        return cls(users, train[users], excluded[users], relevant[users])

    def blocks(self) -> list[slice]:
        """Return the positions of the users in blocks whose dense scores fit in memory."""
        size = max(1, _SCORES_AT_ONCE // self.history.shape[1])
        return [slice(start, start + size) for start in range(0, len(self.users), size)]

    def recall(self, model: Scorer, k: int) -> float:
        """Return a model's mean recall@k over the users."""
        ranked = [
            top_k(model.scores(self.history[block], self.users[block]), self.excluded[block], k)
            for block in self.blocks()
        ]
        return mean_over_users(recall(np.concatenate(ranked), self.relevant, k))


def best_setting(
    name: str, settings: Iterable[Setting], fit: Callable[[Setting], Model], valid: Valid, k: int
) -> tuple[Setting, Model]:
    """Fit every setting; return the one with the best mean recall@k, and its model; of equal ones the first.

    Raises:
        ValueError: `settings` is empty.
    """
    found: tuple[float, Setting, Model] | None = None
    for setting in settings:
        model = fit(setting)
        reached = valid.recall(model, k)
        if found is None or reached > found[0]:  # two models at a time, never all
            found = (reached, setting, model)
    if found is None:
        raise ValueError(f"no setting of {name} to choose from")
    log.info(
        "chose %s of %s: recall@%d %.4f on %d valid users", found[1], name, k, found[0], len(valid.users)
    )
    return found[1], found[2]


def binary(matrix: Csr) -> "sparse.csr_array[np.float32]":
    """Return a float32 copy in which every nonzero is 1."""
    users, items = matrix.nonzero()
    ones = np.ones(len(users), dtype=np.float32)
    once = sparse.csr_array((ones, (users, items)), shape=matrix.shape)
    once.data[:] = 1  # a pair that was stored twice adds up to 2
    return once
