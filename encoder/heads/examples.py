"""Labelled (user, item) pairs of one split, on which task heads are trained and measured."""

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.arrays import Events, IntArray
from encoder.dataset import Dataset
from encoder.heads.options import HeadOptions

log = logging.getLogger(__name__)

TRAIN = "train"
POPULARITY_POWER = (
    0.75  # Mikolov et al. 2013, "Distributed representations of words and phrases", section 2.2
)
UNKNOWN = -1
_ROUNDS = 50

Floats = npt.NDArray[np.float64]


class NoExamplesError(ValueError):
    """A split has no examples to train or measure a task head on."""

    def __init__(self, task: str, split: str, reason: str) -> None:
        super().__init__(f"no examples for {task} in split {split!r}: {reason}")
        self.task = task
        self.split = split


@dataclass(frozen=True)
class Examples:
    """Labelled pairs as parallel arrays.

    Shapes:
        users, items: (n,) int64 rows.
        labels: (n,) float64: click 1 yes, 0 no; rating the weight of the event; category the class row.
        weights: (n,) float64: 1; for category the share of the event that the class has.
        units: (n,) int64; examples of one unit stay together when some are held out. An impression's is the
            list that was shown, a drawn pair's the observed pair that it was drawn for, else the pair itself.
        positions: (n,) int64 of an impression in its list, from 0; UNKNOWN where nothing was shown.
    """

    users: IntArray
    items: IntArray
    labels: Floats
    weights: Floats
    units: IntArray
    positions: IntArray

    @classmethod
    def of_pairs(
        cls, users: IntArray, items: IntArray, labels: Floats, n_items: int, weights: Floats | None = None
    ) -> "Examples":
        """Make examples of pairs that were not shown in a list, each pair a unit of its own."""
        given = np.ones(len(users)) if weights is None else weights
        unknown = np.full(len(users), UNKNOWN)
        return cls(users, items, labels, given, pair_codes(users, items, n_items), unknown)

    def __len__(self) -> int:
        return len(self.users)

    def where(self, keep: npt.NDArray[np.bool_] | IntArray) -> "Examples":
        """Return the examples for which `keep` (n,) is true, or at the positions that it names."""
        numbers = self.labels[keep], self.weights[keep]
        return Examples(self.users[keep], self.items[keep], *numbers, self.units[keep], self.positions[keep])


def target_events(data: Dataset, split: str, task: str) -> Events:
    """Select the behaviours of a split that a head is trained on (train) or measured on.

    Of train: the rows whose action occurs among the held-out ones, all where nothing is held out. Of valid
    and test: the rows that are not masked, whose pair does not occur in train (for test: nor in valid).

    Raises:
        NoExamplesError: the split has no such row.
    """
    held_out = data.held_out
    if split == TRAIN:
        rows = data.history
        if held_out:
            targets = frozenset[str]().union(*(other.actions.used for other in held_out.values()))
            rows = rows.where(rows.actions.among(targets))
    elif split in held_out:
        rows = held_out[split]
        rows = rows.where(~np.isin(pair_codes(rows.users, rows.items, data.shape[1]), masked(data, split)))
    else:
        raise NoExamplesError(task, split, "the data has no such rows")
    if not len(rows.users):
        raise NoExamplesError(task, split, "every row is masked, or of an action that is no target")
    return rows


def masked(data: Dataset, split: str) -> IntArray:
    """Return the codes of pairs that are no targets of valid or test: of train, for test of valid, too."""
    rows = [data.history, *([data.held_out["valid"]] if split == "test" and "valid" in data.held_out else [])]
    return np.concatenate([pair_codes(one.users, one.items, data.shape[1]) for one in rows])


