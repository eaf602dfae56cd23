"""Which behaviour rows to hold out: the arithmetic of `triptych split`, by event group.

An event group is the rows that share (item, time): they come from one source, such as a document with
several authors, and a held-out row whose twin stays visible would be an answer to copy. A row without a
time is a group of its own. Four laws hold in every mode:

1. A group is never split: its rows all carry the strongest label given to one of them (test > valid > train).
2. A user with fewer than three rows is given train only; a group may still pull a row of theirs.
3. A user keeps at least one train row. Where everything would be held out, the group of the user's first row
   by (time, item) goes back to train as a whole, whoever else is in it: others only gain train rows by that.
4. Labels depend on the seed and the rows, not on the order of the rows.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Mode = Literal["random", "time", "last"]
Ints = NDArray[np.int64]
Labels = NDArray[np.int8]

TRAIN, VALID, TEST = 0, 1, 2
NO_TIME = np.iinfo(np.int64).min  # what NaT is as an integer
MIN_ROWS = 3


class NoTimeError(ValueError):
    """A split by time cannot be made, because rows carry no time."""

    def __init__(self, by: str, missing: int, rows: int) -> None:
        super().__init__(
            f"a split by {by!r} needs times, but {missing} of {rows} rows have none: `--by random` needs none"
        )
        self.missing = missing


class SplitError(ValueError):
    """The rows or the settings of a split make no sense."""


def mark(
    by: Mode,
    user: Ints,
    item: Ints,
    ts: NDArray[np.generic],
    *,
    valid: float = 0.1,
    test: float = 0.1,
    seed: int,
) -> Labels:
    """Return a label for each row, (n,) int8: 0 train, 1 valid, 2 test.

    `random` draws each event group once. `time` holds out the last `test` share of each user's rows, rounded
    to the nearest number, and the `valid` share before it. `last` holds out each user's last event and the
    one before, whatever the shares. The laws above come on top, so shares are not exact.

    Args:
        by: the mode.
        user: (n,) int, any numbering.
        item: (n,) int, any numbering.
        ts: (n,) int64 with NO_TIME where there is none, or datetime64 with NaT.
        valid: share of valid.
        test: share of test.
        seed: of the draw in `random`; the other modes draw nothing.

    Raises:
        NoTimeError: `time` or `last`, and a row has no time.
        SplitError: unknown mode, arrays of different length, or shares that leave no train.
    """
    if by not in get_args(Mode):
        raise SplitError(f"unknown split {by!r}; there are {', '.join(get_args(Mode))}")
    if not len(user) == len(item) == len(ts):
        raise SplitError(f"{len(user)} users, {len(item)} items and {len(ts)} times are not one table")
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise SplitError(
            f"valid {valid} and test {test} must not be negative and must leave a share for train"
        )
    time = np.asarray(ts).astype(np.int64)
    missing = int((time == NO_TIME).sum())
    if by != "random" and missing:
        raise NoTimeError(by, missing, len(time))
    if not len(user):
        return np.zeros(0, dtype=np.int8)
    user = np.unique(user, return_inverse=True)[1]
    group = _groups(user, item, time)
    order = np.lexsort((item, time, user))  # users together, each in the order of time
    if by == "random":
        label = _draw(group, valid, test, np.random.default_rng(seed))
    elif by == "time":
        label = _last_rows(user, order, valid, test)
    else:
        label = _last_events(user, group, order)
    label[np.bincount(user)[user] < MIN_ROWS] = TRAIN
    return _release(_strongest(label, group), user, group, order)


def _groups(user: Ints, item: Ints, time: Ints) -> Ints:
    """Return the event group of each row, (n,), numbered in the order of (item, time, user)."""
    order = np.lexsort((user, time, item))
    same = (np.diff(item[order]) == 0) & (np.diff(time[order]) == 0) & (time[order][1:] != NO_TIME)
    group = np.empty(len(item), dtype=np.int64)
    group[order] = np.concatenate([[0], np.cumsum(~same)])
    return group


def _draw(group: Ints, valid: float, test: float, generator: np.random.Generator) -> Labels:
    drawn = generator.random(group.max() + 1)
    label = np.select([drawn < test, drawn < test + valid], [TEST, VALID], TRAIN)
    return label.astype(np.int8)[group]


def _last_rows(user: Ints, order: Ints, valid: float, test: float) -> Labels:
    count = np.bincount(user)
    n_test = np.minimum(np.floor(count * test + 0.5), count - 1)
    n_valid = np.minimum(np.floor(count * valid + 0.5), count - 1 - n_test)
    return _from_the_end(user, order, n_test, n_valid)


def _last_events(user: Ints, group: Ints, order: Ints) -> Labels:
    """Label each user's last event test and the one before valid; rows of one user and group are one."""
    u, g = user[order], group[order]
    new = np.concatenate([[True], (np.diff(u) != 0) | (np.diff(g) != 0)])
    event_user = u[new]
    ones = np.ones(event_user.max() + 1)
    by_event = _from_the_end(event_user, np.arange(len(event_user)), ones, ones)
    label = np.empty(len(user), dtype=np.int8)
    label[order] = by_event[np.cumsum(new) - 1]
    return label


def _from_the_end(user: Ints, order: Ints, n_test: NDArray[np.number], n_valid: NDArray[np.number]) -> Labels:
    """Label each user's last n_test rows test, the n_valid before them valid; `order` sorts by user, time."""
    u = user[order]
    behind = np.cumsum(np.bincount(user))[u] - 1 - np.arange(len(u))  # rows of the user after this one
    label = np.empty(len(user), dtype=np.int8)
    label[order] = np.select([behind < n_test[u], behind < (n_test + n_valid)[u]], [TEST, VALID], TRAIN)
    return label


def _strongest(label: Labels, group: Ints) -> Labels:
    """Return the labels with each group at the strongest label in it."""
    strongest = np.zeros(group.max() + 1, dtype=np.int8)
    np.maximum.at(strongest, group, label)
    return strongest[group]


def _release(label: Labels, user: Ints, group: Ints, order: Ints) -> Labels:
    """Return the labels with one group back in train for each user who has none there."""
    has_train = np.bincount(user, weights=label == TRAIN) > 0
    first = order[np.unique(user[order], return_index=True)[1]]  # (users,): each one's first row in time
    released = np.isin(group, group[first[~has_train]])
    return np.where(released, np.int8(TRAIN), label)
