import pytest
import typer

from scripts.filters import filter_message
from server.pb.triptych.v1 import triptych_pb2 as pb


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


@pytest.mark.parametrize("bad", ["year", ">=3", "year>=soon", "=x"])
def test_what_is_no_condition_is_named(bad: str) -> None:
    with pytest.raises(typer.BadParameter, match=bad):
        filter_message([], [bad], [], [])
