"""The writer of a home's state in a cluster: the owner's, one thread at a time.

Rows go first, then the entries of the log that tell of them. So whoever has read an entry finds rows that are
as new as it, or newer. Everything may be written twice.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from secrets import token_hex
from typing import Any

from store.state import TABLES, IndexPart, LogEntry, StateReading, UserState, Vocabulary, visible_digests
from store.valkey.backlog import Backlog, Pending
from store.valkey.connection import AnotherOwnerError, Cluster, StateUnreachableError, in_parts
from store.valkey.keys import (
    BUCKETS,
    CODES,
    FIELD_OF,
    FORMAT,
    LIVE_BUCKETS,
    STAMP,
    Keys,
    live_bucket_of,
    pack_live,
    pack_rows,
    pack_stamp,
    vectors_field,
)

TextVectors = Callable[[str, Sequence[bytes]], Mapping[bytes, bytes]]
"""Returns the bytes of vectors, float32, of those of some texts, by digest, that a text model has encoded."""

KEPT_ENTRIES = 4_096  # of the stream, about
_SWEEP_SECONDS = 5.0  # after a filling, when no reader has the earlier one any more
_AT_ONCE = 500  # users that are written together
_PARTS: tuple[IndexPart, IndexPart] = ("items", "users")
log = logging.getLogger(__name__)


class StateMirror:
    """Copies the state to a cluster, and keeps the copy in step with it.

    Attributes:
        generation: the filling of the cluster that counts, "" before the first one.
    """

    def __init__(
        self,
        state: UserState,
        cluster: Cluster,
        home_id: str,
        text_vectors: TextVectors,
        text_model_of: Callable[[str], str],
        woken: Callable[[], None] = lambda: None,
    ) -> None:
        """Listen to commits from here on.

        Args:
            state: which this process writes.
            cluster: where the copy is.
            home_id: of the home.
            text_vectors: looks up vectors of texts.
            text_model_of: returns the text model of an index by its id, "" for the index "".
            woken: called after each commit, on the thread that made it.
        """
        self._state = state
        self._cluster = cluster
        self._keys = Keys(cluster.address.name)
        self._home_id = home_id
        self._text_vectors = text_vectors
        self._text_model_of = text_model_of
        self._owner = token_hex(8)
        self._backlog = Backlog()
        self._codes = {"items": 0, "words": 0}  # that the cluster has
        self._text_model_id = ""
        self._previous_text_model_id = ""
        self._sequence = 0  # of the last entry in the stream
        self._incomplete: set[str] = set()  # users some of whose texts had no vector
        self._sweep: Iterator[None] = iter(())
        self._beats = 0
        self._to_fill = self._unsure = False
        self._refused: AnotherOwnerError | None = None
        self.generation = ""

        def take(committed: Any) -> None:
            self._backlog.add(committed)
            woken()

        state.on_commit(take)

    @property
    def has_work(self) -> bool:
        """Whether something is to be written."""
        return bool(self._backlog)

    @property
    def has_idle_work(self) -> bool:
        """Whether `rest` has something to do soon."""
        return bool(self._incomplete)

    def step(self) -> None:
        """Write what was committed, or fill the cluster where that is not enough.

        Raises:
            StateUnreachableError: the cluster cannot be written; what was committed is kept.
            AnotherOwnerError, EvictingClusterError: it must not be.
        """
        if self._refused is not None:
            raise self._refused
        with self._cluster.errors():
            if self._to_fill or (not self.generation and not self._resume()):
                self._fill()
                return
            pending = self._backlog.take()
            if pending.everybody:
                self._fill()
            elif pending:
                try:
                    self._write(pending)
                except BaseException:
                    self._backlog.put_back(pending)
                    raise

    def rest(self) -> None:
        """Look whether the cluster still has everything, say that this server lives, and tidy up.

        Raises:
            as `step`.
        """
        with self._cluster.errors():
            if not self.generation or self._refused is not None:
                return
            if reason := self._lost():
                log.warning("state in %s: %s; filling it again", self._cluster.address, reason)
                self._fill()
                return
            self._complete()
            self._beats += 1
            self._cluster.client.hset(self._keys.head, "beat", f"{self._owner}{self._beats}")
            for _ in islice(self._sweep, 10):
                pass

    def stop(self) -> None:
        """Say that nothing more is written: what is there stays, and the next owner goes on with it."""
        with self._cluster.errors():
            if self.generation and self._refused is None:
                self._cluster.client.hset(self._keys.head, "owner", "")

    def _resume(self) -> bool:
        """Go on with what an earlier owner wrote; return whether that is possible."""
        head = self._cluster.client.hgetall(self._keys.head)
        self._check_owner(head)
        if head.get(b"format") != FORMAT or head.get(b"state") != self._state.identity.encode():
            return False
        self.generation = head[b"generation"].decode()
        self._text_model_id = head[b"text_model"].decode()
        self._codes = {name: int(head[name.encode()]) for name in self._codes}
        last = self._cluster.client.xrevrange(self._keys.log, count=1)
        self._sequence = _sequence_of(last[0][0]) if last else int(head[b"base"])
        entries = self._state.read(lambda reading: reading.entries(self._sequence))
        if entries is None or any(entry.users is None for entry in entries):
            self.generation = ""
            return False
        self._cluster.client.hset(self._keys.head, "owner", self._owner)
        if reason := self._lost():
            log.warning("state in %s: %s; filling it again", self._cluster.address, reason)
            self.generation = ""
            return False
        members = self._cluster.client.smembers(self._keys.incomplete(self.generation))
        self._incomplete = {member.decode() for member in members}
        pending = Pending(entries, {one: True for entry in entries for one in entry.users or ()})
        later = self._backlog.take()
        later.entries = [entry for entry in later.entries if entry.sequence > self._last(entries)]
        pending.add(later)
        self._backlog.put_back(pending)
        self._sweep = self._sweeping()
        log.info("state in %s: going on behind commit %d", self._cluster.address, self._sequence)
        return True

    def _last(self, entries: Sequence[LogEntry]) -> int:
        return entries[-1].sequence if entries else self._sequence

    def _lost(self) -> str:
        """Return what speaks against the cluster having all that was written, "" for nothing.

        Raises:
            AnotherOwnerError: somebody else writes there.
        """
        head = self._cluster.client.hgetall(self._keys.head)
        if head.get(b"generation") != self.generation.encode():
            return "it was emptied"
        self._check_owner(head, self._owner)
        nodes = {node.run_id for node in self._cluster.primaries()}
        if nodes != set(head[b"nodes"].decode().split()):
            return "a node was started again, or another one took its place"
        client = self._cluster.client
        one_each: dict[str, str] = {}
        for bucket in range(BUCKETS):
            marker = self._keys.marker(self.generation, bucket)
            one_each.setdefault(client.get_node_from_key(marker).name, marker)
            if len(one_each) == len(nodes):
                break
        pipeline = self._cluster.pipeline()
        for marker in one_each.values():
            pipeline.get(marker)
        return "" if all(pipeline.execute()) else "a node was emptied"

    def _check_owner(self, head: Mapping[bytes, bytes], *expected: str) -> None:
        home = head.get(b"home", self._home_id.encode()).decode()
        if home != self._home_id or (expected and head.get(b"owner", b"").decode() not in expected):
            owner = "another server" if home == self._home_id else f"the owner of home {home}"
            self._refused = AnotherOwnerError(str(self._cluster.address), owner)
            raise self._refused

    def _fill(self) -> None:
        """Write everything under names of its own, then make that what counts.

        Raises:
            StateUnreachableError: also where a node loses something meanwhile.
        """
        self._to_fill = True
        start, generation = time.monotonic(), token_hex(4)
        identity, client = self._state.identity, self._cluster.client
        head = client.hgetall(self._keys.head)
        self._check_owner(head, *(("", self._owner) if self.generation else ()))
        nodes = {node.run_id for node in self._cluster.primaries()}
        log.info("state in %s: writing all users", self._cluster.address)
        self._set_markers(generation)
        self._backlog.take()  # read below: what is committed later comes again
        base, serves = self._state.read(lambda reading: (reading.head.sequence, reading.serves))
        self._codes, self._incomplete = {"items": 0, "words": 0}, set()
        self._text_model_id = self._text_model_of(serves)
        users, after = 0, ""
        while some := self._fill_some(generation, after):
            users, after = users + len(some), some[-1]
        self._write_codes(generation, *self._state.read(_stamp)[1:])
        if serves:
            self._write_live(generation, {(serves, part): None for part in _PARTS})
        self._check_markers(generation, nodes)
        if head.get(b"state", identity.encode()) != identity.encode():
            client.delete(self._keys.log)  # the numbers of another state may be greater
        fields = {
            "format": FORMAT,
            "generation": generation,
            "home": self._home_id,
            "state": identity,
            "base": base,
            "serves": serves,
            "text_model": self._text_model_id,
            "nodes": " ".join(sorted(nodes)),
            "owner": self._owner,
            **self._codes,
        }
        client.hset(self._keys.head, mapping=fields)
        self.generation, self._sequence, self._to_fill = generation, base, False
        self._unsure = False
        self._announce([LogEntry(base, None)], previous=0)
        self._sweep = self._sweeping()
        seconds = time.monotonic() - start
        log.info("state in %s: %d users written in %.1f s", self._cluster.address, users, seconds)

    def _fill_some(self, generation: str, after: str) -> list[str]:
        """Write the users behind one; return them, none at the end."""
        some = self._state.read(lambda reading: reading.user_ids(after, _AT_ONCE))
        rows, stamp = self._state.read(partial(_stamped, user_ids=some))
        self._write_codes(generation, *stamp[1:])
        self._write_rows(generation, rows, stamp, dict.fromkeys(some, True))
        return some

    def _write(self, pending: Pending) -> None:
        serves = next((one.serves for one in reversed(pending.entries) if one.serves), "")
        if serves and (text_model_id := self._text_model_of(serves)) != self._text_model_id:
            self._add_text_model(text_model_id)
        for some in in_parts(list(pending.users), _AT_ONCE):
            rows, stamp = self._state.read(partial(_stamped, user_ids=some))
            self._write_codes(self.generation, *stamp[1:])
            self._write_rows(self.generation, rows, stamp, {one: pending.users[one] for one in some})
        self._write_live(self.generation, _live_of(pending.entries, serves))
        if serves:
            told = {"serves": serves, "text_model": self._text_model_id}
            self._cluster.client.hset(self._keys.head, mapping=told)
        new = [entry for entry in pending.entries if entry.sequence > self._sequence]
        self._announce(new, self._sequence)

    def _write_codes(self, generation: str, items: int, words: int) -> None:
        """Write the names of new codes: before any row that holds one."""
        known: tuple[tuple[str, Vocabulary, int], ...] = (
            ("items", self._state.items, items),
            ("words", self._state.words, words),
        )
        for vocabulary, codes, count in known:
            start = self._codes[vocabulary]
            if start >= count:
                continue
            pipeline = self._cluster.pipeline()
            while start < count:
                end = min(count, (start // CODES + 1) * CODES)
                named = {str(code): codes.names[code] for code in range(start, end)}
                pipeline.hset(self._keys.codes(generation, vocabulary, start // CODES), mapping=named)
                start = end
            pipeline.execute()
            self._codes[vocabulary] = count
            if generation == self.generation:  # whoever starts to read learns so many
                self._cluster.client.hset(self._keys.head, vocabulary, count)

    def _write_rows(
        self,
        generation: str,
        rows: "Mapping[str, Mapping[str, bytes]]",
        stamp: tuple[int, int, int],
        texts: Mapping[str, bool],
    ) -> None:
        """Write users, and vectors of the texts of those whose texts changed."""
        if not rows:
            return
        digests = {one: visible_digests(rows[one]["texts"]) for one in rows if texts[one]}
        vectors = self._vectors_of(digests)
        pipeline, incomplete = self._cluster.pipeline(), self._keys.incomplete(generation)
        for user_id, own in rows.items():
            key = self._keys.user(generation, user_id)
            if not any(own.values()):
                pipeline.delete(key)
                self._incomplete.discard(user_id)
                continue
            fields: dict[bytes, bytes] = {STAMP: pack_stamp(*stamp)}
            fields |= {FIELD_OF[table]: pack_rows(table, user_id, own[table]) for table in TABLES}
            if user_id in digests and self._text_model_id:
                fields[vectors_field(self._text_model_id)], missing = _joined(digests[user_id], vectors)
                if self._previous_text_model_id:
                    pipeline.hdel(key, vectors_field(self._previous_text_model_id))
                if missing:
                    self._incomplete.add(user_id)
                    pipeline.sadd(incomplete, user_id)
            pipeline.hset(key, mapping=fields)
        pipeline.execute()

    def _vectors_of(self, digests: Mapping[str, Sequence[bytes]]) -> Mapping[bytes, bytes]:
        wanted = list(dict.fromkeys(one for some in digests.values() for one in some))
        return self._text_vectors(self._text_model_id, wanted) if wanted and self._text_model_id else {}

    def _complete(self) -> None:
        """Write the vectors of texts that were encoded since their users were written."""
        for some in in_parts(sorted(self._incomplete), _AT_ONCE):
            rows, _ = self._state.read(partial(_stamped, user_ids=some))
            digests = {one: visible_digests(rows[one]["texts"]) for one in some}
            vectors = self._vectors_of(digests)
            done = [one for one in some if all(digest in vectors for digest in digests[one])]
            pipeline = self._cluster.pipeline()
            for user_id in done:
                if any(rows[user_id].values()):
                    field = vectors_field(self._text_model_id)
                    value, _ = _joined(digests[user_id], vectors)
                    pipeline.hset(self._keys.user(self.generation, user_id), mapping={field: value})
            if done:
                pipeline.execute()
                self._cluster.client.srem(self._keys.incomplete(self.generation), *done)
                self._incomplete.difference_update(done)

    def _add_text_model(self, text_model_id: str) -> None:
        """Write the vectors of everybody's texts by another text model, before an index of it serves."""
        self._previous_text_model_id, self._text_model_id = self._text_model_id, text_model_id
        after = ""
        while True:
            some, texts = self._state.read(partial(_texts_of_some, after=after))
            if not some:
                return
            digests = {one: visible_digests(raw) for one, raw in texts.items()}
            vectors = self._vectors_of(digests)
            pipeline = self._cluster.pipeline()
            for user_id in texts:
                value, missing = _joined(digests[user_id], vectors)
                pipeline.hset(
                    self._keys.user(self.generation, user_id), mapping={vectors_field(text_model_id): value}
                )
                if missing:
                    self._incomplete.add(user_id)
            if texts:
                pipeline.execute()
            after = some[-1]

    def _write_live(self, generation: str, wanted: "Mapping[tuple[str, IndexPart], set[str] | None]") -> None:
        """Write what became of items and users of indexes: of some, or of all where that is None."""
        for (index_id, part), names in wanted.items():
            listed = None if names is None else sorted(names)
            live = self._state.read(partial(_live, index_id=index_id, part=part, names=listed))
            by_bucket: dict[int, dict[str, bytes]] = {}
            for name, (sequence, change) in live.items():
                by_bucket.setdefault(live_bucket_of(name), {})[name] = pack_live(sequence, change)
            keys = {b: self._keys.live(generation, index_id, part, b) for b in range(LIVE_BUCKETS)}
            pipeline = self._cluster.pipeline()
            for bucket, changes in by_bucket.items():
                pipeline.hset(keys[bucket], mapping=changes)
            if names is None:  # what an index was told when it served before counts no more
                reading = self._cluster.pipeline()
                for key in keys.values():
                    reading.hkeys(key)
                for bucket, known in enumerate(reading.execute()):
                    old = {name.decode() for name in known} - by_bucket.get(bucket, {}).keys()
                    if old:
                        pipeline.hdel(keys[bucket], *old)
            pipeline.execute()

    def _announce(self, entries: Sequence[LogEntry], previous: int) -> None:
        """Append entries to the stream, but those that it has."""
        if self._unsure:  # the last time may have appended some
            last = self._cluster.client.xrevrange(self._keys.log, count=1)
            previous = self._sequence = max(previous, _sequence_of(last[0][0])) if last else previous
            entries = [entry for entry in entries if entry.sequence > previous]
        pipeline = self._cluster.pipeline()
        for entry in entries:
            fields = {"g": self.generation, "p": previous, "e": entry.pack()}
            pipeline.xadd(
                self._keys.log, fields, id=f"{entry.sequence}-*", maxlen=KEPT_ENTRIES, approximate=True
            )
            previous = entry.sequence
        if entries:
            self._unsure = True
            pipeline.execute()
            self._sequence, self._unsure = previous, False

    def _set_markers(self, generation: str) -> None:
        """Set the markers: before anything else, so that they are gone where something else is."""
        pipeline = self._cluster.pipeline()
        for bucket in range(BUCKETS):
            pipeline.set(self._keys.marker(generation, bucket), b"1")
        pipeline.execute()

    def _check_markers(self, generation: str, nodes: set[str]) -> None:
        pipeline = self._cluster.pipeline()
        for bucket in range(BUCKETS):
            pipeline.get(self._keys.marker(generation, bucket))
        if not all(pipeline.execute()) or nodes != {node.run_id for node in self._cluster.primaries()}:
            raise StateUnreachableError(str(self._cluster.address), "a node lost what was written just now")

    def _sweeping(self) -> Iterator[None]:
        """Remove what earlier generations left, a little with each step; readers have moved on by then."""
        end = time.monotonic() + _SWEEP_SECONDS
        while time.monotonic() < end:
            yield
        client = self._cluster.client
        for node in client.get_primaries():
            direct, cursor = client.get_valkey_connection(node), 0
            while True:
                cursor, found = direct.scan(cursor, match=self._keys.pattern, count=1_000)
                old = [key for key in found if self._keys.generation_of(key) not in ("", self.generation)]
                pipeline = direct.pipeline(transaction=False)
                for key in old:
                    pipeline.unlink(key)
                if old:
                    pipeline.execute()
                if not cursor:
                    break
                yield


