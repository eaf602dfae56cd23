"""The filter of a request, with every bound that a client could overstep."""

import math
from collections.abc import Iterator

from indexer.filters import Filter, FilterError, Value
from server.invalid import InvalidRequestError, checked_id
from server.pb.triptych.v1 import triptych_pb2 as pb

MAX_KINDS = 100
MAX_CONDITIONS = 32
MAX_VALUES = 1_000
MAX_FILTER_IDS = 10_000
MAX_VALUE_BYTES = 1_000


def filter_of(wanted: pb.Filter) -> Filter | None:
    """Return the filter that a message means, None for one that says nothing.

    Raises:
        InvalidRequestError: a field is malformed or beyond its bound.
    """
    _bounded("filter.kinds", len(wanted.kinds), MAX_KINDS)
    _bounded("filter.attributes", len(wanted.attributes), MAX_CONDITIONS)
    conditions = [_condition(f"filter.attributes[{i}]", one) for i, one in enumerate(wanted.attributes)]
    try:
        meant = Filter(
            kinds=tuple(_text(f"filter.kinds[{i}]", kind) for i, kind in enumerate(wanted.kinds)),
            equals=tuple((name, values) for name, values, _ in conditions if values),
            ranges=tuple((name, *ends) for name, _, ends in conditions if ends),
            allow=tuple(_ids("filter.allow", wanted.allow)) if wanted.HasField("allow") else None,
            deny=tuple(_ids("filter.deny", wanted.deny)),
        )
    except FilterError as error:
        raise InvalidRequestError(f"filter: {error}") from error
    return meant if meant != Filter() else None


def _condition(
    place: str, one: pb.AttributeCondition
) -> tuple[str, tuple[Value, ...], tuple[float, float] | None]:
    name = _text(f"{place}.name", one.name)
    _bounded(f"{place}.any_of", len(one.any_of), MAX_VALUES)
    values = tuple(_value(f"{place}.any_of[{i}]", value) for i, value in enumerate(one.any_of))
    ends = None
    if one.HasField("at_least") or one.HasField("at_most"):
        least = one.at_least if one.HasField("at_least") else -math.inf
        ends = (least, one.at_most if one.HasField("at_most") else math.inf)
    if not values and ends is None:
        raise InvalidRequestError(f"{place} asks nothing of {name!r}: set any_of, at_least or at_most")
    return name, values, ends


def _value(place: str, value: pb.AttributeValue) -> Value:
    kind = value.WhichOneof("value")
    if kind == "text":
        return _text(place, value.text, least=0)
    if kind == "number":
        if math.isnan(value.number):
            raise InvalidRequestError(f"{place} is no number")
        return value.number
    if kind == "truth":
        return value.truth
    raise InvalidRequestError(f"{place} is empty: set text, number or truth")


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
