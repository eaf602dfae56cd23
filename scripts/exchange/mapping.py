"""A mapping file in TOML: how columns of any table become columns of ours (docs/importing.md has its keys).

[[file]]
path = "events.csv"
table = "behaviors"
[file.columns]
user_id = "uid"
action = { column = "event", values = { view = "view", buy = "purchase" }, other = "skip" }
"""

import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from scripts.exchange.records import Delimited, Fields, JsonLines, ParquetRows
from scripts.exchange.sources import BadRecordError, RecordReader, Row, SourceFile, Values
from scripts.exchange.values import UNITS, attributes_of, text_of, time_of, written_time
from store.imports import UTF_8, check_encoding
from store.tables import TABLES, Kind

UNKNOWN_VALUE = "value_not_in_the_mapping"
_TABLES = {table.name: table for table in TABLES}
_FILE_KEYS = ("path", "table", "form", "separator", "quotes", "header", "names", "encoding", "columns")
_COLUMN_KEYS = (
    *("column", "columns", "value", "values", "other", "empty", "default", "time", "between", "split"),
)
_FORMS = ("csv", "jsonl", "parquet")
_OTHERS = ("skip", "keep", "refuse")
_Take = Callable[[Fields], str | datetime | None]


class MappingError(ValueError):
    """A mapping file has a wrong key or value; the message names its place."""

    def __init__(self, file: Path, place: str, reason: str) -> None:
        super().__init__(f"{file}: {place}: {reason}" if place else f"{file}: {reason}")
        self.file, self.place = file, place


class _SkippedError(Exception):
    """A record is one of those that the mapping leaves out."""


@dataclass(frozen=True)
class _Place:
    """A part of a mapping file, for messages."""

    file: Path
    name: str

    def wrong(self, reason: str) -> MappingError:
        return MappingError(self.file, self.name, reason)

    def inside(self, name: str) -> "_Place":
        return _Place(self.file, f"{self.name}.{name}" if self.name else name)

    def check_keys(self, given: Iterable[str], known: Sequence[str]) -> None:
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1, 0.5)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise self.wrong(f"unknown key {key!r}: {hint}")


def read_mapping(file: Path, path: Path) -> list[SourceFile]:
    """Return the files below a path that a mapping file describes, those of items first.

    Raises:
        MappingError: the mapping is wrong, or a file that it names is not there.
        FileNotFoundError: there is no mapping file.
    """
    whole = _Place(file, "")
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise whole.wrong(f"it is no TOML: {error}") from error
    whole.check_keys(content, ("file",))
    tables = content.get("file")
    if not isinstance(tables, list) or not tables:
        raise whole.wrong("it describes no file: begin one with [[file]]")
    sources = [
        source
        for number, given in enumerate(tables, start=1)
        for source in _sources(given, path, _Place(file, f"file {number}"))
    ]
    order = [table.name for table in TABLES]
    return sorted(sources, key=lambda source: order.index(next(iter(source.columns))))


def _sources(given: Mapping[str, Any], path: Path, place: _Place) -> Iterator[SourceFile]:
    """Yield the files of one [[file]]: those that match its path."""
    place.check_keys(given, _FILE_KEYS)
    name, table = given.get("table"), None
    if isinstance(name, str):
        table = _TABLES.get(name)
    if table is None:
        raise place.inside("table").wrong(f"{name!r} is none of {', '.join(_TABLES)}")
    pattern = given.get("path", path.name if path.is_file() else None)
    if not isinstance(pattern, str) or not pattern or Path(pattern).is_absolute():
        raise place.inside("path").wrong(
            "it must be the name of a file below PATH, or a pattern such as *.csv"
        )
    files = _matching(path, pattern)
    if not files:
        raise place.inside("path").wrong(f"no file {pattern} at {path}")
    columns = given.get("columns")
    inside = place.inside("columns")
    if not isinstance(columns, dict):
        raise inside.wrong("a table of our columns is missing: [file.columns]")
    inside.check_keys(columns, table.names)
    kinds: dict[str, Kind] = {column.name: column.kind for column in table.columns}
    for column in table.columns:
        if column.required and column.name not in columns:
            raise inside.wrong(f"{table.name} needs a column {column.name}")
    rows = _Rows(
        table.name, {name: _taken(one, kinds[name], inside.inside(name)) for name, one in columns.items()}
    )
    wanted = _names(columns)
    for file in files:
        yield SourceFile(file, {table.name: tuple(columns)}, _reader(given, file, wanted, place), rows.of)


