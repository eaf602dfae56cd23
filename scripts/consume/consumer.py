"""Go through a log in batches, each written with the position of its end, and begin again after any failure.

The server's position is the only one that counts. A session asks for it, reads the log from there, and hands
over batch after batch; whatever is lost or killed ends the session, and the next one asks again. So nothing
here has to survive.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from scripts.consume.events import (
    MAX_EVENT_BYTES,
    UnreadableEventError,
    count_rows,
    letters_of,
    read_event,
)
from scripts.consume.figures import ConsumerFigures
from scripts.consume.source import (
    DeadLetter,
    LogMessage,
    LogMissingError,
    LogSource,
    LogUnreachableError,
)
from triptych_client import AsyncClient, CallError
from triptych_client.pb.v1 import ingest_pb2 as pb

MAX_ROWS = 10_000  # of a batch of more than one event
_POLL_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds between sessions
_NEVER = (  # no repetition helps
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INVALID_ARGUMENT,
)
log = logging.getLogger(__name__)


@dataclass
class _Batch:
    """Messages to write together."""

    messages: list[LogMessage]
    entries: list[pb.LogEntry]
    unreadable: list[DeadLetter]
    rows: int = 0
    size: int = 0


class Consumer:
    """Writes the events of one log to one server.

    Args:
        client: of the server.
        name: of the log.
        connect: opens the log for the home with an id.
        figures: are counted up.
        batch: events to write at once, at most.
        limit: end after so many events; 0 for never.
        until_empty: end where the log has nothing more.
    """

    def __init__(
        self,
        client: AsyncClient,
        name: str,
        connect: Callable[[str], AbstractAsyncContextManager[LogSource]],
        figures: ConsumerFigures,
        *,
        batch: int,
        limit: int = 0,
        until_empty: bool = False,
    ) -> None:
        self._client, self._name, self._connect = client, name, connect
        self._figures = figures
        self._most, self._limit, self._until_empty = batch, limit, until_empty
        self._left = limit
        self._stopping = asyncio.Event()
        self._pause = _FIRST_PAUSE
        self._connected = False

    def stop(self) -> None:
        """Have `run` return after the batch that is being written."""
        self._stopping.set()

    async def run(self) -> None:
        """Consume until the limit, the end where that is asked for, or `stop`.

        Raises:
            CallError: the server refuses this caller, or does not know the call.
            LogMissingError, UnusableLogError, LogTakenOverError: the log cannot be read.
        """
        while not self._stopping.is_set():
            try:
                if await self._session():
                    return
            except (LogUnreachableError, LogMissingError, CallError) as error:
                if isinstance(error, LogMissingError) and not self._connected:
                    raise
                if isinstance(error, CallError) and (error.code in _NEVER or error.about_tls):
                    raise
                self._figures.interruptions.inc()
                log.warning("interrupted: %s; going on in %.1f s", error, self._pause)
                await self._sleep(self._pause)
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _session(self) -> bool:
        """Consume from the server's position until something is lost; return whether all is done."""
        standing = await self._client.apply_log(self._name)
        async with self._connect(standing.home_id) as source:
            self._connected = True
            epoch = await source.epoch()
            known = standing.position.epoch == epoch
            if known:
                await self._bury_again(source, standing)
            elif standing.position.epoch:
                log.warning(
                    "%s was made anew since it was last read: reading it from its beginning", self._name
                )
            dropped = await source.seek(standing.position.sequence if known else 0)
            if dropped:
                log.warning("%s dropped %d messages before they were read here", self._name, dropped)
            return await self._go_on(source, standing.position, epoch)

    async def _go_on(self, source: LogSource, after: pb.LogPosition, epoch: str) -> bool:
        """Write batch after batch, and read the next one meanwhile."""
        reading = asyncio.create_task(source.read(self._wanted(), _POLL_SECONDS))
        try:
            while True:
                messages = await reading
                if self._limit:
                    messages = messages[: self._left]  # a log may give a few more
                self._figures.pending.set(source.pending)
                stops = self._stopping.is_set() or (self._limit and len(messages) >= self._left)
                if not messages and (stops or (self._until_empty and await source.at_end())):
                    return True
                if not stops:
                    reading = asyncio.create_task(source.read(self._wanted(len(messages)), _POLL_SECONDS))
                for batch in _batches(messages):
                    after = await self._write(source, after, epoch, batch)
                if stops:
                    return True
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _wanted(self, coming: int = 0) -> int:
        """Return how many messages to read next, while some are being written."""
        return self._most if not self._limit else max(1, min(self._most, self._left - coming))

    async def _write(
        self, source: LogSource, after: pb.LogPosition, epoch: str, batch: _Batch
    ) -> pb.LogPosition:
        """Write a batch, keep what was rejected, and acknowledge; return the new position.

        Raises:
            LogUnreachableError: the server stands elsewhere, by a call that was thought to be lost.
        """
        began = time.monotonic()
        for letter in batch.unreadable:
            await source.bury(letter)
        through = pb.LogPosition(epoch=epoch, sequence=batch.messages[-1].sequence)
        reply = await self._client.apply_log(self._name, after, through, batch.entries)
        if reply.position != through:
            raise LogUnreachableError(
                f"the server stands at {reply.position.sequence}, not at {through.sequence}"
            )
        for letter in letters_of(batch.messages, reply.rejected):
            await source.bury(letter)
        await source.acknowledge(batch.messages)
        reasons = Counter(one.reason for one in reply.rejected)
        reasons.update(reason for letter in batch.unreadable for reason in letter.reasons)
        self._figures.batch(len(batch.messages), reasons, time.monotonic() - began)
        self._figures.position.set(through.sequence)
        self._figures.last.set(batch.messages[-1].published.timestamp())
        self._left -= len(batch.messages)
        self._pause = _FIRST_PAUSE
        return through

    async def _bury_again(self, source: LogSource, standing: pb.ApplyLogResponse) -> None:
        """Keep what was rejected of the last batch: who wrote it may have ended before doing so."""
        for sequence in sorted({one.sequence for one in standing.rejected}):
            message = await source.message(sequence)
            if message is None:
                log.warning("event %d was rejected, and %s has dropped it since", sequence, self._name)
                continue
            for letter in letters_of([message], standing.rejected):
                await source.bury(letter)

    async def _sleep(self, seconds: float) -> None:
        """Wait for some seconds, or for `stop`."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return


def _batches(messages: Sequence[LogMessage]) -> Iterator[_Batch]:
    """Yield messages in batches that a call can carry; those that are no events advance the position only."""
    batch = _Batch([], [], [])
    for message in messages:
        try:
            event = read_event(message.payload)
        except UnreadableEventError as error:
            batch.messages.append(message)
            batch.unreadable.append(DeadLetter(message, {error.reason: 1}, message.payload, str(error)))
            continue
        rows, size = count_rows(event), event.ByteSize()
        full = batch.rows + rows > MAX_ROWS or batch.size + size > MAX_EVENT_BYTES
        if batch.messages and full:
            yield batch
            batch = _Batch([], [], [])
        published = Timestamp()
        published.FromDatetime(message.published)
        batch.messages.append(message)
        batch.entries.append(pb.LogEntry(sequence=message.sequence, published=published, event=event))
        batch.rows += rows
        batch.size += size
    if batch.messages:
        yield batch
