"""Filters over kinds, attributes and ids.

`filter.Filter` says what an item must be, and `filter.allowed_rows` turns it into rows. It asks an attribute
index: `attribute_index.AttributeIndex` is the memory-mapped one of the main part, written by its builder,
`MutableAttributeIndex` the one of the appended rows.
"""
