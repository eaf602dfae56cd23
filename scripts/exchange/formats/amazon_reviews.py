"""Amazon reviews as JSON Lines: those of 2018 (reviewerID, asin) and of 2023 (user_id, parent_asin).

A review becomes a behaviour `rate` with the stars as weight, and a text of its title and words. Metadata
become items. Items are the parents of variants where the set has them, as its authors advise.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.exchange.lines import Lines
from scripts.exchange.records import Fields, JsonLines
from scripts.exchange.sources import Layout, NoSuchLayoutError, Row, SourceFile, files_below
from scripts.exchange.values import attributes_of, joined, text_of, time_of
from store.imports import UTF_8

_REVIEW = {
    "texts": ("user_id", "item_id", "text", "ts"),
    "behaviors": ("user_id", "item_id", "action", "weight", "ts"),
}
_PRODUCT = {"items": ("item_id", "title", "text", "kind", "attributes")}
_PRICE = re.compile(r"\s*\$?\s*(\d[\d,]*(?:\.\d+)?)\s*")
_PROBED_LINES = 20
_WANTED = (
    "JSON Lines of reviews (asin with reviewerID, or with user_id and rating) or of products (asin, title)"
)


def _find(path: Path, encoding: str | None) -> list[SourceFile]:
    reader = JsonLines(encoding or UTF_8)
    products, reviews = [], []
    for file in files_below(path, ".jsonl", ".json"):
        names = _names_in(file, reader)
        if "reviewerID" in names:
            reviews.append(SourceFile(file, _REVIEW, reader, _review_of_2018))
        elif {"user_id", "rating"} <= names:
            reviews.append(SourceFile(file, _REVIEW, reader, _review_of_2023))
        elif names & {"asin", "parent_asin"}:
            products.append(SourceFile(file, _PRODUCT, reader, _product))
    if not products + reviews:
        raise NoSuchLayoutError(path, "set of Amazon reviews", _WANTED)
    return products + reviews


def _names_in(path: Path, reader: JsonLines) -> set[str]:
    """Return the names in the first objects of a file."""
    names: set[str] = set()
    with Lines(path) as lines:
        for _, record in zip(range(_PROBED_LINES), reader.records(lines), strict=False):
            names |= set(record.fields or ())
    return names


def _review_of_2018(fields: Fields) -> Iterator[Row]:
    time = time_of(fields.get("unixReviewTime"))
    words = joined(fields.get("summary"), fields.get("reviewText"))
    yield from _review(fields.get("reviewerID"), fields.get("asin"), fields.get("overall"), words, time)


def _review_of_2023(fields: Fields) -> Iterator[Row]:
    time = time_of(fields.get("timestamp"), "ms")
    words = joined(fields.get("title"), fields.get("text"))
    item = fields.get("parent_asin") or fields.get("asin")
    yield from _review(fields.get("user_id"), item, fields.get("rating"), words, time)


def _review(user: Any, item: Any, stars: Any, words: str | None, time: Any) -> Iterator[Row]:
    pair = {"user_id": text_of(user), "item_id": text_of(item), "ts": time}
    yield "behaviors", {**pair, "action": "rate", "weight": text_of(stars)}
    if words is not None:
        yield "texts", {**pair, "text": words}


def _product(fields: Fields) -> Iterator[Row]:
    categories = fields.get("categories") or fields.get("category") or []
    price = _PRICE.fullmatch(str(fields.get("price") or ""))
    yield (
        "items",
        {
            "item_id": text_of(fields.get("parent_asin") or fields.get("asin")),
            "title": text_of(fields.get("title")),
            "text": joined(fields.get("features") or fields.get("feature"), fields.get("description")),
            "kind": "product",
            "attributes": attributes_of(
                categories=_texts(categories),
                main_category=_plain(fields.get("main_category") or fields.get("main_cat")),
                brand=_plain(fields.get("store") or fields.get("brand")),
                price=float(price[1].replace(",", "")) if price else None,
            ),
        },
    )


def _texts(value: Any) -> list[str]:
    """Return the texts of a list, of lists in it, too."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return []
    return list(dict.fromkeys(text for one in value for text in _texts(one)))


def _plain(value: Any) -> str | None:
    return value if isinstance(value, str) else None


AMAZON_REVIEWS = Layout(
    "amazon-reviews",
    _find,
    licence=(
        "Amazon Reviews 2018 and 2023 (McAuley Lab): no licence is stated; for research; cite the papers; "
        "reviews stay their authors' and Amazon's"
    ),
    checked="hand-made samples only",
)
