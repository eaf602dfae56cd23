"""The classes of items, read from their attributes by a dotted path, or from their kind."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from encoder.arrays import IntArray
from encoder.views import FloatArray

KIND = "kind"
ATTRIBUTES = "attributes"
_NAMED = 20

Attributes = Sequence[Mapping[str, Any] | None]


class LabelError(ValueError):
    """A label cannot be predicted: it is missing, of the wrong form, or has too few or too many classes."""

    def __init__(self, label: str | None, reason: str) -> None:
        super().__init__(f"label {label!r}: {reason}")
        self.label = label
        self.reason = reason


@dataclass(frozen=True)
class ItemLabels:
    """The classes of every item.

    Attributes:
        classes: their names, sorted; a class row is a position in them.
        shares: (N, C) float64; a row sums to 1, equally over the item's classes, or to 0 where it has none.
    """

    classes: tuple[str, ...]
    shares: "sparse.csr_array[np.float64]"

    def padded(self) -> tuple[IntArray, FloatArray]:
        """Return the classes (N, m) int64 of each item and their shares (N, m) float32.

        m is the largest number of classes of an item, 1 at least; where an item has fewer, class 0 fills up
        with share 0.
        """
        counts = np.diff(self.shares.indptr)
        shape = len(counts), max(1, int(counts.max(initial=0)))
        there = np.arange(shape[1]) < counts[:, None]  # (N, m)
        classes, shares = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        classes[there], shares[there] = self.shares.indices, self.shares.data
        return classes, shares


def item_labels(
    label: str | None, attributes: Attributes, kinds: Sequence[str | None], max_classes: int
) -> ItemLabels:
    """Read the classes of items from a label.

    A list names several classes, which share the item; null and an empty list name none. Numbers and truth
    values are classes by their JSON text.

    Args:
        label: `kind`, or a path below the attributes, such as `attributes.genre`.
        attributes: JSON object of each item, or None.
        kinds: kind of each item, or None; as long as `attributes`.
        max_classes: more are refused.

    Raises:
        LabelError: no label, a path of another form, an attribute that no item has (the error names those
            that occur) or that holds an object, fewer than two classes, or more than `max_classes`.
    """
    if len(attributes) != len(kinds):
        raise LabelError(label, f"{len(attributes)} items have attributes, but {len(kinds)} have kinds")
    named = [_classes(label, *item) for item in zip(attributes, kinds, strict=True)]
    classes = tuple(sorted({name for names in named for name in names}))
    if not classes:
        paths = sorted({path for one in attributes if one for path in _paths(one, ATTRIBUTES)})
        others = [KIND, *paths] if any(kinds) else paths
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        raise LabelError(
            label, f"no item has it; items have {', '.join(others[:_NAMED]) or 'no attributes'}{more}"
        )
    if len(classes) < 2:
        raise LabelError(label, f"its only class is {classes[0]!r}; there must be two to tell apart")
    if len(classes) > max_classes:
        raise LabelError(label, f"it has {len(classes)} classes, more than max_classes = {max_classes}")
    row_of = {name: row for row, name in enumerate(classes)}
    items = np.repeat(np.arange(len(named)), [len(names) for names in named])
    rows = np.array([row_of[name] for names in named for name in names], dtype=np.int64)
    shares = np.array([1 / len(names) for names in named for _ in names])
    return ItemLabels(classes, sparse.csr_array((shares, (items, rows)), shape=(len(named), len(classes))))


def _classes(label: str | None, attributes: Mapping[str, Any] | None, kind: str | None) -> list[str]:
    """Return the different classes of one item, sorted."""
    if label == KIND:
        return [kind] if kind else []
    root, _, path = (label or "").partition(".")
    if root != ATTRIBUTES or not path:
        raise LabelError(label, f"it is neither {KIND!r} nor a path such as '{ATTRIBUTES}.genre'")
    value: Any = attributes
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        raise LabelError(
            label, f"it holds an object; name one of its keys: {', '.join(_paths(value, label))}"
        )
    values = value if isinstance(value, list) else [value]
    return sorted({_name(label, one) for one in values if one is not None})


def _name(label: str | None, value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int() | float():
            return str(value)
        case _:
            raise LabelError(
                label, f"{value!r} in a list is no class; classes are text, numbers, true or false"
            )


def _paths(value: Mapping[str, Any], prefix: str | None) -> Iterator[str]:
    """Yield the dotted path of every leaf below an object."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _paths(inner, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}"
