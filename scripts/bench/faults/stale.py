"""Read your writes: whatever is acknowledged is known to the next query over any connection."""

import logging
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from typing import Any

import grpc
from tqdm import tqdm

from scripts.bench.serve.servers import own_server
from store.export import Export
from store.home import Home
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import ingest_pb2_grpc as ingest_rpc
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

log = logging.getLogger(__name__)

KINDS = {"behaviour": 10, "follower": 4, "erasure": 3, "deletion": 3}  # of twenty pairs
_CONNECTIONS = 8
_CALL_SECONDS = 60.0


def stale_rounds(home: Home, pairs: int, processes: int, chance: random.Random) -> dict[str, Any]:
    """Write and then query so many times, each by a connection drawn anew; return the counts.

    A behaviour must leave the next results; an event of a followed person must move the follower's vector; an
    erased person must be unknown; a deleted item must be gone. `lost` are queries that did not know of the
    write before them, by kind in `stale`.

    Raises:
        CommandFailedError: the server does not start.
    """
    with Export.latest(home.exports) as export:
        users = export.users().to_pylist()
        items = export.items(available_only=True, columns=["item_id", "title", "text", "kind"]).to_pylist()
    kinds = [kind for kind, times in KINDS.items() for _ in range(times)]
    chance.shuffle(kinds)
    stale: Counter[str] = Counter()
    done: Counter[str] = Counter()
    with own_server(home, 8, processes) as server, ExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        channels = [
            stack.enter_context(grpc.insecure_channel(server.address, options)) for _ in range(_CONNECTIONS)
        ]
        pair = WriteThenQuery(channels, channels, users, items, chance)
        for number in tqdm(range(pairs), desc="stale", disable=None):
            kind = kinds[number % len(kinds)]
            done[kind] += 1
            if not getattr(pair, kind)():
                log.error("stale: pair %d, %s", number, kind)
                stale[kind] += 1
    return {
        "tried": pairs,
        "killed": 0,
        "lost": sum(stale.values()),
        "mixed": 0,
        "failed": 0,
        "pairs": dict(done),
        "stale": dict(stale),
    }


class WriteThenQuery:
    """One write and one query each; a method returns whether the query knew of the write.

    Args:
        readers: a query takes one at random.
        writers: a write takes one at random.
        users: known people.
        items: available items, with title, text and kind.
        chance: draws.
    """

    def __init__(
        self,
        readers: Sequence[grpc.Channel],
        writers: Sequence[grpc.Channel],
        users: Sequence[str],
        items: Sequence[dict[str, Any]],
        chance: random.Random,
    ) -> None:
        self._retrieval = [rpc.RetrievalStub(channel) for channel in readers]
        self._ingest = [ingest_rpc.IngestStub(channel) for channel in writers]
        self._users, self._items, self._chance = users, items, chance
        self._numbers = count()

    def behaviour(self) -> bool:
        """Append an event about the best item: it is seen, so the next results lack it."""
        user = self._user()
        best = self._best(user)
        self._append(user, best)
        return best not in self._query(user_id=user, k=20).item_ids

    def follower(self) -> bool:
        """Append an event of a person who is followed: the follower's vector moves."""
        user, follower = self._user(), f"stale-follower-{next(self._numbers)}"
        row = ingest.FriendRow(user_id=follower, friend_id=user)
        self._writer().PutFriends(ingest.PutFriendsRequest(friends=[row]), timeout=_CALL_SECONDS)
        before = self._social_part(follower)
        self._append(user, self._best(user))
        return self._social_part(follower) != before

    def erasure(self) -> bool:
        """Erase a person who has one event: nothing but the fallback is left for them."""
        user = f"stale-erased-{next(self._numbers)}"
        self._append(user, self._chance.choice(self._items)["item_id"])
        if self._query(user_id=user, k=1).fallback != pb.FALLBACK_NONE:
            return False
        self._writer().EraseUser(ingest.EraseUserRequest(user_id=user), timeout=_CALL_SECONDS)
        return self._query(user_id=user, k=1).fallback == pb.FALLBACK_POPULARITY

    def deletion(self) -> bool:
        """Delete an item: a query that allows it alone finds nothing; then it is put back."""
        item = self._chance.choice(self._items)
        only = pb.Filter(allow=pb.ItemIds(item_ids=[item["item_id"]]))
        writer = self._writer()
        writer.DeleteItems(ingest.DeleteItemsRequest(item_ids=[item["item_id"]]), timeout=_CALL_SECONDS)
        found = self._query(user_id=f"stale-nobody-{next(self._numbers)}", k=1, filter=only).item_ids
        row = ingest.ItemRow(**{name: value for name, value in item.items() if value is not None})
        self._writer().PutItems(ingest.PutItemsRequest(items=[row]), timeout=_CALL_SECONDS)
        return not found

    def _user(self) -> str:
        """Return a person; a new one now and then, since the others come to have seen everything."""
        if self._chance.random() < 0.2:
            return f"stale-user-{next(self._numbers)}"
        return self._chance.choice(self._users)

    def _best(self, user: str) -> str:
        found = self._query(user_id=user, k=1).item_ids
        return found[0] if found else str(self._chance.choice(self._items)["item_id"])

    def _append(self, user: str, item: str) -> None:
        row = ingest.BehaviorRow(user_id=user, item_id=item, action=f"stale-{next(self._numbers)}")
        request = ingest.AppendBehaviorsRequest(behaviors=[row])
        self._writer().AppendBehaviors(request, timeout=_CALL_SECONDS)

    def _social_part(self, user: str) -> list[float]:
        reply = self._reader().EncodeUser(pb.EncodeUserRequest(user_id=user), timeout=_CALL_SECONDS)
        return list(reply.social_part.values)

    def _query(self, **fields: Any) -> pb.QueryResponse:
        return self._reader().Query(pb.QueryRequest(**fields), timeout=_CALL_SECONDS)

    def _reader(self) -> rpc.RetrievalStub:
        return self._chance.choice(self._retrieval)

    def _writer(self) -> ingest_rpc.IngestStub:
        return self._chance.choice(self._ingest)
