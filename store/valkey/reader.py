"""The state of users as a replica reads it from a cluster."""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar

from store.state import (
    TABLES,
    DamagedRecordError,
    Friendships,
    IndexPart,
    LogEntry,
    LogHead,
    StoredVectors,
    UserRecord,
    UserRecords,
    Vocabulary,
)
from store.valkey.connection import Cluster, ClusterAddress, StateUnreachableError, in_parts
from store.valkey.keys import (
    CODES,
    FIELD_OF,
    FORMAT,
    LIVE_BUCKETS,
    STAMP,
    Keys,
    bucket_of,
    live_bucket_of,
    unpack_live,
    unpack_rows,
    unpack_stamp,
    vectors_field,
)

_POLL_SECONDS = 0.5  # between looks at the head
_BLOCK_MS = 200
_AFTER_FAILURE_SECONDS = 0.2
_KEPT_ENTRIES = 4_096  # in memory
_CHUNKS_AT_ONCE = 50
_MOST_HINTS, _MOST_FRIENDS = 50_000, 200
_DIGEST_BYTES = 32
_OF_FRIENDS = ("events", "consents")
log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class OtherCodesError(RuntimeError):
    """The owner has made its state anew, with other codes than this process knows."""

    def __init__(self, address: str) -> None:
        super().__init__(f"the state in {address} was made anew: this process must be replaced")
        self.address = address


@dataclass(frozen=True)
class _Position:
    """How far this process has come.

    Attributes:
        generation: whose keys are read.
        head: of the log.
        serves: the index that serves.
        stream_id: of the last entry that was read.
    """

    generation: str
    head: LogHead
    serves: str
    stream_id: bytes


class SharedReading:
    """The state as this process has come to know it: records as of the head of the log, or newer."""

    def __init__(self, state: "SharedState", position: _Position) -> None:
        self._state = state
        self._generation = position.generation
        self.head = position.head
        self.serves = position.serves

    def users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users, as their own results use them; an unknown user has an empty one.

        Raises:
            StateUnreachableError: the cluster does not answer, or has lost something.
        """
        return self._records(user_ids, UserRecords.users)

    def shared_users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users, without the views that others must not see.  Raises: as `users`."""
        return self._records(user_ids, UserRecords.shared_users)

    def record_of_friends(self, weights: Mapping[str, float]) -> UserRecord:
        """Read the record of a user who has nothing but friends, given with weights.  Raises: as `users`."""
        rows = self._state._fetch(self._generation, (), tuple(weights))
        return UserRecords(rows.of, any_consents=True).record_of_friends(weights)

    def entries(self, after: int) -> list[LogEntry] | None:
        """Return the log entries behind a number; None where some of them are not kept any more."""
        return self._state._entries_behind(after, self.head.sequence)

    def live(
        self, index_id: str, part: IndexPart, names: Sequence[str] | None = None
    ) -> dict[str, tuple[int, bytes]]:
        """Read what became of all or some items, or users, of an index.  Raises: as `users`."""
        return self._state._live(self._generation, index_id, part, names)

    def _records(
        self, user_ids: Sequence[str], read: Callable[[UserRecords, Sequence[str]], list[UserRecord]]
    ) -> list[UserRecord]:
        rows = self._state._fetch(self._generation, tuple(dict.fromkeys(user_ids)), ())
        records = read(UserRecords(rows.of, any_consents=True), user_ids)
        return [
            replace(record, vectors=rows.vectors(one)) if record.texts else record
            for one, record in zip(user_ids, records, strict=True)
        ]


