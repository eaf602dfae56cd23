"""Packed replies are the messages that protobuf makes of the same candidates."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from server.query.query import Candidates, Contribution, Target, Timings
from server.wire.packed import packed_batch, packed_reply
from triptych_client.pb.v1 import triptych_pb2 as pb

numbers = st.floats(-1e6, 1e6, width=32)


@st.composite
def candidates(draw: st.DrawFn) -> Candidates:
    count, views = draw(st.integers(0, 70)), draw(st.sampled_from([None, 3, 4]))
    shares = None
    if views is not None:
        shares = draw(arrays.arrays(np.float32, (count, views), elements=numbers))
        shares[:, draw(st.integers(0, views - 1))] *= draw(st.sampled_from([0.0, 1.0]))
        if draw(st.booleans()):
            shares = np.asfortranarray(shares)
    return Candidates(
        [draw(st.text(max_size=5)) for _ in range(count)],
        draw(arrays.arrays(np.float32, count, elements=numbers)),
        shares,
        draw(st.sampled_from([(), ("H",), ("H", "T", "S")])),
        draw(st.booleans()),
        "model",
        "index",
        draw(st.sampled_from(Target)),
        draw(st.booleans()),
        draw(st.sampled_from([(), (((Contribution("item", 0.5),), (), ()),)])),
        Timings(1.0, 2.0, 3.0),
    )


def by_protobuf(found: Candidates, query_id: str) -> pb.QueryResponse:
    users, scores = found.target is Target.USERS, found.scores.tolist()
    columns = [] if found.shares is None else found.shares.T.tolist()
    shares = [column if any(column) else [] for column in columns] + [[]] * (4 - len(columns))
    return pb.QueryResponse(
        item_ids=[] if users else found.ids,
        user_ids=found.ids if users else [],
        scores=scores,
        history_shares=shares[0],
        text_shares=shares[1],
        social_shares=shares[2],
        query_shares=shares[3],
        prior_shares=scores if found.fallback else [],
        views_used=[
            {"H": pb.VIEW_HISTORY, "T": pb.VIEW_TEXT, "S": pb.VIEW_SOCIAL}[view] for view in found.views_used
        ],
        fallback=pb.FALLBACK_POPULARITY if found.fallback else pb.FALLBACK_NONE,
        exact=found.exact,
        query_id=query_id,
        model_id="model",
        index_id="index",
        timings=pb.Timings(views_ms=1.0, encode_ms=2.0, search_ms=3.0),
        explanations=[
            pb.Explanation(
                **{
                    name: [pb.Contribution(name=each.name, value=each.value) for each in sources]
                    for name, sources in zip(("events", "texts", "friends"), one, strict=True)
                }
            )
            for one in found.explanations
        ],
    )  # fmt: skip


@given(found=candidates())
def test_a_packed_reply_is_the_message_that_protobuf_makes(found: Candidates) -> None:
    reply = pb.QueryResponse.FromString(packed_reply(found))
    assert reply == by_protobuf(found, reply.query_id)


@given(several=st.lists(candidates(), max_size=3))
def test_a_packed_batch_has_the_replies_in_order(several: list[Candidates]) -> None:
    replies = [packed_reply(found) for found in several]
    batch = pb.QueryBatchResponse.FromString(packed_batch(replies))
    assert list(batch.responses) == [pb.QueryResponse.FromString(reply) for reply in replies]


def test_no_two_replies_have_the_same_id() -> None:
    found = Candidates([], np.zeros(0, np.float32), None, (), True, "model", "index")
    ids = {pb.QueryResponse.FromString(packed_reply(found)).query_id for _ in range(1_000)}
    assert len(ids) == 1_000
    assert {len(one) for one in ids} == {32}
