"""The attributes of an item: one rule for what may be written and what can be read."""

import json
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

MAX_CHARS = 1_000_000  # of JSON text, in imports and writes; an old store may hold longer ones
MAX_LEVELS = 64  # of nested lists and objects
MAX_VALUES = 100_000
MAX_NAME_BYTES = 1_000  # of the path to a value; filters accept no longer name
_MAX_NAMED = 10  # items in one message

Attributes = dict[str, Any]
Owner = TypeVar("Owner", bound=Hashable)


class BadAttributesError(ValueError):
    """Attributes that filters could not apply correctly; the message has no value of them."""


def parse_attributes(text: str) -> Attributes:
    """Parse the JSON text of attributes.

    It must be an object. Numbers are in the range of a double (whole ones keep every digit), names occur once
    in each object, and no name or text holds nul or half a surrogate pair. NaN and Infinity, which data
    frames write where a number is missing, are read as null.

    Raises:
        BadAttributesError: it is something else, or beyond a bound of this module.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise _too_deep() from error
    except BadAttributesError:
        raise
    except ValueError as error:
        raise BadAttributesError(f"it cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise BadAttributesError("it is no JSON object")
    # Only an escape can mean nul or half a pair: JSON has no bare control characters, UTF-8 no halves.
    _check(value, escapes="\\u" in text)
    return value


def usable_attributes(
    attributes: Iterable[tuple[Owner, str]],
) -> tuple[dict[Owner, Attributes], dict[Owner, str]]:
    """Parse the JSON text of each owner; return the attributes, and the reasons where they cannot be used."""
    usable, reasons = dict[Owner, Attributes](), dict[Owner, str]()
    for owner, text in attributes:
        try:
            usable[owner] = parse_attributes(text)
        except BadAttributesError as error:
            reasons[owner] = str(error)
    return usable, reasons


def named_values(attributes: Attributes) -> Iterator[tuple[str, Any]]:
    """Yield texts, numbers and truth values of attributes with dotted names; of a list each element."""
    for name, value in attributes.items():
        yield from _flat(name, value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _flat(f"{name}.{key}", member)
    elif isinstance(value, list):
        for member in value:
            yield from _flat(name, member)
    elif value is not None:
        yield name, value


def left_out_message(reasons: Mapping[str, str]) -> str:
    """Return a message that names the first ten items that are left out, with the reasons."""
    named = [f"{item_id!r} ({why})" for item_id, why in list(reasons.items())[:_MAX_NAMED]]
    if len(reasons) > _MAX_NAMED:
        named.append(f"and {len(reasons) - _MAX_NAMED:,} more")
    return f"attributes that cannot be used, so the item is left out: {', '.join(named)}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise BadAttributesError("a name occurs twice in an object")
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=lambda _: None)


def _check(attributes: dict[str, Any], *, escapes: bool) -> None:
    """Check parsed JSON against the bounds of this module.  Raises: BadAttributesError."""
    count = 0
    to_check: list[tuple[Any, int, int]] = [(attributes, 0, -1)]  # value, levels around it, bytes of its path
    while to_check:
        value, levels, path_bytes = to_check.pop()
        if isinstance(value, dict | list):
            if levels == MAX_LEVELS:
                raise _too_deep()
            count += len(value)
            if count > MAX_VALUES:
                raise BadAttributesError(f"it has more than {MAX_VALUES:,} values")
            if isinstance(value, list):
                to_check += [(one, levels + 1, path_bytes) for one in value]
                continue
            for name, one in value.items():
                if escapes:
                    _check_text(name)
                size = path_bytes + 1 + len(name.encode())
                if size > MAX_NAME_BYTES:
                    raise BadAttributesError(f"a name has {size:,} bytes, more than {MAX_NAME_BYTES:,}")
                to_check.append((one, levels + 1, size))
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
