"""Options of requests: what they mean, and every bound."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.query.query import QueryOptions, TextQuery
from server.status import InvalidRequestError
from server.wire.query import MAX_EXPLAINED, MAX_MIN_SCORE, MAX_VIEW_WEIGHT, options_of, queries_of
from triptych_client import CallError
from triptych_client.errors import answer_of
from triptych_client.messages import query_message
from triptych_client.pb.v1 import triptych_pb2 as pb

NAN, INF = math.nan, math.inf


def options_with(**fields: object) -> QueryOptions:
    return options_of(pb.QueryRequest(**({"user_id": "u"} | fields)))


def test_a_request_without_options_has_the_defaults() -> None:
    assert options_with() == options_with(k=3, exclude_seen=False) == QueryOptions()


def test_every_field_is_meant_to_the_letter() -> None:
    full = options_with(
        view_weights=pb.ViewWeights(history=1, social=0.25),
        min_score=-2.0,
        text_query=" jazz ",
        text_query_weight=0.0,
        diversity=0.0,
        explain=True,
        exact=True,
    )
    assert full == QueryOptions((1.0, 0.0, 0.25), -2.0, TextQuery(" jazz ", 0.0), 0.0, True, True)
    assert options_with(text_query="jazz").text_query == TextQuery("jazz", 0.5)
    assert options_with(exact=True) == QueryOptions(exact=True)


def test_three_weights_of_nought_are_none() -> None:
    for weights in (pb.ViewWeights(), pb.ViewWeights(history=0, text=0, social=0)):
        assert options_with(view_weights=weights).view_weights == (1.0, 1.0, 1.0)


BEYOND = {
    "history": (
        {"view_weights": pb.ViewWeights(history=-1)},
        "view_weights.history is -1.0, not in 0..1000",
    ),
    "text weight": ({"view_weights": pb.ViewWeights(text=NAN)}, "view_weights.text is nan"),
    "social": ({"view_weights": pb.ViewWeights(social=INF)}, "view_weights.social is inf"),
    "most": (
        {"view_weights": pb.ViewWeights(history=MAX_VIEW_WEIGHT * 1.01)},
        "view_weights.history is 1010.0",
    ),
    "least score": ({"min_score": -INF}, "min_score is -inf, not in -1e+30..1e+30"),
    "least score NaN": ({"min_score": NAN}, "min_score is nan"),
    "least score most": ({"min_score": MAX_MIN_SCORE * 2}, "min_score is 2e+30"),
    "blank": ({"text_query": " \n"}, "text_query is blank"),
    "long": ({"text_query": "x" * 100_001}, "text_query has 100001 bytes, more than 100000"),
    "weight alone": ({"text_query_weight": 0.5}, "text_query_weight is 0.5, but there is no text_query"),
    "weight": ({"text_query": "t", "text_query_weight": 1.5}, "text_query_weight is 1.5, not in 0..1"),
    "weight NaN": ({"text_query": "t", "text_query_weight": NAN}, "text_query_weight is nan"),
    "diversity": ({"diversity": -0.1}, "diversity is -0.1, not in 0..1"),
    "diversity most": ({"diversity": 1.01}, "diversity is 1.01, not in 0..1"),
    "diversity NaN": ({"diversity": NAN}, "diversity is nan"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_beyond_a_bound_is_refused_by_field_and_value(name: str) -> None:
    fields, message = BEYOND[name]
    with pytest.raises(InvalidRequestError, match=f"^{message.replace('+', '[+]')}"):
        options_with(**fields)


def test_a_vector_has_no_views_to_weigh_or_to_explain() -> None:
    vector = {"user_id": None, "vector": pb.Vector(values=[1.0])}
    with pytest.raises(InvalidRequestError, match=r"^view_weights does not go with vector"):
        options_with(**vector, view_weights=pb.ViewWeights(history=2))
    with pytest.raises(InvalidRequestError, match=r"^explain does not go with vector"):
        options_with(**vector, explain=True)
    assert options_with(**vector, view_weights=pb.ViewWeights()) == QueryOptions()


def test_explained_results_of_a_batch_are_bounded() -> None:
    def batch(count: int) -> pb.QueryBatchRequest:
        explained = [pb.QueryRequest(user_id="u", k=1_000, explain=True)] * count
        return pb.QueryBatchRequest(requests=[*explained, pb.QueryRequest(user_id="u", k=1_000)])

    assert len(queries_of(batch(MAX_EXPLAINED // 1_000))) == 6
    with pytest.raises(InvalidRequestError, match="explained requests add up to 6000, more than 5000"):
        queries_of(batch(6))


@given(st.floats(0, 1), st.floats(0, 1), st.text(min_size=1).filter(str.strip), st.floats(-1e9, 1e9))
def test_a_client_says_what_it_means(diversity: float, weight: float, text: str, least: float) -> None:
    message = query_message(
        {
            "user_id": "u",
            "diversity": diversity,
            "text_query": text,
            "text_query_weight": weight,
            "min_score": least,
        }
    )
    assert options_of(message) == QueryOptions(
        min_score=least, text_query=TextQuery(text, weight), diversity=diversity
    )


def test_an_error_of_a_stream_is_what_the_call_would_raise() -> None:
    error = pb.QueryError(code=5, reason="ITEM_NOT_FOUND", message="item 'x' is not in the store")
    got = answer_of(pb.QueryStreamResponse(error=error))
    assert isinstance(got, CallError)
    assert (got.code.name, got.reason) == ("NOT_FOUND", "ITEM_NOT_FOUND")
    assert str(got) == "the server says NOT_FOUND: item 'x' is not in the store"
    reply = pb.QueryResponse(query_id="q")
    assert answer_of(pb.QueryStreamResponse(response=reply)) == reply