def _stamped(
    reading: StateReading, user_ids: Sequence[str]
) -> tuple[dict[str, dict[str, bytes]], tuple[int, int, int]]:
    """Read the rows of some users by table, and how far the log and the codes are."""
    rows = {one: {table: reading.rows(table, one) for table in TABLES} for one in user_ids}
    return rows, _stamp(reading)


def _live(
    reading: StateReading, index_id: str, part: IndexPart, names: Sequence[str] | None
) -> dict[str, tuple[int, bytes]]:
    return reading.live(index_id, part, names)


def _stamp(reading: StateReading) -> tuple[int, int, int]:
    head = reading.head
    return head.sequence, head.items, head.words


def _texts_of_some(reading: StateReading, after: str) -> tuple[list[str], dict[str, bytes]]:
    some = reading.user_ids(after, _AT_ONCE)
    texts = {one: reading.rows("texts", one) for one in some}
    return some, {one: raw for one, raw in texts.items() if raw}


def _joined(digests: Sequence[bytes], vectors: Mapping[bytes, bytes]) -> tuple[bytes, bool]:
    """Return the digests and vectors of a user's texts in one piece, and whether some have none."""
    found = [one for one in dict.fromkeys(digests) if one in vectors]
    parts = [part for one in found for part in (one, vectors[one])]
    joined = len(found).to_bytes(4, "little") + b"".join(parts) if found else b""
    return joined, len(found) < len(set(digests))


def _live_of(entries: Sequence[LogEntry], serves: str) -> "dict[tuple[str, IndexPart], set[str] | None]":
    """Return whose changes entries tell of, by index: of an index that begins to serve all of them."""
    wanted: dict[tuple[str, IndexPart], set[str] | None] = {}
    for entry in entries:
        for part, names in (("items", entry.items), ("users", entry.members)):
            if names:
                known = wanted.setdefault((entry.index_id, part), set())  # type: ignore[arg-type]
                if known is not None:
                    known.update(names)
    if serves:
        wanted |= {(serves, part): None for part in _PARTS}
    return wanted


def _sequence_of(stream_id: bytes) -> int:
    return int(stream_id.partition(b"-")[0])
