"""What a head knows of the people it is asked about: their vectors, and the items of their histories.

Training asks of nobody what their vector was made from: the examples are dealt to folds, and the vector and
the history of a person are made anew for each fold without the pairs in it. Whatever served a head at an
example is then as it will be for an item that the person has not met.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from encoder.arrays import Events, IntArray
from encoder.dataset import Dataset, hold_out
from encoder.heads.examples import Examples, newest_of_pairs, pair_codes
from encoder.views import FloatArray
from store.tables import MAX_WEIGHT

VectorsOf = Callable[[Dataset, IntArray], FloatArray]
"""Makes the user vectors (n, D) float32 of some rows (n,) of a data set."""


@dataclass(frozen=True)
class Subjects:
    """S people, or one person several times with different parts of the history.

    Shapes:
        vectors: (S, D) float32, V_u; zero for a person without any view.
        owners: (h,) int64, ascending, whose history an item is in.
        rows: (h,) int64, the item's row in the model. A person's items are different ones.
        ratings: (h,) float32, the weight of the newest event.
    """

    vectors: FloatArray
    owners: IntArray
    rows: IntArray
    ratings: FloatArray

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, chosen: IntArray) -> "Subjects":
        """Return the subjects at some positions (n,)."""
        at, owners = _rows_of(self.owners, chosen)
        return Subjects(self.vectors[chosen], owners, self.rows[at], self.ratings[at])

    @classmethod
    def of_events(cls, vectors: FloatArray, events: Events, n_items: int) -> "Subjects":
        """Take the histories from events; of several on one item the newest counts, unknown items do not.

        Args:
            vectors: (S, D).
            events: of the subjects, whose positions are the users; an item row of −1 is unknown.
            n_items: N of the model.
        """
        known = events.where(events.items >= 0)
        newest = newest_of_pairs(known, n_items)
        ratings = np.minimum(known.weights[newest], MAX_WEIGHT).astype(np.float32)
        return cls(vectors, known.users[newest], known.items[newest], ratings)

    @classmethod
    def concatenated(cls, parts: Sequence["Subjects"]) -> "Subjects":
        """Return the subjects of all parts, in order."""
        starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
        return cls(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.owners + start for part, start in zip(parts, starts, strict=True)]),
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.ratings for part in parts]),
        )


@dataclass(frozen=True)
class Asked:
    """Examples, and the subjects that they are asked of.

    Shapes:
        examples: n of them; `users` are the users of the data set.
        subject: (n,) int64, ascending, the position of each example's subject in `subjects`.
        folds: (S,) int64, the fold that a subject is made without, −1 for none.
    """

    examples: Examples
    subjects: Subjects
    subject: IntArray
    folds: IntArray

    def __len__(self) -> int:
        return len(self.examples)

    def parts(self, order: IntArray, size: int) -> list[IntArray]:
        """Cut an order of the subjects (S,) into parts of about `size` examples; others have no example."""
        counts = np.bincount(self.subject, minlength=len(self.subjects))[order]
        order, counts = order[counts > 0], counts[counts > 0]
        part = (np.cumsum(counts) - counts) // size
        return np.split(order, np.flatnonzero(np.diff(part)) + 1)

    def examples_of(self, subjects: IntArray) -> tuple[IntArray, IntArray]:
        """Return the positions (b,) of the examples of some subjects, and each one's place among these."""
        return _rows_of(self.subject, subjects)

    def where(self, keep: npt.NDArray[np.bool_]) -> "Asked":
        """Return the examples for which `keep` (n,) is true, with all subjects."""
        return replace(self, examples=self.examples.where(keep), subject=self.subject[keep])


def target_history(data: Dataset, actions: tuple[str, ...]) -> Events:
    """Return the rows of the history that heads look at: those of the actions, all where none is named."""
    return data.history.where(data.history.actions.among(actions)) if actions else data.history


def target_actions(data: Dataset) -> tuple[str, ...]:
    """Return the actions that occur among the held-out rows, sorted; none where nothing is held out."""
    return tuple(sorted(frozenset[str]().union(*(rows.actions.used for rows in data.held_out.values()))))


def asked(examples: Examples, data: Dataset, vectors_of: VectorsOf, actions: tuple[str, ...]) -> Asked:
    """Ask examples of the users as they are: their subjects are made of the whole history."""
    users, subject = np.unique(examples.users, return_inverse=True)
    order = np.argsort(subject, kind="stable")
    subjects = subjects_of(data, users, vectors_of, actions)
    return Asked(examples.where(order), subjects, subject[order], np.full(len(users), -1))


def asked_by_fold(
    examples: Examples,
    folds: IntArray,
    data: Dataset,
    vectors_of: VectorsOf,
    actions: tuple[str, ...],
) -> Asked:
    """Ask examples of the users as they would be without the pairs in the example's fold.

    Args:
        examples: n of them.
        folds: (n,) the fold of each.
        data: whose history, texts and ties the vectors are made from.
        vectors_of: makes them.
        actions: of the histories.
    """
    n_items = data.shape[1]
    own = pair_codes(examples.users, examples.items, n_items)
    history = pair_codes(data.history.users, data.history.items, n_items)
    parts, numbers, subject = [], [], []
    rows, start = [], 0
    for fold in np.unique(folds):
        at = np.flatnonzero(folds == fold)
        without = hold_out(data, np.isin(history, own[at]), f"fold {fold}")
        users, position = np.unique(examples.users[at], return_inverse=True)
        parts.append(subjects_of(without, users, vectors_of, actions))
        numbers.append(np.full(len(users), fold))
        order = np.argsort(position, kind="stable")
        rows.append(at[order])
        subject.append(position[order] + start)
        start += len(users)
    chosen = np.concatenate(rows)
    return Asked(
        examples.where(chosen), Subjects.concatenated(parts), np.concatenate(subject), np.concatenate(numbers)
    )


def subjects_of(data: Dataset, users: IntArray, vectors_of: VectorsOf, actions: tuple[str, ...]) -> Subjects:
    """Make the subjects of some users (n,), ascending, of a data set."""
    history = target_history(data, actions)
    position = np.full(data.shape[0], -1)
    position[users] = np.arange(len(users))
    some = history.where(position[history.users] >= 0)
    events = replace(some, users=position[some.users])
    return Subjects.of_events(vectors_of(data, users), events, data.shape[1])


def _rows_of(owners: IntArray, chosen: IntArray) -> tuple[IntArray, IntArray]:
    """Return the positions (b,) of chosen owners in ascending `owners`, and each one's place in `chosen`."""
    starts = np.searchsorted(owners, chosen, side="left")
    counts = np.searchsorted(owners, chosen, side="right") - starts
    place = np.repeat(np.arange(len(chosen)), counts)
    return np.arange(len(place)) - (np.cumsum(counts) - counts)[place] + starts[place], place
