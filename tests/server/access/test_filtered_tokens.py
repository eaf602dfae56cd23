"""A filter that hangs on a token holds for all that its holder can see of items."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
import pytest

from indexer.filters import Filter
from indexer.publish import current_index, load_index
from server.access import TokenFile
from server.app import running
from server.config import ServerConfig
from store.home import Home
from tests.live_server import SOON, copy_home
from triptych_client import CallError, Client
from triptych_client.pb.v1 import triptych_pb2 as pb

NOW = datetime.now(UTC)
USER = "u00001"


@dataclass(frozen=True)
class Served:
    free: Client
    filtered: Client
    allowed: list[str]
    hidden: list[str]


@pytest.fixture(scope="module")
def served(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = copy_home(small_home, tmp_path_factory.mktemp("filtered") / "home")
    index = load_index(home, current_index(home).name).index
    every = index.item_ids(index.popular(1_000, index.rows([])))
    allowed, hidden = every[::3], [one for one in every if one not in set(every[::3])]
    tokens = TokenFile(home.path / "tokens.json")
    _, free = tokens.create(("query",), NOW)
    _, filtered = tokens.create(("query",), NOW, filter={"allow": {"itemIds": allowed}})
    with running(ServerConfig(home, port=0)) as address, ExitStack() as stack:
        clients = [stack.enter_context(Client(address, token=one, timeout=SOON)) for one in (free, filtered)]
        yield Served(*clients, allowed, hidden)


def unseen(call: Callable[[], object]) -> str:
    """The message of a call that must find nothing."""
    with pytest.raises(CallError) as caught:
        call()
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "ITEM_NOT_FOUND")
    return caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"user_id": USER},
        {"user_id": "nobody-known"},
        {"text": "jazz"},
        {"user_id": USER, "exact": True},
        {"user_id": USER, "diversity": 0.5},
        {"user_id": USER, "text_query": "jazz"},
        {"vector": [0.1] * 32},
    ],
)
def test_results_pass_the_filter_alone_in_batches_and_in_streams(
    served: Served, fields: dict[str, object]
) -> None:
    asked = fields | {"k": 200, "exclude_seen": False}
    alone = served.filtered.query(**asked)  # type: ignore[arg-type]
    assert len(alone.item_ids) == len(served.allowed)
    assert set(alone.item_ids) == set(served.allowed)
    (batch,) = served.filtered.query_batch([asked])  # type: ignore[list-item]
    (streamed,) = served.filtered.query_stream([asked])  # type: ignore[list-item]
    assert isinstance(streamed, pb.QueryResponse)
    assert list(batch.item_ids) == list(streamed.item_ids) == list(alone.item_ids)
    scores = dict(zip(alone.item_ids, alone.scores, strict=True))
    free = served.free.query(**asked)  # type: ignore[arg-type]
    if not fields.get("diversity"):  # it chooses among others
        full = dict(zip(free.item_ids, free.scores, strict=True))
        assert scores == pytest.approx({one: full[one] for one in scores})


def test_the_callers_filter_narrows_it_and_widens_nothing(served: Served) -> None:
    def found(item_filter: pb.Filter) -> list[str]:
        return list(served.filtered.query(user_id=USER, filter=item_filter, exclude_seen=False).item_ids)

    first = served.allowed[:1]
    assert found(pb.Filter(allow=pb.ItemIds(item_ids=[*first, served.hidden[0]]))) == first
    assert found(pb.Filter(allow=pb.ItemIds(item_ids=served.hidden))) == []
    assert found(pb.Filter(deny=pb.ItemIds(item_ids=served.allowed[1:]))) == first


def test_a_hidden_item_is_as_one_that_does_not_exist(served: Served) -> None:
    hidden, filtered = served.hidden[0], served.filtered
    for fields in ({}, {"target": pb.TARGET_USERS}):
        said = unseen(lambda fields=fields: filtered.query(item_id=hidden, **fields))  # type: ignore[misc]
        none = unseen(lambda fields=fields: filtered.query(item_id="no-such-item", **fields))  # type: ignore[misc]
        assert said.replace(hidden, "no-such-item") == none
        assert filtered.query(item_id=served.allowed[0], **fields).item_ids or fields  # type: ignore[arg-type]
        assert served.free.query(item_id=hidden, k=3)
    similar = filtered.query(item_id=served.allowed[0], k=200)
    assert set(similar.item_ids) == set(served.allowed[1:])


def test_explanations_name_no_hidden_item_and_no_text(served: Served) -> None:
    asked = {"user_id": USER, "explain": True, "k": 20, "exclude_seen": False}
    free = served.free.query(**asked)  # type: ignore[arg-type]
    named = {one.name for explained in free.explanations for one in explained.events}
    assert named & set(served.hidden)
    filtered = served.filtered.query(**asked)  # type: ignore[arg-type]
    assert len(filtered.explanations) == 20
    seen = {one.name for explained in filtered.explanations for one in explained.events}
    assert seen <= set(served.allowed)
    assert not any(explained.texts for explained in filtered.explanations)


def test_hidden_items_in_views_sent_along_count_for_nothing(served: Served) -> None:
    def views(*ids: str) -> pb.Views:
        return pb.Views(events=[pb.Event(item_id=one) for one in ids])

    some, hidden = served.allowed[:2], served.hidden[:3]
    for ask in (
        lambda client, sent: list(client.encode_user(sent).vector.values),
        lambda client, sent: list(client.query(views=sent, exclude_seen=False).scores),
    ):
        assert ask(served.filtered, views(*some, *hidden)) == ask(served.filtered, views(*some))
        assert ask(served.free, views(*some, *hidden)) != ask(served.free, views(*some))
    assert not any(served.filtered.encode_user(views(*hidden)).vector.values)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Filter(kinds=("a", "b")), Filter(kinds=("b", "c")), Filter(kinds=("b",))),
        (Filter(kinds=("a",)), Filter(kinds=("c",)), Filter(allow=())),
        (Filter(kinds=("a",)), Filter(deny=("x",)), Filter(kinds=("a",), deny=("x",))),
        (Filter(allow=("x", "y")), Filter(allow=("y", "z")), Filter(allow=("y",))),
        (Filter(allow=("x",)), Filter(allow=("z",)), Filter(allow=())),
        (
            Filter(equals=(("c", ("red",)),)),
            Filter(equals=(("c", ("blue",)),)),
            Filter(equals=(("c", ("red",)), ("c", ("blue",)))),
        ),
        (
            Filter(ranges=(("y", 1, 9),)),
            Filter(ranges=(("y", 5, 20),)),
            Filter(ranges=(("y", 1, 9), ("y", 5, 20))),
        ),
        (Filter(), Filter(), Filter()),
    ],
)
def test_both_filters_hold(one: Filter, other: Filter, both: Filter) -> None:
    assert one.both(other) == both
