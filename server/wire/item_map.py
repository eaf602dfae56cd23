"""The map of an index as messages, and what colours its points."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from indexer.filters import Filter
from indexer.index import Index
from server.query import MOST_POINTS, ItemMap, groups_of
from server.status import InvalidRequestError
from server.wire.query import MAX_ID_BYTES
from store.attribute_summary import AttributeSummary, CatalogSummary
from triptych_client.pb.v1 import triptych_pb2 as pb

MOST_GROUPS = 8  # colours that people can tell apart
_POINTS_AT_ONCE = 20_000


def checked_map(request: pb.ReadMapRequest) -> int:
    """Return how many points are wanted.  Raises: InvalidRequestError."""
    if request.limit > MOST_POINTS:
        raise InvalidRequestError(f"limit is {request.limit}, more than {MOST_POINTS}", "limit")
    size = len(request.colour_by.encode())
    if size > 4 * MAX_ID_BYTES:
        raise InvalidRequestError(f"colour_by has {size} bytes, more than {4 * MAX_ID_BYTES}", "colour_by")
    return request.limit or MOST_POINTS


def map_replies(
    index: Index, found: ItemMap, points: int, colour_by: str, catalog: Callable[[], CatalogSummary]
) -> Iterator[pb.ReadMapResponse]:
    """Yield a map as messages: the axes, then the points.

    Args:
        index: of the map.
        found: the map.
        points: at most so many, evenly out of all.
        colour_by: an attribute; "" for the kind.
        catalog: tells the values that there are.

    Raises:
        InvalidRequestError: the attribute has neither texts, nor truth values, nor numbers.
        ReindexNeededError: as `groups_of`.
    """
    names, filters, ranges = _groups(colour_by, catalog())
    groups = groups_of(index, found, filters)
    chosen = slice(None, None, max(1, -(-len(found.rows) // points)))
    rows, places, groups = found.rows[chosen], found.places[chosen], groups[chosen]
    yield pb.ReadMapResponse(
        axes=pb.MapAxes(
            index_id=index.index_id,
            model_id=index.model_id,
            first=found.axes[0],
            second=found.axes[1],
            mean=found.mean,
            explained=found.explained,
            items=found.items,
            points=len(rows),
            groups=names,
            ranges=ranges,
        )
    )
    for start in range(0, len(rows), _POINTS_AT_ONCE):
        some = slice(start, start + _POINTS_AT_ONCE)
        yield pb.ReadMapResponse(
            points=pb.MapPoints(
                item_ids=index.item_ids(rows[some], found.state),
                places=places[some].astype("<f4").tobytes(),
                groups=groups[some].tobytes(),
            )
        )


def _groups(colour_by: str, catalog: CatalogSummary) -> tuple[list[str], list[Filter], bool]:
    """Return the names of the groups, what passes into each, and whether they are ranges."""
    if not colour_by:
        kinds = [kind for kind, _ in catalog.kinds[:MOST_GROUPS]]
        return kinds, [Filter(kinds=(kind,)) for kind in kinds], False
    of_name = [one for one in catalog.attributes if one.name == colour_by and one.type != "time"]
    if not of_name:
        raise InvalidRequestError(
            "no item has such an attribute with texts, truth values or numbers", "colour_by"
        )
    summary = max(of_name, key=lambda one: one.items)
    if summary.type == "number":
        return _ranges(summary)
    values = [value for value, _ in summary.frequent[:MOST_GROUPS]]
    is_truth = summary.type == "truth"
    filters = [Filter(equals=((colour_by, (value == "true" if is_truth else value,)),)) for value in values]
    return values, filters, False


def _ranges(summary: AttributeSummary) -> tuple[list[str], list[Filter], bool]:
    """Return ranges of a number with about as many items in each."""
    ends: Sequence[float] = sorted({*summary.edges})
    names, filters = [], []
    for low, high in pairwise(ends):
        last = high == ends[-1]
        names.append(f"{low:g} – {high:g}" if last else f"{low:g} – < {high:g}")
        below = high if last else math.nextafter(high, -math.inf)
        filters.append(Filter(ranges=((summary.name, low, below),)))
    if len(ends) == 1:
        return [f"{ends[0]:g}"], [Filter(ranges=((summary.name, ends[0], ends[0]),))], True
    return names, filters, True
