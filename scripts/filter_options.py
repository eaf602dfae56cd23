"""Filters from the options of the command line: year>=1999, colour=red."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from indexer.filters import Moment, Number, above, below, moment_of
from triptych_client.pb.v1 import triptych_pb2 as pb

_CONDITION = re.compile(
    r"""(?:"(?P<quoted>[^"]+)"|(?P<name>[^<>=!"][^<>=!]*?))\s*(?P<sign>[~:]?[<>=!][<>=!~]*)\s*(?P<value>.*)""",
    re.DOTALL,
)
_SIGNS = ("=", "!=", ">=", "<=", ">", "<")
_SPELLINGS = {
    **dict.fromkeys(("==", "===", ":="), "="),
    **dict.fromkeys(("<>", "!==", "=!", "><", "!"), "!="),
    **dict.fromkeys(("=>", ">=="), ">="),
    **dict.fromkeys(("=<", "<=="), "<="),
    ">>": ">",
    "<<": "<",
}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # as JSON has it: 01234 is text
_EXACT = 2**53
_DAY = timedelta(days=1) // timedelta(microseconds=1)
_FORM = "a condition like year>=1999, colour=red, id!=7 or released<2000-01-01"

_Bounds = dict[str, tuple[Number | Moment, pb.Bound]]  # "lower" and "upper"; the last value within each


@dataclass
class _Conditions:
    """The conditions on one attribute."""

    any_of: list[pb.AttributeValue] = field(default_factory=list)
    none_of: list[pb.AttributeValue] = field(default_factory=list)
    numbers: _Bounds = field(default_factory=dict)
    moments: _Bounds = field(default_factory=dict)


def filter_message(
    kinds: Sequence[str], conditions: Sequence[str], only: Sequence[str], without: Sequence[str]
) -> pb.Filter | None:
    """Return the filter that options name, None without any.

    Args:
        kinds: any of which an item is.
        conditions: a name, one of = != >= <= > <, and a value: year>=1999, colour=red, sold=true. Several `=`
            of one attribute are alternatives, all else must hold. A number is one as JSON has it; what else
            is compared by its order is a date or a time, where a date is the whole day in UTC. A name or
            value in quotes is text to the letter.
        only: the only items allowed, where there are any.
        without: items not allowed.

    Raises:
        typer.BadParameter: a condition is not of that form; names it, and the right spelling of an operator.
    """
    by_name: dict[str, _Conditions] = {}
    for written in conditions:
        name, sign, text = _read(written)
        one = by_name.setdefault(name, _Conditions())
        if sign == "=":
            one.any_of.append(_value(written, text))
        elif sign == "!=":
            one.none_of.append(_value(written, text))
        else:
            _narrow(one, sign, written, text)
    if not (kinds or conditions or only or without):
        return None
    return pb.Filter(
        kinds=kinds,
        attributes=[message for name, one in by_name.items() for message in _messages(name, one)],
        allow=pb.ItemIds(item_ids=only) if only else None,
        deny=pb.ItemIds(item_ids=without),
    )


def _read(written: str) -> tuple[str, str, str]:
    """Return name, operator and value.  Raises: typer.BadParameter."""
    match = _CONDITION.fullmatch(written.strip())
    if match is None:
        raise typer.BadParameter(f"{written!r} is not {_FORM}")
    sign = match["sign"]
    if sign not in _SIGNS:
        right = f"write {_SPELLINGS[sign]}" if sign in _SPELLINGS else f"there are {' '.join(_SIGNS)}"
        raise typer.BadParameter(
            f"{written!r}: {sign} is no operator, {right} (a value that begins so goes in quotes)"
        )
    return match["quoted"] or match["name"], sign, match["value"]


def _value(written: str, text: str) -> pb.AttributeValue:
    """Return a number or a truth value where the text is one, and a text in quotes to the letter."""
    if text in ("true", "false"):
        return pb.AttributeValue(truth=text == "true")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return pb.AttributeValue(text=text[1:-1])
    number = _number(written, text)
    return pb.AttributeValue(text=text) if number is None else _of_number(number)


def _narrow(one: _Conditions, sign: str, written: str, text: str) -> None:
    """Add one end of a range; the narrower of two stays.  Raises: typer.BadParameter."""
    side, exclusive = ("lower" if sign[0] == ">" else "upper"), len(sign) == 1
    number, moment = _number(written, text), moment_of(text)
    if number is not None:
        value, bounds = _of_number(number), one.numbers
        last: Number | Moment = (
            number if not exclusive else above(number) if side == "lower" else below(number)
        )
    elif moment is not None:
        if "T" not in text and " " not in text and sign in ("<=", ">"):
            moment = Moment(moment + _DAY - 1)  # the end of the day
        value, bounds = pb.AttributeValue(time=_stamp(written, moment)), one.moments
        last = Moment(moment + (exclusive if side == "lower" else -exclusive))
    else:
        raise typer.BadParameter(f"{written!r}: {text!r} is neither a number nor a date like 2000-01-31")
    known = bounds.get(side)
    if known is None or (last > known[0] if side == "lower" else last < known[0]):
        bounds[side] = last, pb.Bound(value=value, exclusive=exclusive)


def _messages(name: str, one: _Conditions) -> list[pb.AttributeCondition]:
    """Return the conditions of one attribute; all of them must hold.

    Ends go as at_least and at_most where these suffice: older servers know no others.
    """
    ranges = _ranges(one.numbers) + _ranges(one.moments)
    found = [pb.AttributeCondition(name=name) for _ in range(max(1, len(ranges)))]
    found[0].any_of.extend(one.any_of)
    found[0].none_of.extend(one.none_of)
    for condition, ends in zip(found, ranges, strict=False):
        for side, (_, bound) in ends.items():
            if bound.value.HasField("number") and not bound.exclusive:
                setattr(condition, "at_least" if side == "lower" else "at_most", bound.value.number)
            else:
                getattr(condition, side).CopyFrom(bound)
    return found


def _ranges(bounds: _Bounds) -> list[_Bounds]:
    """Return a range, if any; its ends apart where no value is within both, which finds nothing."""
    if len(bounds) == 2 and bounds["lower"][0] > bounds["upper"][0]:
        return [{side: end} for side, end in bounds.items()]
    return [bounds] if bounds else []


def _number(written: str, text: str) -> Number | None:
    """Return the number that a text spells, None where it spells none.  Raises: typer.BadParameter."""
    if _INTEGER.fullmatch(text):
        number = int(text) if len(text) < 30 else 2**64
        if not -(2**63) <= number < 2**64:
            raise typer.BadParameter(
                f"{written!r}: {text} has more than 64 bits; if it is text, put it in quotes"
            )
        return number
    if not _DECIMAL.fullmatch(text):
        return None
    if math.isinf(float(text)):
        raise typer.BadParameter(
            f"{written!r}: {text} is beyond all numbers; if it is text, put it in quotes"
        )
    return float(text)


def _of_number(number: Number) -> pb.AttributeValue:
    if isinstance(number, float) or abs(number) <= _EXACT:
        return pb.AttributeValue(number=number)
    return pb.AttributeValue(integer=number) if number < 2**63 else pb.AttributeValue(unsigned=number)


def _stamp(written: str, moment: Moment) -> Timestamp:
    stamp = Timestamp()
    try:
        stamp.FromMicroseconds(moment)
    except ValueError as error:  # by its offset it is before the year 1 or after 9999
        raise typer.BadParameter(f"{written!r}: {error}") from error
    return stamp
