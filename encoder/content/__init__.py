"""What is known of an item besides who chose it: its text, its attributes, and a vector that the user brings.

`content` holds the three parts as arrays; `words` turns item texts into numbers, beside the language
model, and `attributes` kinds and attributes. `maps` are regressions of item vectors on them, one for each
combination of parts: they encode an item that nobody has touched. Their settings are chosen in
`encoder/tower/cold_items.py`.
"""

from encoder.content.attributes import AttributeEncoder, AttributeEncoding, Described
from encoder.content.content import (
    INPUTS,
    INPUTS_OF,
    PARTS,
    ContentEncoder,
    ItemContent,
    RawContent,
    combinations_of,
    patterns_of,
)
from encoder.content.maps import ContentMaps, ContentSettings, ContentTower
from encoder.content.words import WordEncoder

__all__ = [
    "INPUTS",
    "INPUTS_OF",
    "PARTS",
    "AttributeEncoder",
    "AttributeEncoding",
    "ContentEncoder",
    "ContentMaps",
    "ContentSettings",
    "ContentTower",
    "Described",
    "ItemContent",
    "RawContent",
    "WordEncoder",
    "combinations_of",
    "patterns_of",
]
