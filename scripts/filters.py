"""Filters as they are written on the command line."""

import re
from collections.abc import Sequence

import typer

from server.pb.triptych.v1 import triptych_pb2 as pb

_CONDITION = re.compile(r"(?P<name>[^<>=]+?)\s*(?P<sign><=|>=|=)\s*(?P<value>.*)", re.DOTALL)


def filter_message(
    kinds: Sequence[str], conditions: Sequence[str], only: Sequence[str], without: Sequence[str]
) -> pb.Filter | None:
    """Return the filter that options mean, None where none is given.

    Args:
        kinds: any of which an item is.
        conditions: like year>=1999, colour=red, sold=true; several `=` of one attribute are alternatives.
        only: the only items allowed, where there are any.
        without: items not allowed.

    Raises:
        typer.BadParameter: a condition is not of that form.
    """
    by_name: dict[str, pb.AttributeCondition] = {}
    for written in conditions:
        match = _CONDITION.fullmatch(written.strip())
        if match is None:
            raise typer.BadParameter(f"{written!r} is no condition like year>=1999 or colour=red")
        name, sign, text = match["name"], match["sign"], match["value"]
        condition = by_name.setdefault(name, pb.AttributeCondition(name=name))
        if sign == "=":
            condition.any_of.append(_value(text))
        elif sign == ">=":
            condition.at_least = _number(written, text)
        else:
            condition.at_most = _number(written, text)
    if not (kinds or conditions or only or without):
        return None
    return pb.Filter(
        kinds=kinds,
        attributes=list(by_name.values()),
        allow=pb.ItemIds(item_ids=only) if only else None,
        deny=pb.ItemIds(item_ids=without),
    )


def _value(text: str) -> pb.AttributeValue:
    """Return a number or a truth value where the text is one, and a text in quotes to the letter."""
    if text in ("true", "false"):
        return pb.AttributeValue(truth=text == "true")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return pb.AttributeValue(text=text[1:-1])
    try:
        return pb.AttributeValue(number=float(text))
    except ValueError:
        return pb.AttributeValue(text=text)


def _number(written: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{written!r}: {text!r} is no number") from error
