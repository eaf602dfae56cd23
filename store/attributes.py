"""What the attributes of an item may be: one rule for what is written and for what is read."""

import json
import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

MAX_CHARS = 1_000_000  # of JSON text that is written; a store may hold more from before
MAX_LEVELS = 64  # of lists and objects in each other
MAX_VALUES = 100_000
MAX_NAME_BYTES = 1_000  # of a name with those around it, as filters know it: they take none that is longer
_NAMED = 10  # items in one message

Attributes = dict[str, Any]
Owner = TypeVar("Owner", bound=Hashable)


class BadAttributesError(ValueError):
    """Attributes that a filter could not be right about; says why, without any of their values."""


def parse_attributes(text: str) -> Attributes:
    """Return the attributes that JSON text means.

    A JSON object whose numbers are within the range of a double (whole ones keep every digit), whose names
    occur once in each object, and whose names and texts hold neither nul nor half a surrogate pair. NaN and
    Infinity, which data frames write where a number is missing, are read as null.

    Raises:
        BadAttributesError: it is something else, or beyond a bound of this module.
    """
    try:
        found = _DECODER.decode(text)
    except RecursionError as error:
        raise _too_deep() from error
    except BadAttributesError:
        raise
    except ValueError as error:
        raise BadAttributesError(f"it cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadAttributesError("it is no JSON object")
    # Only an escape stands for a nul or half a pair: JSON has no bare control character, UTF-8 no half.
    _check(found, escapes="\\u" in text)
    return found


def usable_attributes(
    attributes: Iterable[tuple[Owner, str]],
) -> tuple[dict[Owner, Attributes], dict[Owner, str]]:
    """Return, of pairs of an owner and JSON text, the attributes that can be used, and why others cannot."""
    usable, reasons = dict[Owner, Attributes](), dict[Owner, str]()
    for owner, text in attributes:
        try:
            usable[owner] = parse_attributes(text)
        except BadAttributesError as error:
            reasons[owner] = str(error)
    return usable, reasons


def left_out_message(reasons: Mapping[str, str]) -> str:
    """Return a sentence that names the first ten of the items that are left out, and why."""
    named = [f"{item_id!r} ({why})" for item_id, why in list(reasons.items())[:_NAMED]]
    if len(reasons) > _NAMED:
        named.append(f"and {len(reasons) - _NAMED:,} more")
    return f"attributes that cannot be used, so the item is left out: {', '.join(named)}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise BadAttributesError("a name occurs twice in an object")
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=lambda _: None)


def _check(attributes: dict[str, Any], *, escapes: bool) -> None:
    """Raise BadAttributesError where parsed JSON is beyond a bound or has what cannot be used."""
    values = 0
    open_values: list[tuple[Any, int, int]] = [
        (attributes, 0, -1)
    ]  # value, levels around it, bytes of its name
    while open_values:
        value, levels, size = open_values.pop()
        if isinstance(value, dict | list):
            if levels == MAX_LEVELS:
                raise _too_deep()
            values += len(value)
            if values > MAX_VALUES:
                raise BadAttributesError(f"it has more than {MAX_VALUES:,} values")
            if isinstance(value, list):
                open_values += [(one, levels + 1, size) for one in value]
                continue
            for name, one in value.items():
                if escapes:
                    _check_text(name)
                long = size + 1 + len(name.encode())
                if long > MAX_NAME_BYTES:
                    raise BadAttributesError(f"a name has {long:,} bytes, more than {MAX_NAME_BYTES:,}")
                open_values.append((one, levels + 1, long))
        elif isinstance(value, str):
            if escapes:
                _check_text(value)
        elif isinstance(value, int | float) and not _in_range(value):
            raise BadAttributesError("a number is beyond the range of a double")


def _in_range(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer
        return False


def _check_text(text: str) -> None:
    if "\0" in text:
        raise BadAttributesError("a text holds nul")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadAttributesError("a text holds half of a surrogate pair") from error


def _too_deep() -> BadAttributesError:
    return BadAttributesError(f"it is nested deeper than {MAX_LEVELS} levels")
