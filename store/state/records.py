"""Records of users, made of packed rows wherever these are kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.state.packing import ALL_ALLOWED, EVENT, TEXT, Consents, EventRows, Friendships


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """Vectors of a user's texts, that came with the record.

    Attributes:
        text_model_id: whose they are.
        by_digest: the bytes of each, float32, by the digest of its text; some may be missing.
    """

    text_model_id: str
    by_digest: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class UserRecord:
    """The visible rows of a user and of the user's friends, as far as all of them allow.

    Shapes:
        events: (n,) EVENT, those of the user, then those of each friend; each part by time, undated first.
        owners: (n,) int64, whose event it is: 0 the user's, i the i-th friend's.
        texts: sha256 digests of the user's texts, by time.
        friends: F user ids, sorted.
        weights: (F,) float64, in the order of `friends`.

    Attributes:
        withheld: further friends, who do not share their history; the record changes when they do.
        vectors: of the texts; None where the text cache has them.
    """

    events: EventRows
    owners: npt.NDArray[np.int64]
    texts: tuple[bytes, ...]
    friends: tuple[str, ...]
    weights: npt.NDArray[np.float64]
    withheld: tuple[str, ...] = ()
    vectors: StoredVectors | None = None

    @property
    def history(self) -> EventRows:
        """The user's own events."""
        return self.events[: int(np.searchsorted(self.owners, 1))]


EMPTY_RECORD = UserRecord(np.zeros(0, EVENT), np.zeros(0, np.int64), (), (), np.zeros(0))


class UserRecords:
    """Makes records of users of packed rows, as the consents of all who show in them allow."""

    def __init__(self, rows: Callable[[str, str], bytes], *, any_consents: bool) -> None:
        """Take what reads the rows of a table and user.

        Args:
            rows: reads them, b"" for none.
            any_consents: whether anybody may keep a view back.
        """
        self._rows = rows
        self._any_consents = any_consents

    def users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users, as their own results use them; an unknown user has an empty one."""
        return self._records(user_ids, lambda consents: consents.used)

    def shared_users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users, without the views that others must not see."""
        return self._records(user_ids, lambda consents: consents.seen_by_others)

    def record_of_friends(self, weights: Mapping[str, float]) -> UserRecord:
        """Read the record of a user who has nothing but friends, given with weights."""
        return self._with_friends(b"", b"", dict(sorted(weights.items())))

    def _records(
        self, user_ids: Sequence[str], allowed: Callable[[Consents], frozenset[str]]
    ) -> list[UserRecord]:
        if not self._any_consents:
            return [self._record(one, ALL_ALLOWED.used) for one in user_ids]
        return [self._record(one, allowed(self._consents(one))) for one in user_ids]

    def _consents(self, user_id: str) -> Consents:
        return Consents.unpack(self._rows("consents", user_id))

    def _record(self, user_id: str, views: frozenset[str]) -> UserRecord:
        """Read the record of a user; of the user's own views those that are named."""
        events, texts, friends = (
            self._rows(name, user_id) if view in views else b""
            for view, name in (("H", "events"), ("T", "texts"), ("S", "friends"))
        )
        return self._with_friends(events, texts, Friendships.unpack(friends).by_friend())

    def _with_friends(self, own: bytes, texts: bytes, friends: Mapping[str, float]) -> UserRecord:
        """Build a record of a user's packed events and texts, with the events of friends (weight by id)."""
        withheld: tuple[str, ...] = ()
        if self._any_consents:
            withheld = tuple(one for one in friends if "H" not in self._consents(one).seen_by_others)
            hidden = set(withheld)
            friends = {friend: weight for friend, weight in friends.items() if friend not in hidden}
        parts = [own, *(self._rows("events", friend) for friend in friends)]
        events = np.frombuffer(b"".join(parts), EVENT)
        owners = np.repeat(np.arange(len(parts)), [len(part) // EVENT.itemsize for part in parts])
        if events["hidden"].any():
            visible = ~events["hidden"]
            events, owners = events[visible], owners[visible]
        weights = np.fromiter(friends.values(), np.float64, len(friends))
        return UserRecord(events, owners, visible_digests(texts), tuple(friends), weights, withheld)


def visible_digests(texts: bytes) -> tuple[bytes, ...]:
    """Return the digests of the texts of packed rows that are not held out."""
    rows = np.frombuffer(texts, TEXT)
    return tuple(row.tobytes() for row in rows["digest"][~rows["hidden"]])
