"""A stream of NATS JetStream as a log.

The server of ours knows the position, and JetStream has a durable consumer for each home, so that `nats
consumer info` shows how far it is and a work queue forgets what is written. Each session makes that consumer
anew behind the position: whatever was delivered to somebody who is gone is delivered again, in order, before
anything newer. A gap in what is delivered, or a lost connection, ends the session.
"""

import hashlib
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

from nats.aio.client import Client as Connection
from nats.errors import Error, MaxPayloadError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, BadRequestError, NotFoundError, ServiceUnavailableError

from scripts.consume.nats_access import EncryptedConnection, NatsAccess
from scripts.consume.source import (
    DeadLetter,
    LogMessage,
    LogMissingError,
    LogTakenOverError,
    LogUnreachableError,
    UnusableLogError,
)

_ADDRESS = re.compile(r"(nats|tls)://([^/?#\s]+)/([^\s.*>/\\?#]+)")
_CONNECT_SECONDS = 5
_ANSWER_SECONDS = 10.0
_ACK_SECONDS = 60.0  # without an acknowledgement a message is delivered again, and skipped
_KEPT_SECONDS = 30 * 24 * 3600.0  # dead letters
_SAME_LETTER_SECONDS = 3600.0
_MOST_DETAIL = 300  # characters of a header
_RACES = (10013, 10105, 10148)  # the consumer exists, as somebody has just made it
_READER = "triptych-reader"  # in the metadata of a consumer: which process made it
_REFUSED = "NATS refuses this user: see --nats-credentials, --nats-nkey, --nats-user and --nats-token-file"
log = logging.getLogger(__name__)


@dataclass
class JetStreamLog:
    """Which stream, how to reach it, and which consumer this process has made.

    Attributes:
        servers: their URLs, without the stream.
        stream: its name.
        subjects: only messages under these; all without any.
        dead_letters: name of the stream for what is rejected.
        batch: messages that are read at once, at most.
        access: how one is known to the servers, and these to us.
    """

    servers: list[str]
    stream: str
    subjects: tuple[str, ...] = ()
    dead_letters: str = ""
    batch: int = 1_000
    access: NatsAccess = field(default_factory=NatsAccess)
    reader: str = field(default_factory=lambda: uuid4().hex)
    begun: bool = False

    @classmethod
    def of_url(cls, url: str) -> "JetStreamLog":
        """Return the log that nats://host:port,host:port/STREAM names.

        Raises:
            UnusableLogError: it names none.
        """
        found = _ADDRESS.fullmatch(url)
        if found is None or "@" in found[2]:
            raise UnusableLogError(
                "a log is given as nats://HOST:PORT/STREAM, or tls:// where it speaks TLS; user, password "
                "and token have options of their own, as every user of the machine sees a command"
            )
        scheme, hosts, stream = found.groups()
        return cls([f"{scheme}://{host}" for host in hosts.split(",")], stream)

    @property
    def name(self) -> str:
        """What the server of ours calls it: another selection of subjects has a position of its own."""
        return "/".join(["nats", self.stream, *([",".join(sorted(self.subjects))] if self.subjects else [])])

    @asynccontextmanager
    async def connect(self, home_id: str) -> AsyncIterator["JetStream"]:
        """Yield the stream as it is read for a home.

        Raises:
            LogUnreachableError: no server answers.
            LogMissingError: there is no such stream.
            UnusableLogError: the server refuses this user, or the stream cannot be consumed.
        """
        with _named_errors(self.stream):
            connection = await self._connection()
            try:
                context = connection.jetstream(timeout=_ANSWER_SECONDS)
                yield await JetStream.opened(self, connection, context, home_id)
            finally:
                await connection.close()  # what is acknowledged is sent first

    async def _connection(self) -> Connection:
        async def note(error: Exception) -> None:
            """Tell what a user may not do, as the call itself only waits in vain; calls raise the rest."""
            if "permissions violation" in str(error).lower():
                log.warning("%s", error)

        encrypted = self.access.ca is not None or any(one.startswith("tls:") for one in self.servers)
        connection = EncryptedConnection() if encrypted else Connection()
        try:
            await connection.connect(
                self.servers,
                name="triptych consume",
                allow_reconnect=False,
                connect_timeout=_CONNECT_SECONDS,
                error_cb=note,
                **self.access.options(),
            )
        except ssl.SSLError as error:  # the connection is gone, and `close` would wait for it
            raise self.access.refused(", ".join(self.servers), error) from error
        except UnusableLogError:
            await connection.close()
            raise
        return connection


