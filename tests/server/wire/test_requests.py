"""Wire messages to records: the laws of server/wire/query.py; every bound is tested against a live server."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from indexer.index import VectorDimError
from server.query.query import InlineViews, Query, RawVector, SimilarTo, StoredUser
from server.status import InvalidRequestError
from server.wire.query import (
    DEFAULT_K,
    MAX_ID_BYTES,
    MAX_K,
    MAX_TEXT_BYTES,
    place_of,
    queries_of,
    query_of,
    user_of,
)
from store.records import Event, UserViews
from store.store import ItemNotFoundError
from triptych_client.pb.v1 import triptych_pb2 as pb

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@given(IDS)
def test_an_id_is_kept_to_the_letter_or_refused_by_its_bytes(user_id: str) -> None:
    request = pb.QueryRequest(user_id=user_id)
    if len(user_id.encode()) <= MAX_ID_BYTES:
        assert query_of(request) == Query(StoredUser(user_id), DEFAULT_K, True)
        assert user_of(pb.EncodeUserRequest(user_id=user_id)) == StoredUser(user_id)
    else:
        with pytest.raises(InvalidRequestError, match=f"user_id has {len(user_id.encode())} bytes"):
            query_of(request)


@given(st.integers(0, 2**32 - 1))
def test_k_is_kept_or_refused(k: int) -> None:
    request = pb.QueryRequest(user_id="u", k=k)
    if k <= MAX_K:
        assert query_of(request).k == (k or DEFAULT_K)
    else:
        with pytest.raises(InvalidRequestError, match=f"k is {k}, "):
            query_of(request)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_a_text_is_kept_to_the_letter_unless_it_is_blank(text: str) -> None:
    request = pb.QueryRequest(views=pb.Views(texts=[text]))
    if text.strip():
        assert query_of(request).subject == InlineViews(UserViews(texts=(text,)))
    else:
        with pytest.raises(InvalidRequestError, match="is blank"):
            query_of(request)


def test_a_text_is_measured_in_bytes() -> None:
    query_of(pb.QueryRequest(text="é" * (MAX_TEXT_BYTES // 2)))
    with pytest.raises(InvalidRequestError, match="text has 100002 bytes, more than 100000"):
        query_of(pb.QueryRequest(text="é" * (MAX_TEXT_BYTES // 2 + 1)))


@given(st.floats(width=64))
def test_a_weight_is_a_number_from_nought_to_the_bound(weight: float) -> None:
    request = pb.QueryRequest(views=pb.Views(events=[pb.Event(item_id="i", weight=weight)]))
    if math.isfinite(weight) and 0 <= weight <= 1e12:
        subject = query_of(request).subject
        assert isinstance(subject, InlineViews)
        assert subject.views.history == (Event("i", "interact", weight),)
    else:
        with pytest.raises(InvalidRequestError, match=r"views\.events\[0\]\.weight is "):
            query_of(request)


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31, 23, 59, 59, 999_999)))
def test_a_time_comes_back_to_the_microsecond(when: datetime) -> None:
    ts = Timestamp()
    ts.FromDatetime(when.replace(tzinfo=UTC))
    subject = query_of(pb.QueryRequest(views=pb.Views(events=[pb.Event(item_id="i", ts=ts)]))).subject
    assert isinstance(subject, InlineViews)
    assert subject.views.history[0].ts == when


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1000)), max_size=12))
def test_ties_to_one_friend_add_up_whatever_their_order(ties: list[tuple[str, int]]) -> None:
    friends = [pb.Friend(friend_id=name, weight=weight) for name, weight in ties]
    subject = query_of(pb.QueryRequest(views=pb.Views(friends=friends))).subject
    assert isinstance(subject, InlineViews)
    got = {friend.friend_id: friend.weight for friend in subject.views.friends}
    assert got == {name: sum(w for n, w in ties if n == name) for name, _ in ties}
    assert list(got) == sorted(got)


@given(st.lists(st.floats(width=32), min_size=1, max_size=4))
def test_a_vector_is_kept_unless_it_is_not_finite_or_too_long(values: list[float]) -> None:
    request = pb.QueryRequest(vector=pb.Vector(values=values))
    length = math.hypot(*values)
    if length <= 1e12:
        subject = query_of(request).subject
        assert isinstance(subject, RawVector)
        assert subject.vector.dtype == np.float32
        assert subject.vector.tolist() == values
    else:
        with pytest.raises(InvalidRequestError, match="vector has length"):
            query_of(request)


def test_exclude_seen_is_on_unless_said_otherwise() -> None:
    assert query_of(pb.QueryRequest(user_id="u")).exclude_seen
    assert not query_of(pb.QueryRequest(user_id="u", exclude_seen=False)).exclude_seen


@given(st.integers(0, 9), st.integers(1, 10))
def test_a_batch_names_the_first_bad_place(bad: int, size: int) -> None:
    requests = [pb.QueryRequest(user_id="" if i >= bad else "u") for i in range(size)]
    if bad >= size:
        assert len(queries_of(pb.QueryBatchRequest(requests=requests))) == size
    else:
        with pytest.raises(InvalidRequestError, match=rf"^requests\[{bad}\]: user_id"):
            queries_of(pb.QueryBatchRequest(requests=requests))


def test_an_error_of_the_retriever_finds_its_place() -> None:
    three = RawVector(np.zeros(3, dtype=np.float32))
    queries = [Query(StoredUser("x")), Query(SimilarTo("x")), Query(three), Query(SimilarTo("y"))]
    assert place_of(ItemNotFoundError("y"), queries) == "requests[3]"
    assert place_of(ItemNotFoundError("x"), queries) == "requests[1]"
    assert place_of(VectorDimError(3, 32), queries) == "requests[2]"
    with pytest.raises(ValueError, match="none of 4 queries has to do with"):
        place_of(ItemNotFoundError("z"), queries)
