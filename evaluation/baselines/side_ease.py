"""EASE that also sees text and friends: the hybrid that three views have to beat."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from evaluation.baselines.ease import Ease, gram_of
from evaluation.baselines.selection import Ints, Valid, best_setting, binary
from evaluation.metrics import mean_over_users, recall
from evaluation.ranking import Csr, top_k

Floats32 = NDArray[np.float32]

LAMS = (50.0, 200.0, 800.0, 3200.0)
ITEM_TEXTS = (0.0, 30.0, 300.0)
FRIENDS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
USER_TEXTS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)

log = logging.getLogger(__name__)


class SideShapeError(ValueError):
    """Side information does not have a row for each user or item."""


@dataclass(frozen=True)
class SideSettings:
    """λ and the weights of item texts in the fit, of friends and of the user's own texts in the score."""

    lam: float
    item_text: float
    friends: float = 0.0
    user_text: float = 0.0


@dataclass(frozen=True)
class Side:
    """What is known beside behaviour.

    Shapes:
        item_text: (N, D_T) float32, zero rows where an item has no text.
        user_text: (U, D_T) float32, zero rows where a user wrote nothing.
        ties: (U, U), row = user, column = friend, nonnegative.
    """

    item_text: Floats32
    user_text: Floats32
    ties: Csr

    def __post_init__(self) -> None:
        """Check that the parts fit each other.

        Raises:
            SideShapeError: they differ in the width of a text vector, or in the number of users.
        """
        if self.item_text.shape[1] != self.user_text.shape[1]:
            raise SideShapeError(
                f"texts are {self.item_text.shape} of items, {self.user_text.shape} of users"
            )
        if self.ties.shape != (len(self.user_text),) * 2:
            raise SideShapeError(f"ties are {self.ties.shape}, but {len(self.user_text)} users have texts")

    def centred(self) -> Floats32:
        """Return the item texts less their mean, which says only that they are texts; zero rows stay."""
        written = self.item_text.any(axis=1, keepdims=True)  # (N, 1)
        mean = self.item_text.sum(axis=0) / max(1, int(written.sum()))
        return np.asarray((self.item_text - mean) * written, dtype=np.float32)

    def circle(self, train: Csr) -> "sparse.csr_array[np.float32]":
        """Return the mean history of each user's friends, weighted by tie, (U, N); zero without friends."""
        total = np.asarray(self.ties.sum(axis=1), dtype=np.float64).ravel()
        share = sparse.diags_array(np.divide(1.0, total, out=np.zeros_like(total), where=total > 0))
        return sparse.csr_array((share @ self.ties @ binary(train)).astype(np.float32))


@dataclass(frozen=True)
class SideEase:
    """Scores x B + v (f + f B) + c (t · item texts): behaviour, friends' mean history f, own text t.

    B is EASE fitted on the behaviour matrix with the dimensions of the item texts as further rows, times
    √item_text: items of like text are alike even where nobody has both. f counts itself, too, because the
    diagonal of B is zero.

    Source:
        Jeunen, Van Balen and Goethals 2020, "Closed-form models for collaborative filtering with
        side-information", RecSys, section 3 (the stacked matrix); the sum of scores is ours.
    """

    ease: Ease
    item_text: Floats32  # (N, D_T), centred
    settings: SideSettings

    @classmethod
    def fit(cls, train: Csr, settings: SideSettings, side: Side) -> "SideEase":
        """Fit a model to `train` (U, N), in which any nonzero counts as 1.

        Raises:
            TooManyItemsError: more items than EASE takes.
            SideShapeError: `side` has other users or items than `train`.
            ValueError: λ is not positive, or a weight is negative.
        """
        if (len(side.user_text), len(side.item_text)) != train.shape:
            found = (len(side.user_text), len(side.item_text))
            raise SideShapeError(f"side information of {found} users and items for a history {train.shape}")
        if not min(settings.item_text, settings.friends, settings.user_text) >= 0:
            raise ValueError(f"{settings} has a weight that is not at least 0")
        gram = gram_of(train)
        text = side.centred()
        if settings.item_text:
            gram += settings.item_text * (text @ text.T)
        return cls(Ease.solved(gram, settings.lam), text, settings)

    def scores(
        self,
        history: Csr,
        _users: Ints | None = None,
        *,
        circle: "Csr | None" = None,
        text: Floats32 | None = None,
    ) -> Floats32:
        """Return (B, N) float32 scores; nothing known gives a row of zeros.

        Args:
            history: (B, N) the users' items.
            circle: (B, N) the mean histories of their friends, see `Side.circle`; None = no friends.
            text: (B, D_T) their texts; None = no texts.
        """
        scores = self.ease.scores(history)
        if circle is not None and self.settings.friends:
            scores += np.float32(self.settings.friends) * self.of_circle(circle)
        if text is not None and self.settings.user_text:
            scores += np.float32(self.settings.user_text) * (text @ self.item_text.T)
        return scores

    def of_circle(self, circle: Csr) -> Floats32:
        """Return f + f B, (B, N)."""
        return np.asarray(circle @ self.ease.weights + circle.toarray(), dtype=np.float32)


def choose_side_ease(
    train: Csr, valid_relevant: Csr, excluded: Csr, side: Side, k: int = 20
) -> tuple[SideSettings, SideEase]:
    """Return the settings with the best mean recall@k on valid, and their model; of equal ones the first.

    First λ and the weight of item texts in the fit, then the weights in the score. The other arguments are
    those of `choose_ease`.

    Raises:
        TooManyItemsError: more items than EASE takes.
        NoTargetsError: valid_relevant is empty.
        SideShapeError: `side` has other users or items than `train`.
    """
    valid = Valid.of(train, valid_relevant, excluded)
    texts = ITEM_TEXTS if side.item_text.any() else (0.0,)
    settings = [SideSettings(lam, text) for text, lam in product(texts, LAMS)]
    log.info("choosing EASE with side information: %d items, %d settings", train.shape[1], len(settings))
    fitting = tqdm(settings, desc="EASE + T + S", disable=None)
    chosen, model = best_setting(
        "EASE + T + S", fitting, lambda each: SideEase.fit(train, each, side), valid, k
    )
    weights = list(
        product(FRIENDS if side.ties.nnz else (0.0,), USER_TEXTS if side.user_text.any() else (0.0,))
    )
    reached = _reached(model, valid, side.circle(train)[valid.users], side.user_text[valid.users], weights, k)
    friends, text = weights[int(np.argmax(reached))]
    log.info("chose %g of friends and %g of texts: recall@%d %.4f", friends, text, k, max(reached))
    chosen = replace(chosen, friends=friends, user_text=text)
    return chosen, replace(model, settings=chosen)


def _reached(
    model: SideEase, valid: Valid, circle: Csr, text: Floats32, weights: list[tuple[float, float]], k: int
) -> list[float]:
    """Return the mean recall@k of each pair of weights, of friends and of the users' texts."""

    def ranked(block: slice) -> Iterator[NDArray[np.int64]]:
        own, social = model.ease.scores(valid.history[block]), model.of_circle(circle[block])
        written = text[block] @ model.item_text.T
        for friends, words in weights:
            scores = own + np.float32(friends) * social + np.float32(words) * written
            yield top_k(scores, valid.excluded[block], k)

    blocks = [
        list(ranked(block)) for block in tqdm(valid.blocks(), desc="EASE + T + S, weights", disable=None)
    ]
    return [
        mean_over_users(recall(np.concatenate(parts), valid.relevant, k))
        for parts in zip(*blocks, strict=True)
    ]