class JetStream:
    """An open stream, a `LogSource`.

    Attributes:
        pending: messages behind the last one that was read, as JetStream said with it.
    """

    def __init__(
        self, stream_log: JetStreamLog, connection: Connection, context: JetStreamContext, home_id: str
    ) -> None:
        self._log, self._connection, self._context = stream_log, connection, context
        digest = hashlib.sha256(self._log.name.encode()).hexdigest()[:8]
        self._consumer = f"triptych-{home_id[:16]}" + (f"-{digest}" if self._log.subjects else "")
        self._epoch = ""
        self._pull: JetStreamContext.PullSubscription | None = None
        self._delivered = self._last = self._written = 0
        self.pending = 0

    @classmethod
    async def opened(
        cls, stream_log: JetStreamLog, connection: Connection, context: JetStreamContext, home_id: str
    ) -> "JetStream":
        """Return the stream, with a stream for dead letters beside it, made where it is missing."""
        opened = cls(stream_log, connection, context, home_id)
        info = await context.stream_info(stream_log.stream)
        if info.config.retention == RetentionPolicy.INTEREST:
            raise UnusableLogError(
                f"stream {stream_log.stream} has the retention interest, which drops messages while a "
                f"consumer is made anew: give it the retention limits or workqueue"
            )
        opened._epoch = "" if info.created is None else info.created.isoformat()
        try:
            await context.stream_info(stream_log.dead_letters)
        except NotFoundError:
            config = StreamConfig(
                name=stream_log.dead_letters,
                description=f"What triptych consume could not write of {stream_log.stream}, and why",
                subjects=[f"{stream_log.dead_letters}.>"],
                max_age=_KEPT_SECONDS,
                duplicate_window=_SAME_LETTER_SECONDS,
                storage=StorageType.FILE,
            )
            await context.add_stream(config)
        return opened

    async def epoch(self) -> str:
        """Return when the stream was created."""
        return self._epoch

    async def seek(self, after: int) -> int:
        """Make the consumer anew behind a sequence; return how many messages the stream has dropped there.

        Raises:
            LogTakenOverError: another process has made it since this one did.
        """
        with _named_errors(self._log.stream):
            info = await self._context.stream_info(self._log.stream)
            await self._remove_consumer()
            queue = info.config.retention == RetentionPolicy.WORK_QUEUE
            config = ConsumerConfig(
                durable_name=self._consumer,
                description="triptych consume",
                deliver_policy=DeliverPolicy.ALL if queue else DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=None if queue else after + 1,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=_ACK_SECONDS,
                max_ack_pending=4 * self._log.batch,
                filter_subjects=list(self._log.subjects) or None,
                metadata={_READER: self._log.reader},
            )
            await self._context.add_consumer(self._log.stream, config)
            self._log.begun = True
            self._pull = await self._context.pull_subscribe_bind(
                self._consumer, self._log.stream, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
            self._delivered, self._last, self._written = 0, after, after
        return 0 if queue or not after else max(0, info.state.first_seq - after - 1)

    async def _remove_consumer(self) -> None:
        try:
            known = await self._context.consumer_info(self._log.stream, self._consumer)
        except NotFoundError:
            return
        if self._log.begun:
            self._check_reader(known)
        await self._context.delete_consumer(self._log.stream, self._consumer)

    def _check_reader(self, known: ConsumerInfo) -> None:
        """Raise LogTakenOverError where another process has made the consumer."""
        if (known.config.metadata or {}).get(_READER) != self._log.reader:
            raise LogTakenOverError(
                f"another `triptych consume` has begun to read {self._log.stream} for this home, so this "
                f"one ends: run one of them"
            )

    async def _info(self) -> ConsumerInfo:
        """Return what JetStream says of the consumer, which is still this process's.

        Raises:
            LogUnreachableError: it was removed.
            LogTakenOverError: another process has made it anew.
        """
        try:
            info: ConsumerInfo = await self._context.consumer_info(self._log.stream, self._consumer)
        except NotFoundError as error:
            raise LogUnreachableError("the consumer was removed from the stream") from error
        self._check_reader(info)
        return info

    async def read(self, most: int, seconds: float) -> list[LogMessage]:
        """Return the next messages, none where none come in time.

        Raises:
            LogUnreachableError: the connection or a message was lost.
            LogTakenOverError: another process reads the log by now.
        """
        if self._pull is None:
            raise RuntimeError("nothing is read before `seek`")
        with _named_errors(self._log.stream):
            try:
                delivered = await self._pull.fetch(max(2, most), seconds)  # for one, other rules hold
            except TimeoutError:
                delivered = []
            if not self._connection.is_connected:
                raise LogUnreachableError("the connection to NATS was lost")
            if not delivered:
                await self._info()
            messages = []
            for one in delivered:
                about = one.metadata
                self._delivered += 1
                if about.sequence.consumer != self._delivered:
                    raise LogUnreachableError(f"a message before {about.sequence.stream} was lost on its way")
                self.pending = about.num_pending or 0
                if about.sequence.stream <= self._last:  # again, as its acknowledgement was lost or late
                    if about.sequence.stream <= self._written:
                        await one.ack()
                    continue
                self._last = about.sequence.stream
                messages.append(LogMessage(self._last, about.timestamp, one.subject, one.data, one))
        return messages

    async def at_end(self) -> bool:
        """Return whether the consumer has nothing more, delivered or not."""
        with _named_errors(self._log.stream):
            info = await self._info()
            return not info.num_pending and (
                info.delivered is None or info.delivered.stream_seq <= self._last
            )

    async def acknowledge(self, messages: Sequence[LogMessage]) -> None:
        """Acknowledge each message."""
        with _named_errors(self._log.stream):
            for one in messages:
                await one.handle.ack()
        if messages:
            self._written = messages[-1].sequence

    async def message(self, sequence: int) -> LogMessage | None:
        """Return one message of the stream."""
        with _named_errors(self._log.stream):
            try:
                found = await self._context.get_msg(self._log.stream, sequence)
            except NotFoundError:
                return None
            published = found.time or datetime.fromtimestamp(0, UTC)
            return LogMessage(sequence, published, found.subject or "", found.data or b"")

    async def bury(self, letter: DeadLetter) -> None:
        """Publish a dead letter under the name of its stream and its reason, and wait until it is stored."""
        message = letter.message
        reasons = sorted(letter.reasons, key=lambda reason: (-letter.reasons[reason], reason))
        headers = {
            "Nats-Msg-Id": f"{self._log.name} {self._epoch} {message.sequence}",
            "Triptych-Reasons": ", ".join(f"{reason}={letter.reasons[reason]}" for reason in reasons),
            "Triptych-Stream": self._log.stream,
            "Triptych-Sequence": str(message.sequence),
            "Triptych-Subject": message.subject,
            "Triptych-Published": message.published.isoformat(),
        }
        if letter.detail:
            headers["Triptych-Detail"] = " ".join(letter.detail.encode("ascii", "replace").decode().split())[
                :_MOST_DETAIL
            ]
        subject = f"{self._log.dead_letters}.{reasons[0]}"
        with _named_errors(self._log.dead_letters):
            try:
                await self._context.publish(subject, letter.payload, headers=headers)
            except MaxPayloadError:  # with the headers it is larger than what it came as
                headers["Triptych-Detail"] = "too large to be kept here: look it up by its sequence"
                await self._context.publish(subject, b"", headers=headers)


@contextmanager
def _named_errors(stream: str) -> Iterator[None]:
    """Raise errors of NATS as those of a log."""
    try:
        yield
    except ServiceUnavailableError as error:
        raise LogUnreachableError(f"JetStream is not ready: {error.description or error.code}") from error
    except NotFoundError as error:
        raise LogMissingError(f"NATS has no stream {stream}: make it first (nats stream add)") from error
    except BadRequestError as error:
        if error.err_code in _RACES:
            raise LogUnreachableError("another consumer was made at the same time") from error
        raise UnusableLogError(f"JetStream refuses this of {stream}: {error.description}") from error
    except (TimeoutError, APIError, Error, OSError) as error:
        if isinstance(error, LogUnreachableError):
            raise
        if "authorization violation" in str(error).lower():  # NATS says so by its text alone
            raise UnusableLogError(_REFUSED) from error
        raise LogUnreachableError(f"NATS is not reached: {str(error) or type(error).__name__}") from error
