"""Filters over kinds, attributes and ids.

`filter.Filter` says what an item must be, and `filter.allowed_rows` turns it into rows. It asks an attribute
index: `attribute_index.AttributeIndex` is the memory-mapped one of the main part, written by its builder,
`MutableAttributeIndex` the one of the appended rows.
"""

from indexer.filters.attribute_index import (
    FACTS_LAYOUT,
    KIND,
    AttributeIndex,
    AttributeIndexBuilder,
    AttributesByRow,
    ItemTerms,
    Moment,
    MutableAttributeIndex,
    Number,
    ReindexNeededError,
    Value,
    moment_of,
    term,
    terms_of,
    truth,
)
from indexer.filters.filter import AttributeLookup, Filter, FilterError, above, allowed_rows, below

__all__ = [
    "FACTS_LAYOUT",
    "KIND",
    "AttributeIndex",
    "AttributeIndexBuilder",
    "AttributeLookup",
    "AttributesByRow",
    "Filter",
    "FilterError",
    "ItemTerms",
    "Moment",
    "MutableAttributeIndex",
    "Number",
    "ReindexNeededError",
    "Value",
    "above",
    "allowed_rows",
    "below",
    "moment_of",
    "term",
    "terms_of",
    "truth",
]
