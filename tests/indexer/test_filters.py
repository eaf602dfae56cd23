import pytest
import typer
from google.protobuf.timestamp_pb2 import Timestamp

from scripts.filter_options import filter_message
from server.wire.query import filter_of
from triptych_client.pb.v1 import triptych_pb2 as pb


def test_options_are_the_filter_they_look_like() -> None:
    written = [
        "year>=1999",
        "year <= 2001.5",
        "colour=red",
        "colour=蓝",
        'code="7"',
        "sold=true",
        "size=7",
        "a=b=c",
    ]
    meant = filter_message(["film"], written, ["i1"], ["i2", "i3"])
    text, number = (lambda v: pb.AttributeValue(text=v)), (lambda v: pb.AttributeValue(number=v))
    assert meant == pb.Filter(
        kinds=["film"],
        attributes=[
            pb.AttributeCondition(name="year", at_least=1999, at_most=2001.5),
            pb.AttributeCondition(name="colour", any_of=[text("red"), text("蓝")]),
            pb.AttributeCondition(name="code", any_of=[text("7")]),
            pb.AttributeCondition(name="sold", any_of=[pb.AttributeValue(truth=True)]),
            pb.AttributeCondition(name="size", any_of=[number(7)]),
            pb.AttributeCondition(name="a", any_of=[text("b=c")]),
        ],
        allow=pb.ItemIds(item_ids=["i1"]),
        deny=pb.ItemIds(item_ids=["i2", "i3"]),
    )


def test_no_options_are_no_filter() -> None:
    assert filter_message([], [], [], []) is None


def condition(name: str, **fields: object) -> pb.AttributeCondition:
    return pb.AttributeCondition(name=name, **fields)


def bound(exclusive: bool = False, **value: object) -> pb.Bound:
    return pb.Bound(value=pb.AttributeValue(**value), exclusive=exclusive)


def at(text: str) -> Timestamp:
    stamp = Timestamp()
    stamp.FromJsonString(text)
    return stamp


def equal(**value: object) -> list[pb.AttributeValue]:
    return [pb.AttributeValue(**value)]


END = at("2000-12-31T23:59:59.999999Z")
MEANT: list[tuple[list[str], list[pb.AttributeCondition]]] = [
    (["year>1999"], [condition("year", lower=bound(True, number=1999))]),
    (["year < 1999"], [condition("year", upper=bound(True, number=1999))]),
    (["year!=1999"], [condition("year", none_of=equal(number=1999))]),
    (["year != 1999", "year!=x"], [condition("year", none_of=[*equal(number=1999), *equal(text="x")])]),
    # Both bounds hold, whichever is written last.
    (["year>=2010", "year>=2000"], [condition("year", at_least=2010)]),
    (["year>=2000", "year>=2010"], [condition("year", at_least=2010)]),
    (["year<=2000", "year<=2010"], [condition("year", at_most=2000)]),
    (["year>=2000", "year>2000"], [condition("year", lower=bound(True, number=2000))]),
    (["year=1999", "year>=2000"], [condition("year", any_of=equal(number=1999), at_least=2000)]),
    (["year>=2010", "year<=2000"], [condition("year", at_least=2010), condition("year", at_most=2000)]),
    (["year>1", "year<2", "year=x"], [
        condition("year", any_of=equal(text="x"), lower=bound(True, number=1), upper=bound(True, number=2)),
    ]),
    # Integers to the last digit.
    (["id=9007199254740992"], [condition("id", any_of=equal(number=2**53))]),
    (["id=9007199254740993"], [condition("id", any_of=equal(integer=2**53 + 1))]),
    (["id=123456789012345678"], [condition("id", any_of=equal(integer=123456789012345678))]),
    (["id>=-9223372036854775808"], [condition("id", lower=bound(integer=-(2**63)))]),
    (["id<18446744073709551615"], [condition("id", upper=bound(True, unsigned=2**64 - 1))]),
    (["id>=9007199254740993", "id>9007199254740993"], [
        condition("id", lower=bound(True, integer=2**53 + 1)),
    ]),
    (["id>9007199254740992", "id>=9007199254740993"], [condition("id", lower=bound(True, number=2**53))]),
    # Days are the whole of them, times are moments, and equality is of texts.
    (["day>=2000-12-31"], [condition("day", lower=bound(time=at("2000-12-31T00:00:00Z")))]),
    (["day<2000-12-31"], [condition("day", upper=bound(True, time=at("2000-12-31T00:00:00Z")))]),
    (["day<=2000-12-31"], [condition("day", upper=bound(time=END))]),
    (["day>2000-12-31"], [condition("day", lower=bound(True, time=END))]),
    (["day<=2000-12-31T10:00+02:00"], [condition("day", upper=bound(time=at("2000-12-31T08:00:00Z")))]),
    (["day>=2000-12-31", "day>5"], [
        condition("day", lower=bound(True, number=5)),
        condition("day", lower=bound(time=at("2000-12-31T00:00:00Z"))),
    ]),
    (["day=2000-12-31"], [condition("day", any_of=equal(text="2000-12-31"))]),
    # What is no number of JSON is text.
    (["zip=01234"], [condition("zip", any_of=equal(text="01234"))]),
    (["note=nan"], [condition("note", any_of=equal(text="nan"))]),
    (["n=-1.5e3"], [condition("n", any_of=equal(number=-1500))]),
    (['"a=b"=x'], [condition("a=b", any_of=equal(text="x"))]),
    (['a="=x"'], [condition("a", any_of=equal(text="=x"))]),
    (["dc:title=x"], [condition("dc:title", any_of=equal(text="x"))]),
    (["colour="], [condition("colour", any_of=equal(text=""))]),
]  # fmt: skip


@pytest.mark.parametrize(("written", "meant"), MEANT, ids=[" ".join(written) for written, _ in MEANT])
def test_conditions_are_what_they_look_like(written: list[str], meant: list[pb.AttributeCondition]) -> None:
    message = filter_message([], written, [], [])
    assert message is not None
    assert list(message.attributes) == meant
    filter_of(message)  # a server takes it


@pytest.mark.parametrize("bad", ["year", ">=3", "year>=soon", "=x", "year in 1,2", "year>="])
def test_what_is_no_condition_is_named(bad: str) -> None:
    with pytest.raises(typer.BadParameter, match=bad):
        filter_message([], [bad], [], [])


@pytest.mark.parametrize(
    ("bad", "right"),
    [
        ("year==1999", "== is no operator, write = "),
        ("year=>1999", "=> is no operator, write >= "),
        ("year=<1999", "=< is no operator, write <= "),
        ("year<>1999", "<> is no operator, write != "),
        ("year =! 1999", "=! is no operator, write != "),
        ("year:=1999", ":= is no operator, write = "),
        ("year~=1999", "~= is no operator, there are = != >= <= > < "),
        ("colour=~red", "=~ is no operator"),
        ("id=18446744073709551616", "18446744073709551616 has more than 64 bits"),
        ("id>=-9223372036854775809", "has more than 64 bits"),
        ("id=1" + 5000 * "0", "has more than 64 bits"),
        ("n<1e400", "1e400 is beyond all numbers"),
        ("day>2000-02-30", "'2000-02-30' is neither a number nor a date"),
        ("day>=0001-01-01T00:00+14:00", "0001-01-01T00:00"),
    ],
)
def test_what_is_no_operator_or_value_is_named_with_the_right_spelling(bad: str, right: str) -> None:
    with pytest.raises(typer.BadParameter) as told:
        filter_message([], [bad], [], [])
    assert right in str(told.value)
    assert repr(bad) in str(told.value)
