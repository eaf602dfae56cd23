"""Pages are pieces of one list, batches answer as single queries do, and a changed index is an error."""

from collections.abc import Iterator
from contextlib import closing

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.text.cache import TextCache
from indexer.filters.filter import Filter
from indexer.publish import current_index, load_index
from server.query.query import (
    Candidates,
    FreeText,
    IndexChangedError,
    Query,
    QueryOptions,
    RawVector,
    SimilarTo,
    StoredUser,
    Subject,
    Target,
    TextQuery,
)
from server.query.retriever import Retriever
from server.query.snapshot import prepare
from server.status import InvalidRequestError
from server.wire.query import query_of
from store.home import Home
from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
from store.store import Store
from tests.live_server import copy_home, refusal, server
from triptych_client import Client
from triptych_client.pb.v1 import triptych_pb2 as pb

SUBJECTS: list[Subject] = [
    StoredUser("u00001"),
    StoredUser("u00005"),
    StoredUser("nobody"),  # the popularity fallback
    FreeText("trains and timetables"),
    RawVector(np.random.default_rng(0).normal(size=32).astype(np.float32)),
]


@pytest.fixture(scope="module")
def retriever(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retriever]:
    home = copy_home(small_home, tmp_path_factory.mktemp("pages") / "home")
    with (
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        bring_up_to_date(store, state)
        serving = prepare(home, load_index(home, current_index(home).name), store, state, cache, 1)
        yield Retriever(store, state, serving)


def ask(retriever: Retriever, *queries: Query) -> list[Candidates]:
    return retriever.retrieve(queries)


def same(ours: Candidates, ids: list[str], scores: np.ndarray, shares: np.ndarray | None) -> None:
    """To the last bit."""
    assert ours.ids == ids
    assert ours.scores.tolist() == scores.tolist()
    assert (ours.shares is None) == (shares is None)
    assert ours.shares is None or ours.shares.tolist() == shares.tolist()  # type: ignore[union-attr]


QUERIES = st.builds(
    Query,
    st.sampled_from(SUBJECTS),
    exclude_seen=st.booleans(),
    filter=st.sampled_from([None, Filter(kinds=("video",)), Filter(unequal=(("year", (2001,)),))]),
    options=st.builds(
        QueryOptions,
        min_score=st.sampled_from([None, 0.0, 0.05]),
        text_query=st.sampled_from([None, TextQuery("old maps")]),
        diversity=st.sampled_from([1.0, 0.7]),
        exact=st.booleans(),
    ),
)


@settings(max_examples=40)
@given(query=QUERIES, k=st.sampled_from([1, 4, 30]), offset=st.sampled_from([0, 1, 4, 29, 140, 900]))
def test_a_page_is_the_end_of_the_longer_list(
    retriever: Retriever, query: Query, k: int, offset: int
) -> None:
    known = {**query.__dict__, "k": k, "offset": offset}
    (page,) = ask(retriever, Query(**known))
    (whole,) = ask(retriever, Query(**known | {"k": offset + k, "offset": 0}))
    shares = None if whole.shares is None else whole.shares[offset:]
    same(page, whole.ids[offset:], whole.scores[offset:], shares)
    assert len(page.ids) == max(0, len(whole.ids) - offset)
    assert page.fallback == whole.fallback


@settings(max_examples=40)
@given(query=QUERIES, others=st.lists(QUERIES, max_size=9), k=st.sampled_from([1, 10, 150]))
def test_a_batch_answers_to_the_last_bit_as_single_queries_do(
    retriever: Retriever, query: Query, others: list[Query], k: int
) -> None:
    together = ask(retriever, query, *others, Query(SUBJECTS[0], k))
    for one, found in zip([query, *others, Query(SUBJECTS[0], k)], together, strict=True):
        (alone,) = ask(retriever, one)
        same(found, alone.ids, alone.scores, alone.shares)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_list_is_the_head_of_every_longer_one(retriever: Retriever, subject: Subject) -> None:
    (whole,) = ask(retriever, Query(subject, 150))
    for k in (1, 2, 3, 10, 149):
        (found,) = ask(retriever, Query(subject, k))
        shares = None if whole.shares is None else whole.shares[:k]
        same(found, whole.ids[:k], whole.scores[:k], shares)


def test_shares_sum_to_the_score_that_the_kernel_made(retriever: Retriever) -> None:
    (found,) = ask(retriever, Query(StoredUser("u00001"), 150, exclude_seen=False))
    assert found.shares is not None
    largest = np.abs(found.shares).max(axis=1)
    assert (np.abs(found.shares.sum(axis=1, dtype=np.float64) - found.scores) <= 1e-7 * largest).all()


@pytest.mark.parametrize("subject", [SUBJECTS[0], SUBJECTS[3], SUBJECTS[4], SimilarTo("i00001")])
def test_pages_of_users_are_pieces_of_one_list(retriever: Retriever, subject: Subject) -> None:
    if isinstance(subject, SimilarTo):
        subject = SimilarTo(retriever.snapshot.index.main.ids[0])
    (whole,) = ask(retriever, Query(subject, 60, target=Target.USERS))
    pages = ask(
        retriever, *(Query(subject, 20, target=Target.USERS, offset=start) for start in (0, 20, 40, 400))
    )
    assert [user for page in pages for user in page.ids] == whole.ids
    assert np.concatenate([page.scores for page in pages]).tolist() == whole.scores.tolist()


def test_a_query_for_another_index_is_refused(retriever: Retriever) -> None:
    serves = retriever.snapshot.index.index_id
    ask(retriever, Query(SUBJECTS[0], offset=10, index_id=serves))
    for target in Target:
        with pytest.raises(IndexChangedError, match=f"index {serves} serves by now, not other: begin again"):
            ask(retriever, Query(SUBJECTS[0], offset=10, index_id="other", target=target))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"k": 10, "offset": 991}, "offset 991 and k 10 add up to more than 1000"),
        ({"offset": 2**32 - 1}, "offset 4294967295 and k 10 add up"),
        ({"index_id": "i" * 257}, "index_id has 257 bytes"),
    ],
)
def test_pages_beyond_a_bound_are_refused_by_name(fields: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        query_of(pb.QueryRequest(user_id="u", **fields))
    assert query_of(pb.QueryRequest(user_id="u", k=10, offset=990)).depth == 1000


def test_a_client_turns_pages_and_is_told_when_the_index_changed(small_home: Home, tmp_path, run) -> None:  # type: ignore[no-untyped-def]
    home = copy_home(small_home, tmp_path / "home")
    with server(home) as live, Client(live.address) as client:
        whole = client.query(user_id="u00001", k=20)
        second = client.query(user_id="u00001", k=10, offset=10, index_id=whole.index_id)
        assert list(second.item_ids) == list(whole.item_ids)[10:]
        assert list(second.scores) == list(whole.scores)[10:]
        (batched,) = client.query_batch([{"user_id": "u00001", "k": 10, "offset": 10}])
        assert list(batched.item_ids) == list(second.item_ids)
        wrong = pb.QueryRequest(user_id="u00001", offset=10, index_id="gone")
        told = refusal(lambda: live.retrieval.Query(wrong))
        assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INDEX_CHANGED")
        batch = pb.QueryBatchRequest(requests=[pb.QueryRequest(user_id="u00001"), wrong])
        assert refusal(lambda: live.retrieval.QueryBatch(batch)).message.startswith("requests[1]: index ")

        code, out, _ = run("query", "u00001", "-k", 10, "--address", live.address)
        assert code == 0
        assert f"next page: --offset 10 --index-id {whole.index_id}" in out
        code, out, _ = run(
            "query", "u00001", "-k", 10, *out.split("next page: ")[1].split(), "--address", live.address
        )
        assert code == 0
        assert [x for x in whole.item_ids if x in out] == list(second.item_ids)
        assert " 11 " in out
        code, _, err = run("query", "u00001", "--index-id", "gone", "--address", live.address)
        assert code == 1
        assert "begin again with the first page" in err