def _matching(path: Path, pattern: str) -> list[Path]:
    if path.is_file():
        return [path] if path.match(pattern) else []
    return sorted(file for file in path.glob(pattern) if file.is_file())


def _reader(given: Mapping[str, Any], file: Path, wanted: Sequence[str], place: _Place) -> RecordReader:
    """Return how records lie in a file, after a look at its names."""
    form = given.get("form", _form_of(file))
    if form not in _FORMS:
        raise place.inside("form").wrong(f"{form!r} is none of {', '.join(_FORMS)}")
    encoding = given.get("encoding", UTF_8)
    try:
        check_encoding(encoding)
    except (ValueError, TypeError) as error:
        raise place.inside("encoding").wrong(str(error)) from error
    if form != "csv":
        for key in ("separator", "quotes", "header", "names"):
            if key in given:
                raise place.inside(key).wrong(f"it is for csv, and this file is {form}")
        return JsonLines(encoding) if form == "jsonl" else ParquetRows()
    separator, quotes = (
        given.get("separator", "\t" if ".tsv" in file.suffixes else ","),
        given.get("quotes", True),
    )
    if not isinstance(separator, str) or not separator or (quotes and len(separator) > 1):
        raise place.inside("separator").wrong("it must be one character, or several with quotes = false")
    names = given.get("names", [])
    if not given.get("header", True) and not names:
        raise place.inside("names").wrong("without a header the columns need names, in their order")
    reader = Delimited(separator, tuple(names), quotes=quotes, encoding=encoding)
    _check_names(reader, file, wanted, place)
    return reader


def _form_of(file: Path) -> str:
    """Return the form that a name tells."""
    if ".parquet" in file.suffixes:
        return "parquet"
    return "jsonl" if {".jsonl", ".ndjson", ".json"} & set(file.suffixes) else "csv"


def _check_names(reader: Delimited, file: Path, wanted: Sequence[str], place: _Place) -> None:
    """Check that a file has the columns that a mapping names."""
    from scripts.exchange.lines import Lines

    if reader.names:
        present = list(reader.names)
    else:
        with Lines(file) as lines:
            present = reader.header(lines)
    for name in wanted:
        if name not in present:
            near = difflib.get_close_matches(name, present, 1, 0.5)
            hint = f": did you mean {near[0]!r}?" if near else f"; it has {', '.join(present)}"
            raise place.inside("columns").wrong(f"{file.name} has no column {name!r}{hint}")


def _names(columns: Mapping[str, Any]) -> list[str]:
    """Return the columns of a file that a mapping names."""
    names: list[str] = []
    for one in columns.values():
        given = one if isinstance(one, dict) else {"columns" if isinstance(one, list) else "column": one}
        names += [given["column"]] if "column" in given else given.get("columns", [])
    return names


class _Rows:
    """Makes the row of a record, by what is taken for each column."""

    def __init__(self, table: str, taken: Mapping[str, _Take]) -> None:
        self._table, self._taken = table, taken

    def of(self, fields: Fields) -> Iterator[Row]:
        try:
            values: Values = {name: take(fields) for name, take in self._taken.items()}
        except _SkippedError:
            return
        yield self._table, values


def _taken(given: Any, kind: Kind, place: _Place) -> _Take:
    """Return what takes the value of one of our columns from a record."""
    if isinstance(given, str):
        given = {"column": given}
    elif isinstance(given, list):
        given = {"columns": given}
    if not isinstance(given, dict):
        raise place.wrong("it must be the name of a column, several names, or a table with column or value")
    place.check_keys(given, _COLUMN_KEYS)
    sources = [key for key in ("column", "columns", "value") if key in given]
    if len(sources) != 1:
        raise place.wrong("it needs one of column, columns and value")
    _check_types(given, place)
    if "value" in given:
        constant = text_of(given["value"])
        return lambda _fields: constant
    if "columns" in given:
        return _several(given, kind, place)
    if kind == "time":
        return _time(given, place)
    if "time" in given:
        raise place.inside("time").wrong("it is for ts and updated_at")
    return _one(given, kind, place)


