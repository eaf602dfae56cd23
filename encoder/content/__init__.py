"""What is known of an item besides who chose it: its text, its attributes, and a vector that the user brings.

`content` holds the three parts as arrays, `attributes` turns kind and attributes into numbers. `maps` regresses
item vectors on them, one map for each combination of parts, and is what encodes an item that nobody has
touched; `choose` chooses its settings on held-out rows.
"""

from encoder.content.attributes import AttributeEncoder, AttributeEncoding, Described
from encoder.content.content import PARTS, ItemContent, combinations_of, patterns_of
from encoder.content.maps import ContentMaps, ContentSettings, ContentTower

__all__ = [
    "PARTS",
    "AttributeEncoder",
    "AttributeEncoding",
    "ContentMaps",
    "ContentSettings",
    "ContentTower",
    "Described",
    "ItemContent",
    "combinations_of",
    "patterns_of",
]
