"""A real server process and a real client: every subject, every bound, publishing, damage, shutdown."""

import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from encoder.config import TowerConfig
from encoder.fit import TrainOptions
from encoder.runtime import Model
from encoder.text.cache import TextCache
from encoder.text.encoder import TextEncoder
from encoder.train import train
from indexer.index import Index
from indexer.reindex import reindex
from scripts.home_access import fresh_export
from server.query.retriever import QueryPriority, Retriever
from server.wire.query import (
    MAX_BATCH,
    MAX_DIM,
    MAX_EVENTS,
    MAX_FRIENDS,
    MAX_ID_BYTES,
    MAX_K,
    MAX_NORM,
    MAX_TEXT_BYTES,
    MAX_TEXTS,
)
from server.wire.servicers import RetrievalServicer
from store.artifact import set_pointer
from store.export import Export
from store.home import Home
from store.records import UserViews
from store.state.state import UserState
from store.store import Store
from store.tables import MAX_WEIGHT
from tests.live_server import SOON, Client, copy_home, flip, inline, refusal, run_server, server, soon
from triptych_client import MAX_MESSAGE_BYTES, Tls, connect
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

UNKNOWN = "u-nobody"
# A score is a sum whose terms may cancel: near 0 only their size says how exact it is.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
TEXT = "a quiet evening with a good book about gardens"
VIEW_OF = {pb.VIEW_HISTORY: "H", pb.VIEW_TEXT: "T", pb.VIEW_SOCIAL: "S"}


@dataclass(frozen=True)
class Live:
    """The server that most tests ask, and what it should know."""

    client: Client
    index: Index
    model: Model
    other_index: str  # of another model
    other_model: str
    views: dict[str, UserViews]  # of every user with behaviour
    users: dict[str, str]  # a user for each set of views


