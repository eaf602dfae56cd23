"""MovieLens: 100K (u.data), 1M and 10M (ratings.dat), 20M, 25M, 32M and latest (ratings.csv).

Ratings become behaviours `rate` with the stars as weight, tags texts on their movie, genres and years
attributes. What is known of people (age, sex, work) has no place in our tables and is not read, nor are links
and genomes.
"""

from collections.abc import Iterator
from pathlib import Path

from scripts.exchange.records import Delimited, Fields
from scripts.exchange.sources import Layout, NoSuchLayoutError, Row, SourceFile, file_at
from scripts.exchange.values import attributes_of, encoding_of, text_of, time_of, year_of

_MOVIE = ("item_id", "title", "text", "kind", "attributes")
_RATING = ("user_id", "item_id", "action", "weight", "ts")
_TAG = ("user_id", "item_id", "text", "ts")
_GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama"),
    *(
        "Fantasy",
        "Film-Noir",
        "Horror",
        "Musical",
        "Mystery",
        "Romance",
        "Sci-Fi",
        "Thriller",
        "War",
        "Western",
    ),
)
_NO_GENRES = ("unknown", "(no genres listed)")


def _find(path: Path, encoding: str | None) -> list[SourceFile]:
    if ratings := file_at(path, "u.data"):
        return _of_100k(path, ratings, encoding)
    ratings = file_at(path, "ratings.dat", "ratings.csv")
    if ratings is None:
        raise NoSuchLayoutError(path, "MovieLens set", "u.data, ratings.dat or ratings.csv")
    ending = "dat" if ".dat" in ratings.suffixes else "csv"
    files = []
    if movies := file_at(path, f"movies.{ending}"):
        reader = _reader(ending, ("movieId", "title", "genres"), encoding_of(movies, encoding))
        files.append(SourceFile(movies, {"items": _MOVIE}, reader, _movie))
    reader = _reader(ending, ("userId", "movieId", "rating", "timestamp"), encoding_of(ratings, encoding))
    files.append(SourceFile(ratings, {"behaviors": _RATING}, reader, _rating))
    if tags := file_at(path, f"tags.{ending}"):
        reader = _reader(ending, ("userId", "movieId", "tag", "timestamp"), encoding_of(tags, encoding))
        files.append(SourceFile(tags, {"texts": _TAG}, reader, _tag))
    return files


def _of_100k(path: Path, ratings: Path, encoding: str | None) -> list[SourceFile]:
    files = []
    if movies := file_at(path, "u.item"):
        names = ("movieId", "title", "released", "video", "url", *_GENRES_100K)
        reader = Delimited("|", names, quotes=False, encoding=encoding_of(movies, encoding))
        files.append(SourceFile(movies, {"items": _MOVIE}, reader, _movie_of_flags))
    reader = Delimited("\t", ("userId", "movieId", "rating", "timestamp"), quotes=False)
    return [*files, SourceFile(ratings, {"behaviors": _RATING}, reader, _rating)]


def _reader(ending: str, names: tuple[str, ...], encoding: str) -> Delimited:
    """Return how a file of either kind is read; the CSV files have these names in their first line."""
    if ending == "dat":
        return Delimited("::", names, quotes=False, encoding=encoding)
    return Delimited(encoding=encoding, needs=names)


def _movie(fields: Fields) -> Iterator[Row]:
    genres = [one for one in fields["genres"].split("|") if one and one not in _NO_GENRES]
    yield _item(fields["movieId"], fields["title"], genres)


def _movie_of_flags(fields: Fields) -> Iterator[Row]:
    genres = [name for name in _GENRES_100K if fields[name] == "1" and name not in _NO_GENRES]
    yield _item(fields["movieId"], fields["title"], genres)


def _item(movie: str, title: str, genres: list[str]) -> Row:
    return "items", {
        "item_id": text_of(movie),
        "title": text_of(title),
        "text": f"Genres: {', '.join(genres)}" if genres else None,
        "kind": "movie",
        "attributes": attributes_of(genres=genres, year=year_of(title)),
    }


def _rating(fields: Fields) -> Iterator[Row]:
    yield (
        "behaviors",
        {
            "user_id": text_of(fields["userId"]),
            "item_id": text_of(fields["movieId"]),
            "action": "rate",
            "weight": text_of(fields["rating"]),
            "ts": time_of(fields["timestamp"]),
        },
    )


def _tag(fields: Fields) -> Iterator[Row]:
    yield (
        "texts",
        {
            "user_id": text_of(fields["userId"]),
            "item_id": text_of(fields["movieId"]),
            "text": text_of(fields["tag"]),
            "ts": time_of(fields["timestamp"]),
        },
    )


MOVIELENS = Layout(
    "movielens",
    _find,
    licence=(
        "MovieLens (GroupLens): for research, passed on under the same conditions only (100K, 1M and 10M not "
        "at all without permission), nothing commercial without permission"
    ),
    checked="the layout of latest-small, written from its ratings; 100K, 1M and 10M on hand-made samples",
)
