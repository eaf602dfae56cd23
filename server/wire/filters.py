"""The filter of a request, with every bound that a client could overstep."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from indexer.filters.attribute_index import Moment, Number, Value
from indexer.filters.filter import Filter, FilterError, above, below
from server.pb.triptych.v1 import triptych_pb2 as pb
from server.status import InvalidRequestError
from server.wire.bounds import checked_id, checked_time

MAX_KINDS = 100
MAX_CONDITIONS = 32
MAX_VALUES = 1_000
MAX_FILTER_IDS = 10_000
MAX_VALUE_BYTES = 1_000

_ANY_NUMBER = (-math.inf, math.inf)
_ANY_TIME = (Moment(-(2**63)), Moment(2**63 - 1))


def filter_of(message: pb.Filter) -> Filter | None:
    """Translate a filter; None for a message without a condition.

    Raises:
        InvalidRequestError: a field is malformed or beyond its bound.
    """
    _bounded("filter.kinds", len(message.kinds), MAX_KINDS)
    _bounded("filter.attributes", len(message.attributes), MAX_CONDITIONS)
    conditions = [_condition(f"filter.attributes[{i}]", one) for i, one in enumerate(message.attributes)]
    try:
        item_filter = Filter(
            kinds=tuple(_text(f"filter.kinds[{i}]", kind) for i, kind in enumerate(message.kinds)),
            equals=tuple((one.name, one.any_of) for one in conditions if one.any_of),
            ranges=tuple((one.name, *one.numbers) for one in conditions if one.numbers != _ANY_NUMBER),
            allow=tuple(_ids("filter.allow", message.allow)) if message.HasField("allow") else None,
            deny=tuple(_ids("filter.deny", message.deny)),
            times=tuple((one.name, *one.times) for one in conditions if one.times != _ANY_TIME),
            unequal=tuple((one.name, one.none_of) for one in conditions if one.none_of),
        )
    except FilterError as error:
        raise InvalidRequestError(f"filter: {error}") from error
    return item_filter if item_filter != Filter() else None


@dataclass(frozen=True)
class _Condition:
    name: str
    any_of: tuple[Value, ...]
    none_of: tuple[Value, ...]
    numbers: tuple[Number, Number]
    times: tuple[Moment, Moment]


def _condition(place: str, one: pb.AttributeCondition) -> _Condition:
    name = _text(f"{place}.name", one.name)
    condition = _Condition(
        name, _values(place, one, "any_of"), _values(place, one, "none_of"), *_ends(place, one)
    )
    bounded = condition.numbers != _ANY_NUMBER or condition.times != _ANY_TIME
    if not condition.any_of and not condition.none_of and not bounded:
        raise InvalidRequestError(
            f"{place} asks nothing of {name!r}: set any_of, none_of, at_least, at_most, lower or upper"
        )
    return condition


def _values(place: str, one: pb.AttributeCondition, field: str) -> tuple[Value, ...]:
    values = getattr(one, field)
    _bounded(f"{place}.{field}", len(values), MAX_VALUES)
    return tuple(_value(f"{place}.{field}[{i}]", value) for i, value in enumerate(values))


def _ends(place: str, one: pb.AttributeCondition) -> tuple[tuple[Number, Number], tuple[Moment, Moment]]:
    """Return the least and greatest number, and the first and last moment, that pass the condition."""
    least: list[Number] = [one.at_least] if one.HasField("at_least") else []
    greatest: list[Number] = [one.at_most] if one.HasField("at_most") else []
    first, last = _ANY_TIME
    if one.HasField("lower"):
        end = _end(f"{place}.lower", one.lower)
        if isinstance(end, Moment):
            first = Moment(end + one.lower.exclusive)
        else:
            least.append(above(end) if one.lower.exclusive else end)
    if one.HasField("upper"):
        end = _end(f"{place}.upper", one.upper)
        if isinstance(end, Moment):
            last = Moment(end - one.upper.exclusive)
        else:
            greatest.append(below(end) if one.upper.exclusive else end)
    for end in least + greatest:
        if math.isnan(end):
            raise InvalidRequestError(
                f"{place}: the range of attribute {one.name!r} is empty: NaN is no number"
            )
    return (max(least, default=-math.inf), min(greatest, default=math.inf)), (first, last)


def _end(place: str, bound: pb.Bound) -> Number | Moment:
    value = _value(f"{place}.value", bound.value)
    if isinstance(value, str | bool):
        raise InvalidRequestError(f"{place}.value has no order: set number, integer, unsigned or time")
    return value


def _value(place: str, value: pb.AttributeValue) -> Value:
    match value.WhichOneof("value"):
        case "text":
            return _text(place, value.text, least=0)
        case "number":
            if math.isnan(value.number):
                raise InvalidRequestError(f"{place} is no number")
            return value.number
        case "truth":
            return value.truth
        case "integer":
            return value.integer
        case "unsigned":
            return value.unsigned
        case "time":
            checked_time(place, value.time)
            return Moment(value.time.seconds * 1_000_000 + value.time.nanos // 1_000)
    raise InvalidRequestError(f"{place} is empty: set text, number, truth, integer, unsigned or time")


def _ids(place: str, ids: pb.ItemIds) -> Iterator[str]:
    _bounded(f"{place}.item_ids", len(ids.item_ids), MAX_FILTER_IDS)
    for i, item_id in enumerate(ids.item_ids):
        yield checked_id(f"{place}.item_ids[{i}]", item_id)


def _text(place: str, value: str, least: int = 1) -> str:
    size = len(value.encode())
    if not least <= size <= MAX_VALUE_BYTES:
        raise InvalidRequestError(f"{place} has {size} bytes, not {least}..{MAX_VALUE_BYTES}")
    return value


def _bounded(place: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidRequestError(f"{place} has {count} entries, more than {most}")