@pytest.fixture(scope="module")
def live(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home = copy_home(small_home, tmp_path_factory.mktemp("live") / "home")
    with Export.latest(home.exports) as export:
        first = home.current_index.read_text().strip()
        encoder = TextEncoder.load(next(p for p in home.text_models.glob("*-*") if p.is_dir()))
        options = TrainOptions(base=TowerConfig(dim=16), search=False)
        with closing(TextCache.open(home.text_cache)) as cache:
            other = Model.load(train(home, export, encoder, cache, options))
            other_index = reindex(home, export, other, encoder, cache).name
        ids = export.users().to_pylist()
    with Store.open(home.database) as store:
        views = {user_id: store.user_views(user_id) for user_id in ids}
    users: dict[str, str] = {}
    for user_id, has in views.items():
        there = (has.history, has.texts, any(friend.history for friend in has.friends))
        users.setdefault("".join(v for v, one in zip("HTS", there, strict=True) if one), user_id)
    index = Index.load(home.indexes / first)
    with server(home) as client:
        yield Live(
            client, index, Model.load(home.models / index.model_id), other_index, other.model_id, views, users
        )


def shares(reply: pb.QueryResponse) -> np.ndarray:
    """The shares (n, 4), zero where an array is empty."""
    arrays = (reply.history_shares, reply.text_shares, reply.social_shares, reply.prior_shares)
    for array in arrays:
        assert len(array) in (0, len(reply.item_ids))
    return np.stack([np.array(a) if a else np.zeros(len(reply.item_ids)) for a in arrays], axis=1)


def check(reply: pb.QueryResponse, k: int = 10) -> None:
    """What holds for every answer."""
    assert len(reply.item_ids) == len(set(reply.item_ids)) == len(reply.scores) <= k
    assert list(reply.scores) == sorted(reply.scores, reverse=True)
    assert reply.query_id
    np.testing.assert_allclose(shares(reply).sum(axis=1), reply.scores, **TOLERANCE)


def used(reply: pb.QueryResponse | pb.EncodeUserResponse) -> str:
    return "".join(VIEW_OF[view] for view in reply.views_used)


@pytest.mark.parametrize("kind", ["HTS", "T", "S", "H"])
def test_a_stored_user_is_answered_from_the_views_they_have(live: Live, kind: str) -> None:
    reply = live.client.query(user_id=live.users[kind])
    check(reply)
    assert len(reply.item_ids) == 10
    assert used(reply) == kind
    assert reply.fallback == pb.FALLBACK_NONE
    assert reply.exact
    assert (reply.index_id, reply.model_id) == (live.index.index_id, live.model.model_id)
    assert [bool(a) for a in (reply.history_shares, reply.text_shares, reply.social_shares)] == [
        view in kind for view in "HTS"
    ]
    assert not reply.prior_shares


def test_an_unknown_user_gets_what_most_users_had(live: Live) -> None:
    reply = live.client.query(user_id=UNKNOWN, k=7)
    check(reply)
    assert used(reply) == ""
    assert reply.fallback == pb.FALLBACK_POPULARITY
    assert (
        list(reply.prior_shares) == list(reply.scores) == sorted(live.index.main.popularity, reverse=True)[:7]
    )
    counted = [
        sum(any(e.item_id == x for e in v.history) for v in live.views.values()) for x in reply.item_ids
    ]
    assert counted == list(reply.scores)
    empty = live.client.query(views=pb.Views(), k=7)
    assert (empty.item_ids, empty.fallback) == (reply.item_ids, pb.FALLBACK_POPULARITY)


@pytest.mark.parametrize("kind", ["HTS", "T", "S", "H"])
def test_scores_are_inner_products_with_every_item(live: Live, kind: str) -> None:
    user_id = live.users[kind]
    encoded = live.client.retrieval.EncodeUser(pb.EncodeUserRequest(user_id=user_id))
    assert used(encoded) == kind
    assert encoded.model_id == live.model.model_id
    parts = [np.array(p.values) for p in (encoded.history_part, encoded.text_part, encoded.social_part)]
    assert [len(part) for part in parts] == [live.model.dim if view in kind else 0 for view in "HTS"]
    vector = np.array(encoded.vector.values, dtype=np.float32)
    np.testing.assert_allclose(sum(p for p in parts if len(p)), vector, atol=1e-6)

    reply = live.client.query(user_id=user_id, k=MAX_K, exclude_seen=False)
    scores = live.index.main.vectors @ vector
    best = np.argsort(-scores, kind="stable")
    assert len(reply.item_ids) == len(live.index)
    np.testing.assert_allclose(reply.scores, scores[best], rtol=1e-4, atol=1e-6)
    by_id = dict(zip(live.index.ids.to_pylist(), scores, strict=True))
    np.testing.assert_allclose(reply.scores, [by_id[x] for x in reply.item_ids], **TOLERANCE)
    for part, share in zip(parts, shares(reply).T[:3], strict=True):
        rows = live.index.rows(reply.item_ids)
        expected = live.index.main.vectors[rows] @ part if len(part) else np.zeros(len(rows))
        np.testing.assert_allclose(share, expected, rtol=1e-4, atol=1e-6)


def test_an_encoded_unknown_user_is_a_zero_vector(live: Live) -> None:
    encoded = live.client.retrieval.EncodeUser(pb.EncodeUserRequest(user_id=UNKNOWN))
    assert list(encoded.vector.values) == [0.0] * live.model.dim
    assert not encoded.views_used
    assert not encoded.history_part.values


def test_seen_items_are_left_out_unless_asked_for(live: Live) -> None:
    user_id = live.users["HTS"]
    seen = {event.item_id for event in live.views[user_id].history}
    default = live.client.query(user_id=user_id, k=MAX_K)
    without = live.client.query(user_id=user_id, k=MAX_K, exclude_seen=True)
    everything = live.client.query(user_id=user_id, k=MAX_K, exclude_seen=False)
    assert list(default.item_ids) == list(without.item_ids)
    assert set(everything.item_ids) - set(without.item_ids) == seen
    assert [x for x in everything.item_ids if x not in seen] == list(without.item_ids)


def test_a_person_who_had_everything_gets_nothing(live: Live) -> None:
    events = [pb.Event(item_id=item_id) for item_id in live.index.ids.to_pylist()]
    reply = live.client.query(views=pb.Views(events=events))
    check(reply)
    assert not reply.item_ids
    assert used(reply) == "H"


def test_k_is_ten_by_default_and_bounded(live: Live) -> None:
    user_id = live.users["HTS"]
    assert len(live.client.query(user_id=user_id, k=0).item_ids) == 10
    assert len(live.client.query(user_id=user_id, k=1).item_ids) == 1
    assert len(live.client.query(user_id=UNKNOWN, k=MAX_K).item_ids) == len(live.index)
    refused = refusal(lambda: live.client.query(user_id=user_id, k=MAX_K + 1))
    assert (refused.code, refused.message) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "k is 1001, not in 1..1000",
    )


@pytest.mark.parametrize("kind", ["HTS", "T", "S", "H"])
def test_views_sent_along_answer_like_the_same_views_stored(live: Live, kind: str) -> None:
    stored = live.client.query(user_id=live.users[kind], k=MAX_K)
    sent = live.client.query(views=inline(live.views[live.users[kind]]), k=MAX_K)
    check(sent, MAX_K)
    assert used(sent) == kind
    assert set(sent.item_ids) == set(stored.item_ids)
    place = {item_id: i for i, item_id in enumerate(stored.item_ids)}
    order = [place[item_id] for item_id in sent.item_ids]
    np.testing.assert_allclose(sent.scores, np.array(stored.scores)[order], **TOLERANCE)
    np.testing.assert_allclose(shares(sent), shares(stored)[order], **TOLERANCE)


