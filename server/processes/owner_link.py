"""What a query process asks of the owner of its home, and hears from it."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import grpc
import pyarrow as pa

from server.pb.triptych.internal.v1 import owner_pb2 as pb
from server.pb.triptych.internal.v1 import owner_pb2_grpc as rpc
from server.query import OwnerUnreachableError
from store.store import ItemNotFoundError
from triptych_client import MAX_MESSAGE_BYTES

_READ_SECONDS = 10.0
_PAUSE_SECONDS = 0.1  # before an owner that is gone is called again
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
log = logging.getLogger(__name__)


class RowsOfOwner:
    """Rows of the store, asked of the owner; threads may share it."""

    def __init__(
        self,
        channel: grpc.Channel,
        metadata: Callable[[], tuple[tuple[str, str | bytes], ...]] = tuple,
        name: str = "",
    ) -> None:
        """Take the connection.

        Args:
            channel: to the owner.
            metadata: of each call, such as a token.
            name: of an owner on another machine, for people.
        """
        self._stub = rpc.StoredRowsStub(channel)
        self._metadata = metadata
        self._name = name

    def title_and_text(self, item_id: str) -> tuple[str | None, str | None]:
        """Read title and text of an item.  Raises: ItemNotFoundError, OwnerUnreachableError."""
        (row,) = self.item_table(item_id).select(["title", "text"]).to_pylist()
        return row["title"], row["text"]

    def item_table(self, item_id: str) -> pa.Table:
        """Read an item, one row.  Raises: ItemNotFoundError, OwnerUnreachableError."""
        try:
            reply = self._stub.ReadItem(
                pb.ReadItemRequest(item_id=item_id), timeout=_READ_SECONDS, metadata=self._metadata()
            )
        except grpc.RpcError as error:
            if _code(error) is grpc.StatusCode.NOT_FOUND:
                raise ItemNotFoundError(item_id) from error
            raise self._error("an item as the subject", error) from error
        with pa.ipc.open_stream(reply.table) as reader:
            return reader.read_all()

    def texts_of(self, user_id: str) -> set[str]:
        """Return the texts of a user.  Raises: OwnerUnreachableError."""
        try:
            reply = self._stub.ReadTexts(
                pb.ReadTextsRequest(user_id=user_id), timeout=_READ_SECONDS, metadata=self._metadata()
            )
        except grpc.RpcError as error:
            raise self._error("an explanation", error) from error
        return set(reply.texts)

    def _error(self, what: str, error: grpc.RpcError) -> OwnerUnreachableError:
        code = _code(error)
        return OwnerUnreachableError(what, self._name, "" if code is None else code.name)


class OwnerLink(RowsOfOwner):
    """The connection to the owner; threads may share it.

    Attributes:
        channel: to the owner's socket.
    """

    def __init__(self, socket: str) -> None:
        """Take the address of the owner, unix:/path; it is connected to when it is needed."""
        self.channel = grpc.insecure_channel(socket, _OPTIONS)
        super().__init__(self.channel)
        self._owner = rpc.OwnerStub(self.channel)

    @contextmanager
    def joined(
        self,
        prepare: Callable[[str], None],
        drop: Callable[[], None],
        health: Callable[[dict[str, bool]], None],
    ) -> Iterator[None]:
        """Stay joined to the owner while the block runs.

        An owner that is gone is called again until it answers. What it says is obeyed on a thread of its own,
        one thing after another.

        Args:
            prepare: loads an index by its id.
            drop: forgets an index that was prepared.
            health: takes whether each service and worker of the owner serves; of an owner that is gone none
                does.
        """
        work: SimpleQueue[pb.JoinResponse | None] = SimpleQueue()
        obeying = threading.Thread(target=self._obey, args=(work, prepare, drop), name="preparing")
        membership = _Membership(self._owner, work.put, health)
        listening = threading.Thread(target=membership.keep, name="owner")
        for thread in (listening, obeying):
            thread.start()
        try:
            yield
        finally:
            membership.end()
            listening.join()
            work.put(None)
            obeying.join()

    def repair(self, user_id: str) -> None:
        """Have damaged records of a user written again.  Raises: OwnerUnreachableError."""
        try:
            self._owner.RepairUser(pb.RepairUserRequest(user_id=user_id), timeout=_READ_SECONDS)
        except grpc.RpcError as error:
            raise OwnerUnreachableError("a damaged record") from error

    def _obey(
        self,
        work: "SimpleQueue[pb.JoinResponse | None]",
        prepare: Callable[[str], None],
        drop: Callable[[], None],
    ) -> None:
        while (told := work.get()) is not None:
            if told.drop:
                drop()
                continue
            refused = ""
            try:
                prepare(told.prepare)
            except Exception as error:  # whatever it is, the owner must hear that this process cannot
                log.exception("index %s cannot be prepared", told.prepare)
                refused = str(error) or type(error).__name__
            answer = pb.PreparedRequest(pid=os.getpid(), index_id=told.prepare, error=refused)
            try:
                self._owner.Prepared(answer, timeout=_READ_SECONDS)
            except grpc.RpcError as error:
                log.warning("the owner does not hear that %s is prepared: %s", told.prepare, _code(error))


class _Membership:
    """The stream that a process stays joined by, begun again whenever the owner is gone."""

    def __init__(
        self,
        stub: rpc.OwnerStub,
        told: Callable[[pb.JoinResponse], None],
        health: Callable[[dict[str, bool]], None],
    ) -> None:
        self._stub = stub
        self._told = told
        self._health = health
        self._over = threading.Event()
        self._stream: grpc.CallIterator[pb.JoinResponse] | None = None

    def keep(self) -> None:
        """Stay joined until the end."""
        known: dict[str, bool] = {}
        while not self._over.is_set():
            self._stream = self._stub.Join(pb.JoinRequest(pid=os.getpid()))
            if self._over.is_set():  # it ended in between, and may not have seen this stream
                self._stream.cancel()  # type: ignore[no-untyped-call]
            try:
                for told in self._stream:
                    if told.health:
                        known = dict(told.health)
                        self._health(known)
                    if told.prepare or told.drop:
                        self._told(told)
            except grpc.RpcError as error:
                if known and not self._over.is_set():
                    log.warning("the owner is gone (%s): queries go on, writes wait for it", _code(error))
            if known:
                self._health(dict.fromkeys(known, False))
                # The next owner knows nothing of what this one told of an index that did not serve.
                self._told(pb.JoinResponse(drop=True))
                known = {}
            self._over.wait(_PAUSE_SECONDS)

    def end(self) -> None:
        """Leave the owner, and have `keep` return."""
        self._over.set()
        if self._stream is not None:
            self._stream.cancel()  # type: ignore[no-untyped-call]


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, grpc.Call) else None