def _check_types(given: Mapping[str, Any], place: _Place) -> None:
    for key, kind, said in (
        ("column", str, "the name of a column"),
        ("columns", list, "a list of names of columns"),
        ("values", dict, "a table of their values and ours"),
        ("other", str, f"one of {', '.join(_OTHERS)}"),
        ("time", str, "text"),
        ("between", str, "text"),
        ("split", dict, "a table of columns and what lies between their values"),
    ):
        if key in given and not isinstance(given[key], kind):
            raise place.inside(key).wrong(f"it must be {said}")
    if given.get("other", "keep") not in _OTHERS:
        raise place.inside("other").wrong(f"{given['other']!r} is none of {', '.join(_OTHERS)}")
    if given.get("empty", "skip") != "skip":
        raise place.inside("empty").wrong('it can only be "skip"')
    if not all(isinstance(name, str) for name in given.get("columns", [])):
        raise place.inside("columns").wrong("it must be a list of names of columns")


def _one(given: Mapping[str, Any], kind: Kind, place: _Place) -> _Take:
    """Take one column, by a table of values where there is one."""
    name, default = given["column"], text_of(given.get("default"))
    known = {str(key): text_of(value) for key, value in given.get("values", {}).items()}
    other = given.get("other", "refuse" if known else "keep")
    for key in ("between", "split"):
        if key in given:
            raise place.inside(key).wrong("it is for several columns")
    skipped = "empty" in given

    def take(fields: Fields) -> str | None:
        value = _value(fields, name)
        text = _json(value) if kind in ("json", "vector") else text_of(value)
        if text is None:
            if skipped:
                raise _SkippedError
            return default
        if known and text in known:
            return known[text]
        if other == "skip":
            raise _SkippedError
        if other == "refuse":
            raise BadRecordError(UNKNOWN_VALUE)
        return text

    return take


def _several(given: Mapping[str, Any], kind: Kind, place: _Place) -> _Take:
    """Join several columns to one text, or make attributes of them."""
    names: list[str] = given["columns"]
    for key in ("values", "other", "empty", "default", *(["between"] if kind == "json" else ["split"])):
        if key in given:
            raise place.inside(key).wrong("it is not for several columns")
    if kind == "json":
        split = _split(given, names, place)

        def attributes(fields: Fields) -> str | None:
            present = {name: _value(fields, name) for name in names}
            for name, separator in split.items():
                value = present[name]
                present[name] = value.split(separator) if isinstance(value, str) and value else value
            return attributes_of(**present)

        return attributes
    if kind != "text":
        raise place.wrong("only a text, a title and attributes are made of several columns")
    between = given.get("between", "\n")

    def text(fields: Fields) -> str | None:
        return between.join(one for name in names if (one := text_of(_value(fields, name)))) or None

    return text


def _split(given: Mapping[str, Any], names: Sequence[str], place: _Place) -> dict[str, str]:
    """Return what lies between the values of columns that hold several."""
    split: dict[str, str] = given.get("split", {})
    place.inside("split").check_keys(split, names)
    for name, separator in split.items():
        if not isinstance(separator, str) or not separator:
            raise place.inside(f"split.{name}").wrong("it must be text")
    return split


def _time(given: Mapping[str, Any], place: _Place) -> _Take:
    """Take a time: s, ms, us or ns since 1970, iso, or a pattern of strptime."""
    name, unit = given["column"], given.get("time")
    for key in ("values", "other", "empty", "between", "split", "default"):
        if key in given:
            raise place.inside(key).wrong("it is not for times")
    if unit is None:
        raise place.wrong(
            'say what times look like: time = "s", "ms", "us", "ns", "iso" or a pattern: "%d.%m.%Y %H:%M"'
        )
    if unit in UNITS:
        return lambda fields: time_of(_value(fields, name), unit)
    if unit != "iso" and "%" not in unit:
        raise place.inside("time").wrong(
            f"{unit!r} is none of s, ms, us, ns, iso, nor a pattern such as %d.%m.%Y"
        )
    return lambda fields: written_time(_value(fields, name), None if unit == "iso" else unit)


def _value(fields: Fields, name: str) -> Any:
    """Return a value by its name; in JSON a.b is b inside a, where there is no value of that name."""
    if name in fields:
        return fields[name]
    value: Any = fields
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _json(value: Any) -> str | None:
    """Return attributes, which CSV and Parquet may hold as text, as JSON text."""
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False, default=str)