def test_ties_to_one_friend_add_up(live: Live) -> None:
    a, b = [f.friend_id for f in live.views[live.users["HTS"]].friends if f.history][:2]

    def ask(*friends: tuple[str, float]) -> pb.QueryResponse:
        return live.client.query(
            views=pb.Views(friends=[pb.Friend(friend_id=x, weight=w) for x, w in friends])
        )

    split, whole = ask((a, 1), (b, 2), (a, 3)), ask((b, 2), (a, 4))
    assert list(split.item_ids) == list(whole.item_ids)
    np.testing.assert_allclose(split.scores, whole.scores, **TOLERANCE)


def test_an_unknown_friend_or_a_friend_of_weight_zero_adds_nothing(live: Live) -> None:
    friend = next(f.friend_id for f in live.views[live.users["HTS"]].friends if f.history)
    alone = pb.Friend(friend_id=friend)
    one = live.client.query(views=pb.Views(friends=[alone]))
    more = live.client.query(
        views=pb.Views(
            friends=[alone, pb.Friend(friend_id="x" * 256), pb.Friend(friend_id=UNKNOWN, weight=0)]
        )
    )
    assert (list(one.item_ids), used(one)) == (list(more.item_ids), "S")
    nothing = live.client.query(views=pb.Views(friends=[pb.Friend(friend_id=friend, weight=0)]))
    assert nothing.fallback == pb.FALLBACK_POPULARITY


def test_similar_items_leave_out_the_item_itself(live: Live) -> None:
    item_id = live.index.ids[3].as_py()
    for exclude_seen in (True, False):
        reply = live.client.query(item_id=item_id, k=MAX_K, exclude_seen=exclude_seen)
        check(reply, MAX_K)
        assert set(reply.item_ids) == set(live.index.ids.to_pylist()) - {item_id}
        assert used(reply) == "HT"


def test_an_item_that_the_store_lacks_is_not_found(live: Live) -> None:
    refused = refusal(lambda: live.client.query(item_id="no such item"))
    assert refused.code == grpc.StatusCode.NOT_FOUND
    assert (refused.domain, refused.reason) == ("triptych", "ITEM_NOT_FOUND")
    assert "'no such item'" in refused.message


def test_a_text_is_a_person_who_wrote_only_that(live: Live) -> None:
    reply = live.client.query(text=TEXT)
    check(reply)
    assert used(reply) == "T"
    sent = live.client.query(views=pb.Views(texts=[TEXT]))
    assert list(reply.item_ids) == list(sent.item_ids)
    np.testing.assert_allclose(reply.scores, sent.scores, **TOLERANCE)


def test_a_vector_is_searched_as_it_is(live: Live) -> None:
    vector = np.random.default_rng(0).normal(size=live.model.dim).astype(np.float32)
    reply = live.client.query(vector=pb.Vector(values=vector.tolist()), k=20)
    best = np.argsort(-(live.index.main.vectors @ vector), kind="stable")[:20]
    assert list(reply.item_ids) == [live.index.ids[int(row)].as_py() for row in best]
    np.testing.assert_allclose(reply.scores, live.index.main.vectors[best] @ vector, rtol=1e-5, atol=1e-5)
    assert not shares(reply).any()
    assert used(reply) == ""
    assert reply.fallback == pb.FALLBACK_NONE


def test_a_batch_answers_as_one_by_one(live: Live) -> None:
    vector = pb.Vector(values=[0.5] * live.model.dim)
    requests = [
        *(pb.QueryRequest(user_id=live.users[kind], k=5 + i) for i, kind in enumerate(sorted(live.users))),
        pb.QueryRequest(user_id=UNKNOWN, k=3),
        pb.QueryRequest(text=TEXT, k=MAX_K),
        pb.QueryRequest(item_id=live.index.ids[0].as_py()),
        pb.QueryRequest(vector=vector, k=1),
        pb.QueryRequest(views=inline(live.views[live.users["HTS"]]), exclude_seen=False),
        *(pb.QueryRequest(user_id=user_id) for user_id in list(live.views)[:60]),
    ]
    batch = live.client.retrieval.QueryBatch(pb.QueryBatchRequest(requests=requests)).responses
    assert len(batch) == len(requests)
    for request, together in zip(requests, batch, strict=True):
        alone = live.client.retrieval.Query(request)
        check(together, MAX_K) if not request.HasField("vector") else None
        np.testing.assert_allclose(together.scores, alone.scores, **TOLERANCE)
        differing = [
            i for i, (a, b) in enumerate(zip(together.item_ids, alone.item_ids, strict=True)) if a != b
        ]
        np.testing.assert_allclose(  # only what is as good as equal may change places
            np.array(together.scores)[differing], np.array(alone.scores)[differing], **TOLERANCE
        )
        assert used(together) == used(alone)
        assert together.fallback == alone.fallback
        assert (together.index_id, together.model_id) == (alone.index_id, alone.model_id)
    assert len({reply.query_id for reply in batch}) == len(batch)


