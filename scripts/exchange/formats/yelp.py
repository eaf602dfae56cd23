"""The Yelp Open Dataset: businesses, reviews, tips and friends, all three views.

Reviews become behaviours `rate` with the stars as weight and texts, tips behaviours `tip` and texts. Of
people only the friends are read: no names, no counts. Check-ins name nobody and photos need more than text;
both are left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from scripts.exchange.records import Fields, JsonLines
from scripts.exchange.sources import BadRecordError, Layout, NoSuchLayoutError, Row, SourceFile, file_at
from scripts.exchange.values import attributes_of, joined, text_of, written_time
from store.imports import UTF_8

_BUSINESS = {"items": ("item_id", "title", "text", "kind", "attributes", "available")}
_WRITTEN = {
    "texts": ("user_id", "item_id", "text", "ts"),
    "behaviors": ("user_id", "item_id", "action", "weight", "ts"),
}
_FRIENDS = {"social": ("user_id", "friend_id")}


def _find(path: Path, encoding: str | None) -> list[SourceFile]:
    reader = JsonLines(encoding or UTF_8)
    files = [
        SourceFile(file, columns, reader, rows)
        for kind, columns, rows in _KINDS
        if (file := file_at(path, f"yelp_academic_dataset_{kind}.json", f"{kind}.json"))
    ]
    if not files:
        raise NoSuchLayoutError(
            path, "Yelp Open Dataset", "yelp_academic_dataset_business.json, …_review, …_tip and …_user.json"
        )
    return files


def _business(fields: Fields) -> Iterator[Row]:
    categories = fields.get("categories") or ""
    if not isinstance(categories, str):
        raise BadRecordError("bad_categories")
    names = [one.strip() for one in categories.split(",") if one.strip()]
    place = joined(fields.get("city"), fields.get("state"), between=", ")
    yield (
        "items",
        {
            "item_id": text_of(fields.get("business_id")),
            "title": text_of(fields.get("name")),
            "text": joined(f"Categories: {', '.join(names)}" if names else None, place),
            "kind": "business",
            "available": "false" if fields.get("is_open") == 0 else "true",
            "attributes": attributes_of(
                categories=names,
                city=fields.get("city"),
                state=fields.get("state"),
                stars=fields.get("stars"),
            ),
        },
    )


def _review(fields: Fields) -> Iterator[Row]:
    yield from _written(fields, "rate", text_of(fields.get("stars")))


def _tip(fields: Fields) -> Iterator[Row]:
    yield from _written(fields, "tip", None)


def _written(fields: Fields, action: str, weight: str | None) -> Iterator[Row]:
    pair = {
        "user_id": text_of(fields.get("user_id")),
        "item_id": text_of(fields.get("business_id")),
        "ts": written_time(fields.get("date")),
    }
    yield "behaviors", {**pair, "action": action, "weight": weight}
    text = text_of(fields.get("text"))
    if text is not None:
        yield "texts", {**pair, "text": text}


def _user(fields: Fields) -> Iterator[Row]:
    friends = fields.get("friends") or ""
    if isinstance(friends, str):
        friends = [] if friends.strip() == "None" else friends.split(",")
    if not isinstance(friends, list):
        raise BadRecordError("bad_friends")
    user = text_of(fields.get("user_id"))
    for friend in dict.fromkeys(str(one).strip() for one in friends):
        if friend:
            yield "social", {"user_id": user, "friend_id": friend}


_KINDS: tuple[tuple[str, Mapping[str, Sequence[str]], Callable[[Fields], Iterator[Row]]], ...] = (
    ("business", _BUSINESS, _business),
    ("review", _WRITTEN, _review),
    ("tip", _WRITTEN, _tip),
    ("user", _FRIENDS, _user),
)
YELP = Layout(
    "yelp",
    _find,
    licence="Yelp Open Dataset: for academic use, by the Dataset User Agreement; never passed on",
    checked="hand-made samples only",
)
