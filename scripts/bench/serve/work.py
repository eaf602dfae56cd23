"""What a server is asked in a benchmark: serialised requests of several kinds, about users of an export."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.export import Export
from triptych_client.pb.v1 import triptych_pb2 as pb

STORED, UNCACHED, BATCH = "stored", "uncached", "batch"
KINDS = (STORED, UNCACHED, BATCH, "views", "vector", "filtered")
BATCH_SIZE = 16
QUERY, QUERY_BATCH = "/triptych.v1.Retrieval/Query", "/triptych.v1.Retrieval/QueryBatch"
EMPTY_SERVICE = "triptych.bench.Empty"
_REGULARS = 0.3  # of the users: those whom the mixed load asks for; the others are asked for once
_MIXED = 4096  # requests of the mixed load
_OTHERS = 256  # different requests of the kinds that do not read a user of their own
_MOST_EVENTS, _MOST_TEXTS, _MOST_FRIENDS = 50, 3, 20


class NobodyToAskForError(ValueError):
    """An export names too few users to ask a server for."""

    def __init__(self, export: Export) -> None:
        super().__init__(f"export {export.export_id} names no user to ask for, or only one")


class NothingToFilterByError(ValueError):
    """No kind of item is there for a filter to let pass."""

    def __init__(self, export: Export) -> None:
        super().__init__(f"no item of export {export.export_id} has a kind: leave the kind 'filtered' out")


class Message(Protocol):
    """What can be serialised."""

    def SerializeToString(self) -> bytes:  # noqa: N802
        """Return the bytes."""


@dataclass(frozen=True)
class Work:
    """Requests of one kind.

    Attributes:
        kind: its name.
        method: the path of the RPC.
        requests: serialised; callers take them in turn.
        queries: in each request.
        once: no request is sent twice.
    """

    kind: str
    method: str
    requests: tuple[bytes, ...]
    queries: int = 1
    once: bool = False

    def part(self, number: int, parts: int) -> "Work":
        """Return one of so many parts where no request is sent twice, else all of it."""
        return replace(self, requests=self.requests[number::parts]) if self.once else self

    def at_empty(self) -> "Work":
        """Return the same requests for the empty method, which answers with the reply of this kind."""
        return replace(self, method=f"/{EMPTY_SERVICE}/{self.kind}")


def make_work(export: Export, dim: int, kinds: Sequence[str], *, k: int, seed: int) -> list[Work]:
    """Return what to ask for each kind.

    stored: three users in ten, one asked for much more often than another (the n-th in proportion to 1/n).
    uncached: each of the others once. batch: sixteen of the stored kind. views: stored people's views sent
    along: the latest events, texts that the server has encoded already, friends. vector: raw vectors (D,).
    filtered: as stored, among the items of the rarest kind.

    Raises:
        NobodyToAskForError: the export has less than two users.
        NothingToFilterByError: a filter is wanted, and no item has a kind.
    """
    generator = np.random.default_rng(seed)
    users = export.users().to_pylist()
    if len(users) < 2:
        raise NobodyToAskForError(export)
    order = [users[i] for i in generator.permutation(len(users))]
    regulars = order[: max(1, int(_REGULARS * len(order)))]
    chance = 1 / np.arange(1, len(regulars) + 1)
    mixed = [regulars[i] for i in generator.choice(len(regulars), _MIXED, p=chance / chance.sum())]
    some = mixed[:_OTHERS]

    def by_id(names: Sequence[str]) -> list[pb.QueryRequest]:
        return [pb.QueryRequest(user_id=user, k=k) for user in names]

    def filtered() -> list[pb.QueryRequest]:
        rarest = pb.Filter(kinds=[_rarest_kind(export)])
        return [pb.QueryRequest(user_id=user, k=k, filter=rarest) for user in mixed]

    def vectors() -> list[pb.QueryRequest]:
        rows = generator.standard_normal((_OTHERS, dim)).astype(np.float32)
        return [pb.QueryRequest(vector=pb.Vector(values=row.tolist()), k=k) for row in rows]

    def batches() -> list[pb.QueryBatchRequest]:
        return [
            pb.QueryBatchRequest(requests=by_id(mixed[start : start + BATCH_SIZE]))
            for start in range(0, _MIXED, BATCH_SIZE)
        ]

    makers: dict[str, Callable[[], Sequence[Message]]] = {
        STORED: lambda: by_id(mixed),
        UNCACHED: lambda: by_id(order[len(regulars) :]),
        BATCH: batches,
        "views": lambda: [pb.QueryRequest(views=views, k=k) for views in _inline(export, some)],
        "vector": vectors,
        "filtered": filtered,
    }
    return [
        Work(
            kind,
            QUERY_BATCH if kind == BATCH else QUERY,
            tuple(request.SerializeToString() for request in makers[kind]()),
            BATCH_SIZE if kind == BATCH else 1,
            once=kind == UNCACHED,
        )
        for kind in kinds
    ]


def _rarest_kind(export: Export) -> str:
    counts = pc.value_counts(export.items(available_only=True, columns=["kind"]).column("kind").drop_null())
    if not len(counts):
        raise NothingToFilterByError(export)
    found: str = min((count.as_py()["counts"], count.as_py()["values"]) for count in counts)[1]
    return found


def _inline(export: Export, users: Sequence[str]) -> list[pb.Views]:
    """Return the views of some users as an app would send them along."""
    wanted = {user: pb.Views() for user in users}
    events, texts, friends = export.some_users(pa.array(list(wanted)))
    for row in events.filter(pc.is_in(events.column("user_id"), pa.array(list(wanted)))).to_pylist():
        wanted[row["user_id"]].events.add(item_id=row["item_id"], action=row["action"], weight=row["weight"])
    for row in texts.to_pylist():
        views = wanted[row["user_id"]]
        if len(views.texts) < _MOST_TEXTS and row["text"].strip():
            views.texts.append(row["text"])
    for row in friends.to_pylist():
        views = wanted[row["user_id"]]
        if len(views.friends) < _MOST_FRIENDS:
            views.friends.add(friend_id=row["friend_id"], weight=row["weight"])
    for views in wanted.values():
        del views.events[: max(0, len(views.events) - _MOST_EVENTS)]
    return [wanted[user] for user in users]