class SharedState:
    """The state of a home in a cluster, for reading; threads may share it.

    A thread follows the log while the `with` block runs. What the cluster has lost, it does not answer for:
    it says so, until the owner has filled it again.

    Attributes:
        items: the vocabulary of item ids.
        words: the vocabulary of actions and relations.
        text_model_id: whose vectors of texts come with records.
    """

    def __init__(self, address: ClusterAddress, replaced: Callable[[], None]) -> None:
        """Prepare to read; `start` connects.

        Args:
            address: of the cluster.
            replaced: called, on the thread that follows, once this process cannot go on.

        Raises:
            ValkeyNotInstalledError: the client library is missing.
        """
        self._cluster, self._address = Cluster(address), address
        self._keys = Keys(address.name)
        self._replaced = replaced
        self._nodes: frozenset[str] = frozenset()
        self._cluster.trust(lambda: self._nodes)
        self._position: _Position | None = None
        self._identity = self._beat = b""
        self._heard = self._connected = time.monotonic()
        self._cut_off = True
        self._entries: deque[tuple[int, LogEntry]] = deque(maxlen=_KEPT_ENTRIES)
        self._follow: Callable[[SharedReading], None] = lambda _: None
        self._moved = threading.Condition()
        self._learning = threading.Lock()
        self._hints: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shared state", daemon=True)
        self.items, self.words = Vocabulary([]), Vocabulary([])
        self.text_model_id = ""

    def start(self) -> None:
        """Connect, and learn all codes.

        Raises:
            StateUnreachableError: the cluster does not answer, or no owner has filled it yet.
        """
        position = self._load()
        self._position, self._cut_off = position, False

    def follow_with(self, follow: Callable[[SharedReading], None]) -> None:
        """Call a function with each reading before queries get it, on the thread that follows."""
        self._follow = follow

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._cluster.close()

    @property
    def commit(self) -> int:
        """The number of the last log entry that readings know of."""
        return 0 if self._position is None else self._position.head.sequence

    @property
    def age(self) -> float:
        """Seconds since the owner was last heard of, through the cluster."""
        return max(0.0, time.monotonic() - self._heard)

    @property
    def reached(self) -> bool:
        """Whether the cluster answered last."""
        return not self._cut_off

    def wait_for(self, commit: int, seconds: float) -> bool:
        """Wait until readings know of a log entry; return whether they do in that time.

        Where the cluster does not answer, nobody waits.
        """
        with self._moved:
            self._moved.wait_for(lambda: self.commit >= commit or self._cut_off, seconds)
        return self.commit >= commit

    def read(self, read: Callable[[SharedReading], _Result]) -> _Result:
        """Call a function with the state as this process knows it.

        Raises:
            StateUnreachableError: it was never read, or the function asks for what cannot be read now.
        """
        if self._position is None:
            raise StateUnreachableError(str(self._address), "it was not read yet")
        return read(SharedReading(self, self._position))

    def users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users.  Raises: StateUnreachableError."""
        return self.read(lambda reading: reading.users(user_ids))

    def shared_users(self, user_ids: Sequence[str]) -> list[UserRecord]:
        """Read the records of some users as others see them.  Raises: StateUnreachableError."""
        return self.read(lambda reading: reading.shared_users(user_ids))

    def record_of_friends(self, weights: Mapping[str, float]) -> UserRecord:
        """Read the record of a user who has nothing but friends.  Raises: StateUnreachableError."""
        return self.read(lambda reading: reading.record_of_friends(weights))

    def _run(self) -> None:
        polled = 0.0
        while not self._over.is_set():
            try:
                if time.monotonic() - polled >= _POLL_SECONDS or self._cut_off:
                    self._poll()
                    polled = time.monotonic()
                self._read_log()
            except StateUnreachableError as error:
                if not self._cut_off:
                    log.warning("%s; answering from what is known", error)
                self._set_cut_off(True)
                self._over.wait(_AFTER_FAILURE_SECONDS)
            except Exception:  # whatever it is, this process cannot follow, and another one has to
                log.exception("this process cannot follow the state in %s", self._address)
                self._replaced()
                return
            else:
                if self._cut_off:
                    log.info("state in %s: reached again, at commit %d", self._address, self.commit)
                self._set_cut_off(False)

    def _set_cut_off(self, cut_off: bool) -> None:
        with self._moved:
            self._cut_off = cut_off
            self._moved.notify_all()

    def _poll(self) -> None:
        """Look at the head: whether the owner lives, and the generation is still the same."""
        if self._cut_off or self._position is None:  # other nodes may hold it by now
            loaded = self._load()
            if self._position is None or loaded.generation != self._position.generation:
                self._advance(loaded, ())
            return
        with self._cluster.errors():
            head = self._cluster.client.hgetall(self._keys.head)
        if head.get(b"generation") != self._position.generation.encode():
            self._advance(self._load(), ())
        elif frozenset(head[b"nodes"].decode().split()) != self._nodes:
            raise StateUnreachableError(str(self._address), "other nodes hold it now")
        elif head.get(b"beat", b"") != self._beat:
            self._beat, self._heard = head.get(b"beat", b""), time.monotonic()

    def _load(self) -> _Position:
        """Take the generation that counts; learn its codes.

        Raises:
            StateUnreachableError: there is none.
            OtherCodesError: codes mean something else than this process knows.
        """
        first = Cluster(self._address)  # which trusts any node: the head names those to be trusted
        try:
            with first.errors():
                head = first.client.hgetall(self._keys.head)
        finally:
            first.close()
        if head.get(b"format") != FORMAT:
            raise StateUnreachableError(str(self._address), "no owner has filled it yet")
        if self._identity not in (b"", head[b"state"]):
            raise OtherCodesError(str(self._address))
        self._nodes = frozenset(head[b"nodes"].decode().split())
        self._cluster.close()
        with self._cluster.errors():
            again = self._cluster.client.hgetall(self._keys.head)  # from a node that is trusted
            if again.get(b"generation") != head[b"generation"]:
                raise StateUnreachableError(str(self._address), "it is being filled")
            head, generation = again, again[b"generation"].decode()
            last = self._cluster.client.xrevrange(self._keys.log, count=1)
            self._learn(generation, int(head[b"items"]), int(head[b"words"]))
        self._identity, self._beat, self._heard = head[b"state"], head.get(b"beat", b""), time.monotonic()
        stream_id = last[0][0] if last else b"0-0"
        sequence = max(int(head[b"base"]), int(stream_id.partition(b"-")[0]))
        return _Position(generation, LogHead(sequence, sequence + 1), head[b"serves"].decode(), stream_id)

    def _read_log(self) -> None:
        position = self._position
        if position is None:
            return
        with self._cluster.errors():
            found = self._cluster.client.xread(
                {self._keys.log: position.stream_id}, count=_KEPT_ENTRIES, block=_BLOCK_MS
            )
        if not found:
            return
        told = found[0][1] if isinstance(found, list) else next(iter(found.values()))[0]
        entries: list[tuple[int, LogEntry]] = []
        for stream_id, fields in told:
            sequence, previous = int(stream_id.partition(b"-")[0]), int(fields[b"p"])
            if fields[b"g"].decode() != position.generation:
                self._poll()
                return
            last = entries[-1][1].sequence if entries else position.head.sequence
            position = replace(position, stream_id=stream_id)
            if sequence <= last:
                continue
            if previous > last:  # some are not kept any more
                entries.clear()
                self._entries.clear()
            entry = LogEntry.unpack(sequence, fields[b"e"])
            entries.append((previous, entry))
            position = replace(
                position,
                head=replace(position.head, sequence=sequence, oldest=sequence + 1),
                serves=entry.serves or position.serves,
            )
        self._heard = time.monotonic()
        self._advance(position, entries)

    def _advance(self, position: _Position, entries: Iterable[tuple[int, LogEntry]]) -> None:
        """Pass a position on to those who keep something, then give it to queries."""
        if self._position is not None and position.generation != self._position.generation:
            self._entries.clear()
            log.info("state in %s: reading generation %s", self._address, position.generation)
        self._entries.extend(entries)
        self._follow(SharedReading(self, position))
        with self._moved:
            self._position = position
            self._moved.notify_all()

    def _entries_behind(self, after: int, last: int) -> list[LogEntry] | None:
        kept = list(self._entries)
        wanted = [(previous, entry) for previous, entry in kept if after < entry.sequence <= last]
        if after >= last:
            return []
        if not wanted or wanted[0][0] > after:
            return None
        return [entry for _, entry in wanted]

    def _fetch(self, generation: str, own: Sequence[str], friends: Sequence[str]) -> "_Rows":
        """Read the rows of some users with those of their friends, and of some users as friends.

        Of those who were read before it is known whom they had as friends: then one round trip is enough.
        """
        self._check_reached()
        rows = _Rows(self.text_model_id)
        hinted = dict.fromkeys(friend for one in own for friend in self._hints.get(one, ()))
        try:
            with self._cluster.errors():
                self._fetch_some(rows, generation, own, dict.fromkeys([*hinted, *friends]))
                actual = {one: Friendships.unpack(rows.of("friends", one)).friends for one in own}
                rest = dict.fromkeys(friend for some in actual.values() for friend in some)
                self._fetch_some(rows, generation, (), rest)
                self._check_markers(generation, rows.absent)
                self._learn(generation, rows.items, rows.words)
        except DamagedRecordError as error:
            raise StateUnreachableError(str(self._address), str(error)) from error
        for one, some in actual.items():
            self._remember(one, some)
        return rows

    def _fetch_some(self, rows: "_Rows", generation: str, own: Sequence[str], friends: Iterable[str]) -> None:
        others = [one for one in friends if one not in own and not rows.has(one)]
        if not own and not others:
            return
        pipeline = self._cluster.pipeline()
        whole = [STAMP, *(FIELD_OF[table] for table in TABLES), vectors_field(self.text_model_id)]
        part = [STAMP, *(FIELD_OF[table] for table in _OF_FRIENDS)]
        for one in own:
            pipeline.hmget(self._keys.user(generation, one), whole)
        for one in others:
            pipeline.hmget(self._keys.user(generation, one), part)
        found = pipeline.execute()
        for one, values in zip(own, found, strict=False):
            rows.take(one, TABLES, values[:-1], values[-1])
        for one, values in zip(others, found[len(own) :], strict=True):
            rows.take(one, _OF_FRIENDS, values, None)

    def _check_reached(self) -> None:
        """Refuse at once what would only wait for a cluster that does not answer."""
        if self._cut_off and self._thread.is_alive():
            raise StateUnreachableError(str(self._address), "it does not answer; trying again meanwhile")

    def _check_markers(self, generation: str, absent: Sequence[str]) -> None:
        """Check that users without a record are unknown, and not lost."""
        self._check_buckets(generation, {bucket_of(one) for one in absent})

    def _check_buckets(self, generation: str, buckets: set[int]) -> None:
        if not buckets:
            return
        pipeline = self._cluster.pipeline()
        for bucket in sorted(buckets):
            pipeline.get(self._keys.marker(generation, bucket))
        if not all(pipeline.execute()):
            raise StateUnreachableError(str(self._address), "a node was emptied, and is filled again")

    def _live(
        self, generation: str, index_id: str, part: IndexPart, names: Sequence[str] | None
    ) -> dict[str, tuple[int, bytes]]:
        live: dict[str, tuple[int, bytes]] = {}
        with self._cluster.errors():
            pipeline, buckets = self._cluster.pipeline(), dict[int, list[str]]()
            if names is None:
                for bucket in range(LIVE_BUCKETS):
                    pipeline.hgetall(self._keys.live(generation, index_id, part, bucket))
                for some in pipeline.execute():
                    live |= {name.decode(): unpack_live(raw) for name, raw in some.items()}
                self._check_buckets(generation, set(range(LIVE_BUCKETS)))
                return live
            for name in names:
                buckets.setdefault(live_bucket_of(name), []).append(name)
            for bucket, some in buckets.items():
                pipeline.hmget(self._keys.live(generation, index_id, part, bucket), some)
            for some, values in zip(buckets.values(), pipeline.execute() if buckets else (), strict=True):
                live |= {
                    name: unpack_live(raw) for name, raw in zip(some, values, strict=True) if raw is not None
                }
            self._check_buckets(generation, set(buckets))
        return live

    def _learn(self, generation: str, items: int, words: int) -> None:
        """Learn the codes that rows may hold."""
        for vocabulary, codes, count in (("items", self.items, items), ("words", self.words, words)):
            if len(codes.names) >= count:
                continue
            with self._learning:
                first, last = len(codes.names) // CODES, (count - 1) // CODES
                for chunks in in_parts([str(one) for one in range(first, last + 1)], _CHUNKS_AT_ONCE):
                    pipeline = self._cluster.pipeline()
                    for chunk in chunks:
                        pipeline.hgetall(self._keys.codes(generation, vocabulary, int(chunk)))
                    names = {int(code): raw for some in pipeline.execute() for code, raw in some.items()}
                    _learn_in_order(codes, names)
            if len(codes.names) < count:
                raise StateUnreachableError(str(self._address), f"some {vocabulary} have lost their codes")

    def _remember(self, user_id: str, friends: tuple[str, ...]) -> None:
        """Remember whom a user has as friends: a hint, which the next reading compares."""
        if len(friends) > _MOST_FRIENDS or (not friends and user_id not in self._hints):
            return
        with self._learning:
            self._hints.pop(user_id, None)
            if friends:
                self._hints[user_id] = friends
            while len(self._hints) > _MOST_HINTS:
                self._hints.popitem(last=False)


def _learn_in_order(codes: Vocabulary, names: Mapping[int, bytes]) -> None:
    new: list[str] = []
    while (raw := names.get(len(codes.names) + len(new))) is not None:
        new.append(raw.decode())
    codes.learn(new)


class _Rows:
    """Rows that were read, of users and of friends.

    Attributes:
        absent: users who have no record.
        items, words: codes that the rows may hold.
    """

    def __init__(self, text_model_id: str) -> None:
        self._text_model_id = text_model_id
        self._rows: dict[tuple[str, str], bytes] = {}
        self._vectors: dict[str, bytes] = {}
        self._known: set[str] = set()
        self.absent: list[str] = []
        self.items = self.words = 0

    def has(self, user_id: str) -> bool:
        return user_id in self._known

    def take(self, user_id: str, tables: Sequence[str], values: Sequence[Any], vectors: bytes | None) -> None:
        """Take the values of a user: the stamp, then the rows of each table.  Raises: DamagedRecordError."""
        self._known.add(user_id)
        if values[0] is None:
            self.absent.append(user_id)
            return
        _, items, words = unpack_stamp(values[0])
        self.items, self.words = max(self.items, items), max(self.words, words)
        for table, raw in zip(tables, values[1:], strict=True):
            self._rows[table, user_id] = unpack_rows(table, user_id, raw)
        if vectors:
            self._vectors[user_id] = vectors

    def of(self, table: str, user_id: str) -> bytes:
        """Return the rows of a table and user, b"" for none."""
        return self._rows.get((table, user_id), b"")

    def vectors(self, user_id: str) -> StoredVectors:
        """Return the vectors of a user's texts, which all have one length."""
        raw = self._vectors.get(user_id, b"")
        return StoredVectors(self._text_model_id, _split(raw))


def _split(raw: bytes) -> dict[bytes, bytes]:
    """Return vectors by digest, of the bytes in which both lie one after another."""
    if not raw:
        return {}
    count = int.from_bytes(raw[:4], "little")
    width = (len(raw) - 4) // count
    parts = (raw[4 + width * i : 4 + width * (i + 1)] for i in range(count))
    return {part[:_DIGEST_BYTES]: part[_DIGEST_BYTES:] for part in parts}
