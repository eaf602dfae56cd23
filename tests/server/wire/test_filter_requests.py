"""Filters of requests: what they mean, and every bound."""

import math
from collections.abc import Callable

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from indexer.filters.attribute_index import Moment
from indexer.filters.filter import Filter
from server.status import InvalidRequestError
from server.wire.query import (
    MAX_CONDITIONS,
    MAX_FILTER_IDS,
    MAX_KINDS,
    MAX_VALUE_BYTES,
    MAX_VALUES,
    filter_of,
)
from triptych_client.pb.v1 import triptych_pb2 as pb


def condition(name: str = "a", **fields: object) -> pb.Filter:
    return pb.Filter(attributes=[pb.AttributeCondition(name=name, **fields)])


def text(value: str) -> pb.AttributeValue:
    return pb.AttributeValue(text=value)


def test_every_field_is_meant_to_the_letter() -> None:
    values = [text("x"), pb.AttributeValue(number=2.5), pb.AttributeValue(truth=False), text("")]
    wanted = pb.Filter(
        kinds=["film", "影片"],
        attributes=[
            pb.AttributeCondition(name="a.b", any_of=values, at_least=1.0, at_most=3.0),
            pb.AttributeCondition(name="c", at_most=0.0),
        ],
        allow=pb.ItemIds(item_ids=["i1"]),
        deny=pb.ItemIds(item_ids=["i2", "i3"]),
    )
    assert filter_of(wanted) == Filter(
        ("film", "影片"),
        (("a.b", ("x", 2.5, False, "")),),
        (("a.b", 1.0, 3.0), ("c", -math.inf, 0.0)),
        ("i1",),
        ("i2", "i3"),
    )


def test_exact_numbers_times_and_exclusions_are_meant_to_the_digit() -> None:
    value, moment = pb.AttributeValue, Timestamp(seconds=5, nanos=7_999)
    bounds = {
        "lower": pb.Bound(value=value(integer=2**53 + 1), exclusive=True),
        "upper": pb.Bound(value=value(unsigned=2**64 - 1), exclusive=True),
    }
    times = {
        "lower": pb.Bound(value=value(time=moment), exclusive=True),
        "upper": pb.Bound(value=value(time=Timestamp(seconds=9)), exclusive=True),
    }
    wanted = pb.Filter(
        attributes=[
            pb.AttributeCondition(name="a", any_of=[value(integer=-(2**63)), value(unsigned=2**64 - 1)]),
            pb.AttributeCondition(name="b", none_of=[value(truth=True), value(time=moment)]),
            pb.AttributeCondition(name="c", **bounds),
            pb.AttributeCondition(name="d", **times),
            pb.AttributeCondition(name="e", at_least=1.0, lower=pb.Bound(value=value(number=2.0))),
            pb.AttributeCondition(
                name="f", at_most=1.0, upper=pb.Bound(value=value(number=1.0), exclusive=True)
            ),
            pb.AttributeCondition(name="g", lower=pb.Bound(value=value(number=2.0**53), exclusive=True)),
        ]
    )
    assert filter_of(wanted) == Filter(
        equals=(("a", (-(2**63), 2**64 - 1)),),
        ranges=(
            ("c", 2**53 + 2, 2**64 - 2),
            ("e", 2.0, math.inf),
            ("f", -math.inf, math.nextafter(1.0, 0.0)),
            ("g", 2**53 + 1, math.inf),
        ),
        times=(("d", Moment(5_000_008), Moment(8_999_999)),),
        unequal=(("b", (True, Moment(5_000_007))),),
    )


def test_an_empty_filter_is_none_but_an_empty_list_allows_nothing() -> None:
    assert filter_of(pb.Filter()) is None
    assert filter_of(pb.Filter(deny=pb.ItemIds())) is None
    assert filter_of(pb.Filter(allow=pb.ItemIds())) == Filter(allow=())


def test_truth_and_one_are_different_filters() -> None:
    truth, one = (
        filter_of(condition(any_of=[value]))
        for value in (pb.AttributeValue(truth=True), pb.AttributeValue(number=1.0))
    )
    assert truth != one
    assert len({truth, one}) == 2


BAD: list[tuple[Callable[[], pb.Filter], str]] = [
    (lambda: pb.Filter(kinds=["k"] * (MAX_KINDS + 1)), r"filter\.kinds has 101 entries, more than 100"),
    (lambda: pb.Filter(kinds=[""]), r"filter\.kinds\[0\] has 0 bytes"),
    (lambda: pb.Filter(attributes=[pb.AttributeCondition()] * (MAX_CONDITIONS + 1)), "has 33 entries"),
    (lambda: condition(any_of=[text("x")] * (MAX_VALUES + 1)), r"attributes\[0\]\.any_of has 1001 entries"),
    (lambda: condition(any_of=[text("x" * (MAX_VALUE_BYTES + 1))]), r"any_of\[0\] has 1001 bytes"),
    (lambda: condition(any_of=[pb.AttributeValue()]), r"any_of\[0\] is empty"),
    (lambda: condition(any_of=[pb.AttributeValue(number=math.nan)]), r"any_of\[0\] is no number"),
    (lambda: condition(name="", at_least=1), r"attributes\[0\]\.name has 0 bytes"),
    (condition, "asks nothing of 'a'"),
    (lambda: condition(none_of=[text("x")] * (MAX_VALUES + 1)), r"attributes\[0\]\.none_of has 1001 entries"),
    (lambda: condition(lower=pb.Bound()), r"lower\.value is empty: set text"),
    (lambda: condition(lower=pb.Bound(value=text("2000-01-01"))), r"lower\.value has no order"),
    (lambda: condition(upper=pb.Bound(value=pb.AttributeValue(truth=True))), r"upper\.value has no order"),
    (
        lambda: condition(upper=pb.Bound(value=pb.AttributeValue(number=math.nan))),
        r"upper\.value is no number",
    ),
    (
        lambda: condition(at_least=5, upper=pb.Bound(value=pb.AttributeValue(integer=5), exclusive=True)),
        "is empty",
    ),
    (
        lambda: condition(any_of=[pb.AttributeValue(time=Timestamp(seconds=2**60))]),
        r"any_of\[0\] is not within",
    ),
    (lambda: condition(at_least=2, at_most=1), "range of attribute 'a' is empty: 2.0 to 1.0"),
    (lambda: condition(at_least=math.nan), "range of attribute 'a' is empty"),
    (lambda: pb.Filter(allow=pb.ItemIds(item_ids=["i"] * (MAX_FILTER_IDS + 1))), "10001 entries"),
    (lambda: pb.Filter(deny=pb.ItemIds(item_ids=["i" * 257])), r"filter\.deny\.item_ids\[0\] has 257 bytes"),
]


@pytest.mark.parametrize(("wanted", "said"), BAD, ids=[said for _, said in BAD])
def test_what_is_beyond_a_bound_is_refused_by_name(wanted: Callable[[], pb.Filter], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        filter_of(wanted())
