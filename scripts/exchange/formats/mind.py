"""MIND, the Microsoft News Dataset: news.tsv and behaviors.tsv, of one part or of several folders.

What was shown becomes impressions with the query of the log's line; a click also a behaviour `click` at that
time. The history in a line lies before all that was logged, so it becomes clicks without a time, once for
each person.
"""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from scripts.exchange.records import Delimited, Fields
from scripts.exchange.sources import BadRecordError, Layout, NoSuchLayoutError, Row, SourceFile, files_below
from scripts.exchange.values import attributes_of, text_of, written_time
from store.imports import UTF_8

BAD_IMPRESSIONS = "bad_impressions"
_TIME = "%m/%d/%Y %I:%M:%S %p"
_NEWS = ("news", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
_LOG = ("impression", "user", "time", "history", "shown")
_MOST_KEPT = 4_000_000
_ITEM = {"items": ("item_id", "title", "text", "kind", "attributes")}
_SHOWN = {
    "impressions": ("user_id", "item_id", "ts", "position", "query_id", "clicked"),
    "behaviors": ("user_id", "item_id", "action", "ts"),
}


def _find(path: Path, encoding: str | None) -> list[SourceFile]:
    files = files_below(path, ".tsv")
    news = [file for file in files if file.name.startswith("news.tsv")]
    logs = [file for file in files if file.name.startswith("behaviors.tsv")]
    if not news + logs:
        raise NoSuchLayoutError(path, "MIND", "news.tsv and behaviors.tsv, there or in folders below")
    known, told = _Once(), _Once()
    found = []
    for file in news:
        reader = Delimited("\t", _NEWS, quotes=False, encoding=encoding or UTF_8, optional=3)
        found.append(SourceFile(file, _ITEM, reader, _News(known).rows))
    for file in logs:
        reader = Delimited("\t", _LOG, quotes=False, encoding=encoding or UTF_8)
        part = file.parent.name if len(logs) > 1 else ""  # numbers of lines begin anew in each part
        found.append(SourceFile(file, _SHOWN, reader, _Log(told, part).rows))
    return found


class _Once:
    """Knows what was there before, up to a number of keys; beyond it some may seem new again."""

    def __init__(self) -> None:
        self._keys: set[int] = set()

    def is_new(self, key: str) -> bool:
        digest = int.from_bytes(blake2b(key.encode(errors="replace"), digest_size=8).digest())
        if digest in self._keys:
            return False
        if len(self._keys) >= _MOST_KEPT:
            self._keys.clear()
        self._keys.add(digest)
        return True


class _News:
    """Rows of news; parts repeat them."""

    def __init__(self, known: _Once) -> None:
        self._known = known

    def rows(self, fields: Fields) -> Iterator[Row]:
        if not self._known.is_new("\t".join(value for value in fields.values())):
            return
        yield (
            "items",
            {
                "item_id": text_of(fields["news"]),
                "title": text_of(fields["title"]),
                "text": text_of(fields["abstract"]),
                "kind": "news",
                "attributes": attributes_of(category=fields["category"], subcategory=fields["subcategory"]),
            },
        )


class _Log:
    """Rows of a log of impressions; the lines of a person repeat the history."""

    def __init__(self, told: _Once, part: str) -> None:
        self._told, self._part = told, part

    def rows(self, fields: Fields) -> Iterator[Row]:
        user, time = text_of(fields["user"]), written_time(fields["time"], _TIME)
        query = f"{self._part}/{fields['impression']}" if self._part else fields["impression"]
        shown = [_shown(one) for one in fields["shown"].split()]
        if self._told.is_new(f"{user}\t{fields['history']}"):
            for item in dict.fromkeys(fields["history"].split()):
                yield "behaviors", {"user_id": user, "item_id": item, "action": "click", "ts": None}
        for position, (item, clicked) in enumerate(shown):
            pair = {"user_id": user, "item_id": item, "ts": time}
            yield (
                "impressions",
                {
                    **pair,
                    "position": str(position),
                    "query_id": query,
                    "clicked": "true" if clicked else "false",
                },
            )
            if clicked:
                yield "behaviors", {**pair, "action": "click"}


def _shown(one: str) -> tuple[str, bool]:
    """Return news and whether it was clicked; of a part without labels (N1 instead of N1-0), False.

    Raises:
        BadRecordError: the label is neither 0 nor 1.
    """
    item, _, label = one.partition("-")
    if label not in ("", "0", "1"):
        raise BadRecordError(BAD_IMPRESSIONS)
    return item, label == "1"


MIND = Layout(
    "mind",
    _find,
    licence="MIND: Microsoft Research License, for non-commercial research; never passed on",
    checked="hand-made samples only",
)
