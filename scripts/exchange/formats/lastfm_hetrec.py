"""Last.fm of HetRec 2011: artists, who listened how often, friends, and tags that people gave.

Listening counts become behaviours `listen` with the count as weight and without a time. Each tag that
somebody gave to an artist becomes a text.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from scripts.exchange.lines import Lines
from scripts.exchange.records import Delimited, Fields
from scripts.exchange.sources import BadRecordError, Layout, NoSuchLayoutError, Row, SourceFile, file_at
from scripts.exchange.values import BAD_TIME, encoding_of, text_of, time_of
from store.imports import UTF_8

UNKNOWN_TAG = "unknown_tag"
_ARTIST = {"items": ("item_id", "title", "kind")}
_LISTEN = {"behaviors": ("user_id", "item_id", "action", "weight")}
_FRIENDS = {"social": ("user_id", "friend_id")}
_TAG = {"texts": ("user_id", "item_id", "text", "ts")}
MAX_TAGS = 5_000_000


class TooManyTagsError(ValueError):
    """A file of tags has more than can be kept in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} has more than {MAX_TAGS:,} tags: it is no Last.fm of HetRec 2011")
        self.path = path


def _find(path: Path, encoding: str | None) -> list[SourceFile]:
    listens = file_at(path, "user_artists.dat")
    if listens is None:
        raise NoSuchLayoutError(path, "Last.fm of HetRec 2011", "user_artists.dat")
    files = []
    if artists := file_at(path, "artists.dat"):
        reader = _reader("id", "name", encoding=encoding_of(artists, encoding))
        files.append(SourceFile(artists, _ARTIST, reader, _artist))
    files.append(SourceFile(listens, _LISTEN, _reader("userID", "artistID", "weight"), _listen))
    if friends := file_at(path, "user_friends.dat"):
        files.append(SourceFile(friends, _FRIENDS, _reader("userID", "friendID"), _friend))
    given = file_at(path, "user_taggedartists-timestamps.dat", "user_taggedartists.dat")
    names = file_at(path, "tags.dat")
    if given and names:
        when = ("timestamp",) if "timestamps" in given.name else ("year", "month", "day")
        tags = _Tags(_names_of(names, encoding_of(names, encoding)))
        files.append(SourceFile(given, _TAG, _reader("userID", "artistID", "tagID", *when), tags.rows))
    return files


def _reader(*needs: str, encoding: str = UTF_8) -> Delimited:
    # Artists may lack url and picture.
    return Delimited("\t", quotes=False, encoding=encoding, needs=needs, optional=2 * ("name" in needs))


def _artist(fields: Fields) -> Iterator[Row]:
    yield "items", {"item_id": text_of(fields["id"]), "title": text_of(fields["name"]), "kind": "artist"}


def _listen(fields: Fields) -> Iterator[Row]:
    user, artist, count = (text_of(fields[name]) for name in ("userID", "artistID", "weight"))
    yield "behaviors", {"user_id": user, "item_id": artist, "action": "listen", "weight": count}


def _friend(fields: Fields) -> Iterator[Row]:
    yield "social", {"user_id": text_of(fields["userID"]), "friend_id": text_of(fields["friendID"])}


def _names_of(path: Path, encoding: str) -> dict[str, str]:
    """Read the words of tags by their id.  Raises: TooManyTagsError."""
    names: dict[str, str] = {}
    with Lines(path) as lines:
        for record in _reader("tagID", "tagValue", encoding=encoding).records(lines):
            if record.fields:
                names[record.fields["tagID"]] = record.fields["tagValue"]
            if len(names) > MAX_TAGS:
                raise TooManyTagsError(path)
    return names


class _Tags:
    """Rows of tags that people gave, by the words of tags."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def rows(self, fields: Fields) -> Iterator[Row]:
        text = self._names.get(fields["tagID"])
        if text is None:
            raise BadRecordError(UNKNOWN_TAG)
        yield (
            "texts",
            {
                "user_id": text_of(fields["userID"]),
                "item_id": text_of(fields["artistID"]),
                "text": text_of(text),
                "ts": _time(fields),
            },
        )


def _time(fields: Fields) -> datetime | None:
    if "timestamp" in fields:
        return time_of(fields["timestamp"], "ms")
    try:
        return datetime(int(fields["year"]), int(fields["month"]), int(fields["day"]))
    except ValueError as error:
        raise BadRecordError(BAD_TIME) from error


LASTFM_HETREC = Layout(
    "lastfm-hetrec",
    _find,
    licence="Last.fm of HetRec 2011: for non-commercial use; otherwise ask Last.fm",
    checked="its layout, written from its listens, tags and friends",
)