def drawn_examples(data: Dataset, split: str, options: HeadOptions) -> Examples:
    """Make examples of each observed pair, label 1, and of drawn pairs that occur in no split, label 0.

    The latter belong to the same users, `options.negatives` for each observed pair, drawn with replacement by
    (number of train users of the item)^0.75. A user who has all popular items may get fewer.

    Raises:
        NoExamplesError: no pair is observed, or no user has an unseen item.
    """
    rows = target_events(data, split, "click")
    n_items = data.shape[1]
    positive = np.unique(pair_codes(rows.users, rows.items, n_items))
    everything = [data.history, *data.held_out.values()]
    observed = np.unique(np.concatenate([pair_codes(r.users, r.items, n_items) for r in everything]))
    generator = np.random.default_rng([options.seed, (TRAIN, "valid", "test").index(split)])
    owners = np.repeat(positive // n_items, options.negatives)
    popularity = np.asarray(data.seen.sum(axis=0), dtype=np.float64)
    cumulated = np.cumsum(popularity**POPULARITY_POWER)
    drawn = np.full(len(owners), -1, dtype=np.int64)
    missing = np.arange(len(owners))
    for _ in range(_ROUNDS):
        at = generator.random(len(missing)) * cumulated[-1]
        drawn[missing] = np.searchsorted(cumulated, at, side="right")
        missing = missing[np.isin(owners[missing] * n_items + drawn[missing], observed)]
    drawn[missing] = -1
    negative = (owners * n_items + drawn)[drawn >= 0]
    if not len(negative):
        raise NoExamplesError("click", split, "nobody has an unseen item that could be drawn")
    if len(missing):
        log.info("click, %s: %d of %d unobserved pairs could not be drawn", split, len(missing), len(owners))
    codes = np.concatenate([positive, negative])
    labels = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    units = np.concatenate([positive, np.repeat(positive, options.negatives)[drawn >= 0]])
    pairs = Examples.of_pairs(codes // n_items, codes % n_items, labels, n_items)
    return replace(pairs, units=units)


def rating_examples(data: Dataset, split: str) -> Examples:
    """Make one example of each observed pair; its label is the weight of the pair's newest event.

    Raises:
        NoExamplesError: no pair is observed.
    """
    rows = target_events(data, split, "rating")
    chosen = newest_of_pairs(rows, data.shape[1])
    return Examples.of_pairs(rows.users[chosen], rows.items[chosen], rows.weights[chosen], data.shape[1])


def category_examples(
    data: Dataset, split: str, shares: "sparse.csr_array[np.float64]"
) -> tuple[Examples, int]:
    """Make one example for each event and class of its item, and count the events without a class.

    Args:
        data: the data set.
        split: train, valid or test.
        shares: (N, C) share of each class in an item, rows summing to 1, or to 0 without a class.

    Raises:
        NoExamplesError: no event is on an item with a class.
    """
    rows = target_events(data, split, "category")
    spread = sparse.coo_array(shares[rows.items])  # (n, C)
    event, classes = spread.coords
    if not len(event):
        raise NoExamplesError("category", split, "no event is on an item that has the label")
    unlabelled = len(rows.users) - len(np.unique(event))
    labels = classes.astype(np.float64)
    found = Examples.of_pairs(rows.users[event], rows.items[event], labels, data.shape[1], spread.data)
    return found, unlabelled


def newest_of_pairs(rows: Events, n_items: int) -> IntArray:
    """Return the positions of the newest event of each pair, by user, then item."""
    codes = pair_codes(rows.users, rows.items, n_items)
    order = np.lexsort((rows.ts, codes))  # NO_TIME sorts first
    return order[np.append(codes[order][1:] != codes[order][:-1], True)] if len(order) else order


def folds_of(examples: Examples, folds: int, seed: int) -> IntArray:
    """Deal the units of examples to folds at random, equally many to each: the fold of each example (n,)."""
    units, position = np.unique(examples.units, return_inverse=True)
    dealt = np.random.default_rng([seed, 3]).permutation(len(units)) % folds
    return np.asarray(dealt[position])


def check_labels(task: str, train: Examples) -> None:
    """Check that the labels of a click or a rating differ.  Raises: NoExamplesError."""
    if not len(train):
        raise NoExamplesError(task, TRAIN, "there is none")
    if task != "category" and (train.labels == train.labels[0]).all():
        hint = "; a rating is the weight of a behaviour" if task == "rating" else ""
        reason = f"every label is {train.labels[0]:g}: nothing to tell apart{hint}"
        raise NoExamplesError(task, TRAIN, reason)


def pair_codes(users: IntArray, items: IntArray, n_items: int) -> IntArray:
    """Return user · N + item of each pair, (n,) int64."""
    return users * n_items + items