def test_one_bad_request_fails_its_whole_batch_and_is_named(live: Live) -> None:
    good = pb.QueryRequest(user_id=live.users["HTS"])
    for bad, code, reason in (
        (pb.QueryRequest(user_id="x", k=5000), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (pb.QueryRequest(), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (
            pb.QueryRequest(vector=pb.Vector(values=[1, 2])),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        ),
        (pb.QueryRequest(item_id="gone"), grpc.StatusCode.NOT_FOUND, "ITEM_NOT_FOUND"),
    ):
        request = pb.QueryBatchRequest(requests=[good, good, bad, good])
        refused = refusal(lambda request=request: live.client.retrieval.QueryBatch(request))
        assert (refused.code, refused.domain, refused.reason) == (code, "triptych", reason)
        assert refused.message.startswith("requests[2]: ")


NAN, INF = float("nan"), float("inf")
LONG_ID = "é" * (MAX_ID_BYTES // 2) + "x"
A_TEXT = "x" * (MAX_TEXT_BYTES + 1)


def views(**fields: object) -> pb.QueryRequest:
    return pb.QueryRequest(views=pb.Views(**fields))


def event(**fields: object) -> pb.QueryRequest:
    return views(events=[pb.Event(item_id="i"), pb.Event(**({"item_id": "i"} | fields))])


def friend(**fields: object) -> pb.QueryRequest:
    return views(friends=[pb.Friend(**fields)])


def vector(*values: float) -> pb.QueryRequest:
    return pb.QueryRequest(vector=pb.Vector(values=values))


BEYOND = {
    "no subject": (pb.QueryRequest(k=5), "no subject"),
    "k": (pb.QueryRequest(user_id="u", k=MAX_K + 1), "k is 1001"),
    "k most": (pb.QueryRequest(user_id="u", k=2**32 - 1), "k is 4294967295"),
    "no user id": (pb.QueryRequest(user_id=""), "user_id has 0 bytes"),
    "user id": (pb.QueryRequest(user_id=LONG_ID), "user_id has 257 bytes"),
    "no item id": (pb.QueryRequest(item_id=""), "item_id has 0 bytes"),
    "item id": (pb.QueryRequest(item_id=LONG_ID), "item_id has 257 bytes"),
    "text": (pb.QueryRequest(text=A_TEXT), "text has 100001 bytes"),
    "blank text": (pb.QueryRequest(text=" \n\t\u2003"), "text is blank"),
    "no text": (pb.QueryRequest(text=""), "text is blank"),
    "no vector": (vector(), "vector has 0 values"),
    "vector dim": (vector(1.0, 2.0), "the vector has 2 values"),
    "vector most": (vector(*[0.0] * (MAX_DIM + 1)), "vector has 65537 values"),
    "vector NaN": (vector(NAN, *[0.0] * 31), "vector has length nan"),
    "vector inf": (vector(INF, *[0.0] * 31), "vector has length inf"),
    "vector length": (vector(2 * MAX_NORM, *[0.0] * 31), "vector has length 2e+12"),
    "events": (views(events=[pb.Event(item_id="i")] * (MAX_EVENTS + 1)), "views.events has 10001 entries"),
    "texts": (views(texts=["t"] * (MAX_TEXTS + 1)), "views.texts has 1001 entries"),
    "friends": (views(friends=[pb.Friend(friend_id="f")] * (MAX_FRIENDS + 1)), "views.friends has 1001"),
    "event without item": (event(item_id=""), "views.events[1].item_id has 0 bytes"),
    "event item": (event(item_id=LONG_ID), "views.events[1].item_id has 257 bytes"),
    "event action": (event(action=LONG_ID), "views.events[1].action has 257 bytes"),
    "event weight": (event(weight=-1e-9), "views.events[1].weight is -1e-09"),
    "event weight NaN": (event(weight=NAN), "views.events[1].weight is nan"),
    "event weight inf": (event(weight=INF), "views.events[1].weight is inf"),
    "event weight most": (event(weight=2 * MAX_WEIGHT), "views.events[1].weight is 2"),
    "event before year 1": (event(ts={"seconds": -62_135_596_801}), "views.events[1].ts is "),
    "event after year 9999": (event(ts={"seconds": 253_402_300_800}), "views.events[1].ts is "),
    "event nanos": (event(ts={"nanos": 1_000_000_000}), "views.events[1].ts is "),
    "event negative nanos": (event(ts={"nanos": -1}), "views.events[1].ts is "),
    "view text": (views(texts=["t", A_TEXT]), "views.texts[1] has 100001 bytes"),
    "blank view text": (views(texts=["t", "  "]), "views.texts[1] is blank"),
    "no friend id": (friend(friend_id=""), "views.friends[0].friend_id has 0 bytes"),
    "friend id": (friend(friend_id=LONG_ID), "views.friends[0].friend_id has 257 bytes"),
    "friend weight": (friend(friend_id="f", weight=-1), "views.friends[0].weight is -1"),
    "friend weight NaN": (friend(friend_id="f", weight=NAN), "views.friends[0].weight is nan"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_beyond_a_bound_is_an_invalid_request(live: Live, name: str) -> None:
    request, message = BEYOND[name]
    refused = refusal(lambda: live.client.retrieval.Query(request))
    assert (refused.code, refused.domain, refused.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "triptych",
        "INVALID_REQUEST",
    )
    assert refused.message.startswith(message)
    assert len(refused.message) < 500


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        (pb.QueryBatchRequest, "a batch has 1..256 requests, not 0"),
        (lambda: pb.QueryBatchRequest(requests=[pb.QueryRequest()] * (MAX_BATCH + 1)), "a batch has 1..256"),
        (
            lambda: pb.QueryBatchRequest(requests=[pb.QueryRequest(user_id="u", k=1_000)] * 51),
            "the k of a batch add up to 51000, more than 50000",
        ),
        (pb.EncodeUserRequest, "no subject: set user_id or views"),
        (lambda: pb.EncodeUserRequest(user_id=LONG_ID), "user_id has 257 bytes"),
        (pb.PublishIndexRequest, "index_id has 0 bytes"),
        (lambda: pb.PublishIndexRequest(index_id=LONG_ID), "index_id has 257 bytes"),
    ],
)
def test_beyond_a_bound_of_the_other_calls(live: Live, request_of: object, message: str) -> None:
    request = request_of()  # type: ignore[operator]
    method = {
        pb.QueryBatchRequest: live.client.retrieval.QueryBatch,
        pb.EncodeUserRequest: live.client.retrieval.EncodeUser,
        pb.PublishIndexRequest: live.client.admin.PublishIndex,
    }[type(request)]
    refused = refusal(lambda: method(request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert refused.message.startswith(message)


def test_what_lies_on_a_bound_is_answered(live: Live) -> None:
    at_most = "é" * (MAX_ID_BYTES // 2)
    for request in (
        pb.QueryRequest(user_id=at_most, k=MAX_K),
        pb.QueryRequest(user_id="nul\0inside '; drop table items; --"),
        event(
            item_id=at_most,
            action=at_most,
            weight=MAX_WEIGHT,
            ts={"seconds": 253_402_300_799, "nanos": 999_999_999},
        ),
        event(weight=0.0, ts={"seconds": -62_135_596_800}),
        views(events=[pb.Event(item_id=live.index.ids[0].as_py(), weight=MAX_WEIGHT)] * MAX_EVENTS),
        views(texts=["t"] * MAX_TEXTS, friends=[pb.Friend(friend_id="f")] * MAX_FRIENDS),
        vector(MAX_NORM, *[0.0] * (live.model.dim - 1)),
        vector(*[0.0] * live.model.dim),
    ):
        reply = live.client.retrieval.Query(request)
        assert reply.item_ids
        assert np.isfinite(reply.scores).all()
    assert used(live.client.query(text="word " * (MAX_TEXT_BYTES // 5))) == "T"


def test_bytes_that_are_no_message_do_no_harm(live: Live) -> None:
    call = live.client.channel.unary_unary("/triptych.v1.Retrieval/Query")
    for raw in (
        b"\x0a\x02\xff\xfe",
        b"\x22\x03\xed\xa0\x80",
        b"\xff" * 100,
    ):  # user_id, text: not UTF-8; garbage
        refused = refusal(lambda: call(raw, timeout=SOON))  # noqa: B023
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        stream = live.client.channel.stream_stream("/triptych.v1.Retrieval/QueryStream")
        refused = refusal(lambda: list(stream(iter([b"", raw]), timeout=SOON)))  # noqa: B023
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert live.client.query(user_id=UNKNOWN).item_ids


def test_a_message_that_is_too_big_is_refused(live: Live) -> None:
    call = live.client.channel.unary_unary("/triptych.v1.Retrieval/Query")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\0" * (MAX_MESSAGE_BYTES + 1), timeout=SOON)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert live.client.query(user_id=UNKNOWN).item_ids


def test_health_and_reflection(live: Live) -> None:
    stub = health_pb2_grpc.HealthStub(live.client.channel)
    for service in ("", "triptych.v1.Retrieval", "triptych.v1.Admin"):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (listed,) = reflection_pb2_grpc.ServerReflectionStub(live.client.channel).ServerReflectionInfo(asked)
    assert {service.name for service in listed.list_services_response.service} == {
        "triptych.v1.Retrieval",
        "triptych.v1.Admin",
        "triptych.v1.Ingest",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_status_says_what_serves_and_what_is_stored(live: Live) -> None:
    status = live.client.admin.Status(pb.StatusRequest())
    assert status.serving
    assert (status.model_id, status.index_id) == (live.model.model_id, live.index.index_id)
    assert (status.indexed_items, status.dim) == (len(live.index), live.model.dim)
    assert status.text_model_id == live.model.text_model_id
    with Export.latest(live.client.home.exports) as export:
        assert dict(status.rows) == export.manifest["counts"] | {"users": len(export.users())}
    assert status.uptime_seconds > 0


def test_an_export_can_be_made_while_serving(live: Live) -> None:
    export_id = live.client.admin.CreateExport(pb.CreateExportRequest()).export_id
    with Export.open(live.client.home.exports / export_id) as export:
        assert len(export.items()) == live.client.admin.Status(pb.StatusRequest()).rows["items"]


def test_an_index_that_is_not_there_is_not_found(live: Live) -> None:
    for name in ("nothing", "../models", "/", "x" * MAX_ID_BYTES, "漢" * (MAX_ID_BYTES // 3)):
        request = pb.PublishIndexRequest(index_id=name)
        refused = refusal(lambda request=request: live.client.admin.PublishIndex(request))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "INDEX_NOT_FOUND")


def test_publish_and_roll_back_while_queries_run(live: Live) -> None:
    first, second = live.index.index_id, live.other_index
    model_of = {first: live.model.model_id, second: live.other_model}
    stop, replies = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            requests = [pb.QueryRequest(user_id=live.users[kind], k=3) for kind in ("HTS", "T")]
            batch = live.client.retrieval.QueryBatch(pb.QueryBatchRequest(requests=requests)).responses
            for reply in batch:
                check(reply)
            replies.append({(reply.index_id, reply.model_id) for reply in batch})

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(ask) for _ in range(4)]
        try:
            published = live.client.admin.PublishIndex(pb.PublishIndexRequest(index_id=second))
            current = live.client.home.current_index.read_text()
            rolled = live.client.admin.RollbackIndex(pb.RollbackIndexRequest())
        finally:
            stop.set()
        for one in running:
            one.result()
    assert (published.index_id, published.model_id, published.previous_index_id) == (
        second,
        live.other_model,
        first,
    )
    assert current.strip() == second
    assert (rolled.index_id, rolled.model_id, rolled.previous_index_id) == (
        first,
        live.model.model_id,
        second,
    )
    assert live.client.home.current_index.read_text().strip() == first
    assert {index_id for pairs in replies for index_id, _ in pairs} == {first, second}
    assert all(len(pairs) == 1 and pairs <= model_of.items() for pairs in replies)
    refused = refusal(lambda: live.client.admin.RollbackIndex(pb.RollbackIndexRequest()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_OLDER_INDEX")


def damaged_files(live: Live) -> list[Path]:
    home = live.client.home
    folders = (
        home.indexes / live.other_index,
        home.models / live.other_model,
        home.text_models / live.model.text_model_id,
    )
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def test_a_damaged_file_is_refused_by_name_and_the_old_index_goes_on(live: Live) -> None:
    before = live.client.query(user_id=live.users["HTS"])
    request = pb.PublishIndexRequest(index_id=live.other_index)
    files = damaged_files(live)
    assert len(files) >= 13
    for file in files:
        for damage in (flip, Path.unlink):
            shutil.copy2(file, live.client.home.path / "kept")
            damage(file)
            refused = refusal(lambda: live.client.admin.PublishIndex(request))
            (live.client.home.path / "kept").replace(file)
            assert (refused.code, refused.reason) == (grpc.StatusCode.DATA_LOSS, "DAMAGED_FILE"), file
            assert str(file) in refused.message
    stranger = live.client.home.indexes / live.other_index / "stranger"
    stranger.write_text("")
    refused = refusal(lambda: live.client.admin.PublishIndex(request))
    stranger.unlink()
    assert refused.code == grpc.StatusCode.DATA_LOSS
    assert str(stranger) in refused.message
    after = live.client.query(user_id=live.users["HTS"])
    assert (after.index_id, list(after.item_ids)) == (before.index_id, list(before.item_ids))
    assert live.client.home.current_index.read_text().strip() == live.index.index_id


def test_a_second_server_on_a_home_says_that_there_is_one(live: Live) -> None:
    ended = run_server(live.client.home, "--port", "0")
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("server: ")
    assert f"{live.client.home.database} is owned by another process" in last
    assert live.client.home.server_file.exists()
    assert live.client.query(user_id=UNKNOWN).item_ids


def test_a_taken_port_is_said_so(live: Live, tmp_path: Path) -> None:
    port = live.client.address.rpartition(":")[2]
    ended = run_server(Home(tmp_path), "--port", port)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].startswith(f"server: cannot listen on 127.0.0.1:{port}")
    assert not (tmp_path / "server.json").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_with_tls_clients_need_the_certificate_and_commands_beside_the_server_do_not(
    small_home: Home, tmp_path: Path
) -> None:
    home, key, certificate = copy_home(small_home, tmp_path / "home"), tmp_path / "key", tmp_path / "cert"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            key,
            "-out",
            certificate,
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    with server(home, "--tls-cert", str(certificate), "--tls-key", str(key)) as client:
        request, address = pb.QueryRequest(text="jazz", k=3), client.address
        with connect(address, Tls(certificate)) as channel:
            assert len(rpc.RetrievalStub(channel).Query(request, timeout=10).item_ids) == 3
        with connect(address) as channel, pytest.raises(grpc.RpcError):
            rpc.RetrievalStub(channel).Query(request, timeout=2)
        with fresh_export(home) as export:
            assert export.manifest["kind"] == "export"


def test_a_directory_that_is_not_there_is_not_served(tmp_path: Path) -> None:
    ended = run_server(Home(tmp_path / "typo"), "--port", "0")
    assert ended.returncode == 1
    assert "there is no directory" in ended.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "typo").exists()


def test_one_tls_file_alone_is_refused(tmp_path: Path) -> None:
    ended = run_server(Home(tmp_path), "--port", "0", "--tls-cert", "cert.pem")
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1] == "server: TLS needs both a certificate and a key"


def test_a_wrong_option_is_a_usage_error(tmp_path: Path) -> None:
    assert run_server(Home(tmp_path / "home"), "--port", "65536").returncode == 2


def test_a_damaged_start_ends_with_one_line_that_names_the_file(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    index = home.current_index.read_text().strip()
    home.current_index.write_bytes(b"\xff\n")
    vectors = home.indexes / index / "vectors.safetensors"
    for file in (home.current_index, vectors):
        ended = run_server(home, "--port", "0")
        assert ended.returncode == 1
        last = ended.stderr.strip().splitlines()[-1]
        assert last.startswith(f"server: {file}")
        assert "Traceback" not in ended.stderr
        assert not home.server_file.exists()
        set_pointer(home.current_index, index)
        flip(vectors)


def test_a_home_without_index_waits_for_one_and_shutdown_lets_calls_finish(
    small_home: Home, tmp_path: Path
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    index_id = home.current_index.read_text().strip()
    home.current_index.unlink()
    with server(home, "--workers", "2", "--grace", str(int(SOON))) as client:
        health = health_pb2_grpc.HealthStub(client.channel)
        asked = health_pb2.HealthCheckRequest(service="triptych.v1.Retrieval")
        assert health.Check(asked).status == health_pb2.HealthCheckResponse.NOT_SERVING
        refused = refusal(lambda: client.query(user_id="u00001"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
        assert not client.admin.Status(pb.StatusRequest()).serving
        refused = refusal(lambda: client.admin.RollbackIndex(pb.RollbackIndexRequest()))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOTHING_PUBLISHED")
        published = client.admin.PublishIndex(pb.PublishIndexRequest(index_id=index_id))
        assert (published.index_id, published.previous_index_id) == (index_id, "")
        assert health.Check(asked).status == health_pb2.HealthCheckResponse.SERVING
        assert home.current_index.read_text().strip() == index_id
        # Texts of their own, so that the language model has seconds to work.
        texts = [f"{number} {'words upon words ' * 60}" for number in range(24)]
        slow = [client.retrieval.Query.future(views(texts=texts)) for _ in range(3)]  # one more than workers
        server_cpu = psutil.Process(client.process.pid).cpu_times
        before = server_cpu().user
        soon(lambda: server_cpu().user > before + 0.1)  # they have arrived: the language model works
        assert not slow[0].done()
        client.process.send_signal(signal.SIGTERM)
        for call in slow:
            assert used(call.result(timeout=SOON)) == "T"
        assert client.process.wait(timeout=SOON) == 0
    assert not home.server_file.exists()
    with Store.open(home.database) as store:  # released
        assert store.counts()["items"] == 150


def test_an_unexpected_error_tells_no_details(
    live: Live, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, state = Store.open(tmp_path / "views.duckdb"), UserState.open(tmp_path / "state")
    state.close()  # what no call expects
    with closing(TextCache.open(tmp_path / "cache")) as cache:
        encoder = TextEncoder.load(live.client.home.text_models / live.model.text_model_id, threads=1)
        serving = SimpleNamespace(index=live.index, model=live.model, encoder=encoder, cache=cache)
        grpc_server = grpc.server(ThreadPoolExecutor(1))
        rpc.add_RetrievalServicer_to_server(RetrievalServicer(Retriever(store, state, serving)), grpc_server)  # type: ignore[arg-type]
        port = grpc_server.add_insecure_port("127.0.0.1:0")
        grpc_server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = rpc.RetrievalStub(channel)
            refused = refusal(lambda: stub.Query(pb.QueryRequest(user_id="secret-person")))
        grpc_server.stop(None).wait()
    store.close()
    assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    said, query_id = refused.message.rsplit(" ", 1)
    assert said == "an unexpected error; the server's log has it as query"
    (logged,) = [record for record in caplog.records if record.message == "unexpected error in a call"]
    assert logged.query_id == query_id  # type: ignore[attr-defined]
    assert "secret-person" not in caplog.text


def test_the_log_holds_nothing_personal(live: Live) -> None:
    user_id, secret = live.users["HTS"], "my-secret-diary"
    live.client.query(user_id=user_id)
    live.client.query(text=secret)
    live.client.query(views=pb.Views(texts=[secret], friends=[pb.Friend(friend_id=user_id)]))
    refusal(lambda: live.client.query(item_id=secret))
    refusal(lambda: live.client.query(user_id=secret * 50))
    log = live.client.log.read_text()
    assert "listening on" in log
    assert secret not in log
    assert not set(re.findall(r"\bu\d{5}\b", log))
    assert "unexpected error" not in log


def test_a_filter_lets_through_what_brute_force_does(live: Live) -> None:
    vector = live.client.retrieval.EncodeUser(pb.EncodeUserRequest(user_id=live.users["HTS"]), timeout=SOON)
    scores = live.index.main.vectors @ np.array(vector.vector.values, dtype=np.float32)
    ids = live.index.ids.to_pylist()
    with Export.latest(live.client.home.exports) as export:
        kind = {row["item_id"]: row["kind"] for row in export.items().to_pylist()}
    for kinds in (["video"], ["video", "article"], ["song"]):
        passing = [i for i in np.argsort(-scores, kind="stable") if kind[ids[i]] in kinds]
        reply = live.client.query(
            user_id=live.users["HTS"], k=1000, exclude_seen=False, filter=pb.Filter(kinds=kinds)
        )
        check(reply, 1000)
        assert list(reply.item_ids) == [ids[i] for i in passing]


def test_each_query_of_a_batch_keeps_its_own_filter(live: Live) -> None:
    asked = [("HTS", ["video"]), ("T", []), ("HTS", ["article"]), ("T", ["video"]), ("H", [])]
    requests = [
        pb.QueryRequest(user_id=live.users[who], k=5, filter=pb.Filter(kinds=kinds) if kinds else None)
        for who, kinds in asked
    ]
    batch = live.client.retrieval.QueryBatch(pb.QueryBatchRequest(requests=requests), timeout=SOON).responses
    for request, reply in zip(requests, batch, strict=True):
        alone = live.client.retrieval.Query(request, timeout=SOON)
        assert list(alone.item_ids) == list(reply.item_ids)
        assert len(reply.item_ids) == 5
    popular = live.client.query(user_id=UNKNOWN, k=1000, filter=pb.Filter(kinds=["video"]))
    assert popular.fallback == pb.FALLBACK_POPULARITY
    check(popular, 1000)


def test_an_impossible_filter_is_refused(live: Live) -> None:
    bad = pb.Filter(attributes=[pb.AttributeCondition(name="price", at_least=2, at_most=1)])
    said = refusal(lambda: live.client.query(user_id="u", filter=bad))
    assert (said.code, said.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert "range of attribute 'price' is empty" in said.message


def test_who_writes_waits_for_queries_but_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = QueryPriority()
    with traffic.query():
        start = time.monotonic()
        traffic.pause()  # which ends while the query still runs
        assert time.monotonic() - start > 0.001
    monkeypatch.setattr("server.query.retriever._LONGEST_PAUSE_SECONDS", 3600)
    traffic.pause()  # nothing runs, so there is nothing to wait for
    with ThreadPoolExecutor(1) as pool:
        with traffic.query():
            paused = pool.submit(traffic.pause)
        paused.result()  # the query ended, and so did the wait for it
