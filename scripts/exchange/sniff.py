"""Write a first mapping of files by looking at them: separator, header, encoding, and what columns may be."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from scripts.exchange.lines import PACKINGS, Lines
from scripts.exchange.records import JsonLines, ParquetRows
from scripts.exchange.sources import NoSuchLayoutError, RecordReader
from scripts.exchange.values import UNITS, encoding_of
from store.imports import UTF_8

_ROWS = 1_000
_ENDINGS = {".csv", ".tsv", ".txt", ".dat", ".data", ".jsonl", ".ndjson", ".json", ".parquet"}
_SEPARATORS = (",", "\t", ";", "|")
_JSON = {".jsonl", ".ndjson", ".json"}
# Names that columns of ours have elsewhere, without case, underscores and blanks; the first one there counts.
_NAMES: dict[str, tuple[str, ...]] = {
    "user_id": (
        *(
            "userid",
            "user",
            "uid",
            "customerid",
            "customer",
            "reviewerid",
            "memberid",
            "visitorid",
            "accountid",
        ),
        *("personid", "authorid", "sessionid", "clientid"),
    ),
    "friend_id": ("friendid", "friend", "targetid", "followeeid", "followee", "followed", "friend2", "user2"),
    "item_id": (
        *(
            "itemid",
            "item",
            "productid",
            "product",
            "sku",
            "asin",
            "movieid",
            "articleid",
            "businessid",
            "videoid",
        ),
        *("newsid", "contentid", "adid", "artistid", "trackid", "songid", "bookid", "isbn", "iid"),
    ),
    "action": ("action", "event", "eventtype", "eventname", "behavior", "behaviour", "behaviortype", "type"),
    "weight": ("weight", "rating", "stars", "score", "overall", "count", "plays", "playcount", "quantity"),
    "ts": (
        *(
            "ts",
            "timestamp",
            "time",
            "datetime",
            "date",
            "eventtime",
            "createdat",
            "created",
            "unixreviewtime",
        ),
        *("unixtime", "when"),
    ),
    "split": ("split",),
    "title": ("title", "name", "itemname", "productname", "headline"),
    "text": (
        "text",
        "description",
        "reviewtext",
        "review",
        "body",
        "comment",
        "content",
        "abstract",
        "tag",
        "query",
    ),
    "kind": ("kind", "itemtype"),
    "position": ("position", "rank"),
    "query_id": ("queryid", "impressionid", "requestid"),
    "clicked": ("clicked", "click", "isclick", "label"),
}
_COLUMNS = {
    "items": ("item_id", "title", "text", "kind"),
    "behaviors": ("user_id", "item_id", "action", "weight", "ts", "split"),
    "texts": ("user_id", "item_id", "text", "ts"),
    "social": ("user_id", "friend_id", "weight", "ts"),
    "impressions": ("user_id", "item_id", "ts", "position", "query_id", "clicked"),
}
# Digits of numbers of seconds, milliseconds, … between 1973 and 2286.
_DIGITS = {
    digits + more: unit for digits, unit in ((9, "s"), (12, "ms"), (15, "us"), (18, "ns")) for more in (0, 1)
}
_MOST = 0.7  # of values that look like times: a few may be broken
_PARTED = re.compile(r"[^|]{1,40}(\|[^|]{1,40})+")  # a list, as in MovieLens
_PARTED_SHARE = 0.1
_PATTERNS = ("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%Y%m%d")


@dataclass(frozen=True)
class Sniffed:
    """One file as it seems to be.

    Attributes:
        form: csv, jsonl or parquet.
        separator: None but in csv.
        names: of its columns.
        header: whether the first line has the names.
        rows: some of its records.
    """

    path: Path
    form: str
    encoding: str
    separator: str | None
    names: Sequence[str]
    header: bool
    rows: Sequence[Mapping[str, Any]]


class CannotSniffError(ValueError):
    """A file does not look like a table."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} does not look like a table: {reason}")
        self.path = path


def sniff(path: Path) -> str:
    """Return a first mapping of a file, or of the files of a folder, as TOML with remarks.

    Raises:
        NoSuchLayoutError: there are no such files.
        CannotSniffError: a file does not look like a table, or no column may be an id.
    """
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if _ending(file) in _ENDINGS)
    if not files:
        raise NoSuchLayoutError(path, "folder of tables", f"files that end in {', '.join(sorted(_ENDINGS))}")
    described = [_described(file, path) for file in files]
    head = f"# A first mapping of {path.name}: look at the five rows, correct it, then\n"
    return f"{head}# triptych import {path} --map THIS_FILE --home HOME\n\n" + "\n".join(described)


def look(path: Path) -> Sniffed:
    """Find out how a file is written.  Raises: CannotSniffError."""
    if _ending(path) == ".parquet":
        return _of_objects(path, "parquet", UTF_8, ParquetRows())
    encoding = encoding_of(path, None)
    if _ending(path) in _JSON or _begins_with_brace(path):
        return _of_objects(path, "jsonl", encoding, JsonLines(encoding))
    with Lines(path) as lines:
        texts = [
            line.decode(encoding, errors="replace").rstrip("\r\n")
            for _, line in zip(range(_ROWS), lines, strict=False)
        ]
    texts = [text for text in texts if text]
    if not texts:
        raise CannotSniffError(path, "it is empty")
    separator = _separator(texts)
    cells = (
        list(csv.reader(texts, delimiter=separator))
        if len(separator) == 1
        else [text.split(separator) for text in texts]
    )
    header = _is_header(cells)
    names = (
        [name.strip() for name in cells[0]] if header else [f"c{at}" for at in range(1, len(cells[0]) + 1)]
    )
    body = [row for row in cells[header:] if len(row) == len(names)]
    if len(names) < 2 or len(set(names)) < len(names):
        raise CannotSniffError(path, f"its first line gives the columns {', '.join(names)}")
    rows = [dict(zip(names, row, strict=True)) for row in body]
    return Sniffed(path, "csv", encoding, separator, names, header, rows)


def _of_objects(path: Path, form: str, encoding: str, reader: RecordReader) -> Sniffed:
    """Look at a file whose records have names.  Raises: CannotSniffError."""
    with Lines(path) as lines:
        read = [record.fields for _, record in zip(range(_ROWS), reader.records(lines), strict=False)]
    rows = [fields for fields in read if fields is not None]
    if not rows:
        raise CannotSniffError(path, "its first lines hold no JSON object" if read else "it is empty")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Sniffed(path, form, encoding, None, names, True, rows)


def _ending(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKINGS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _begins_with_brace(path: Path) -> bool:
    with Lines(path) as lines:
        return next(lines, b"").lstrip().startswith(b"{")


def _separator(texts: Sequence[str]) -> str:
    """Return the separator that takes the lines apart most evenly."""
    best, most = ",", 0.0
    for one in ("::", *_SEPARATORS):
        counts = [text.count(one) for text in texts]
        usual = max(set(counts), key=counts.count)
        even = counts.count(usual) / len(counts) * (usual > 0) * (1 + min(usual, 50) / 100)
        if even > most:
            best, most = one, even
    return best


def _is_header(cells: Sequence[Sequence[str]]) -> bool:
    """Return whether the first line has names: known ones, or words above numbers."""
    first = cells[0]
    if sum(_plain(name) in known for name in first for known in _NAMES.values()) >= 1:
        return True
    if any(not name.strip() or _is_number(name) for name in first):
        return False
    return any(_is_number(value) for row in cells[1:3] for value in row)


def _described(file: Path, path: Path) -> str:
    """Return the [[file]] of a file."""
    found = look(file)
    roles = _roles(found)
    table = _table(roles)
    if table is None:
        raise CannotSniffError(
            file, f"none of its columns may be a person or an item: {', '.join(found.names)}"
        )
    tables = [table]
    if table == "behaviors" and "text" in roles:  # reviews: what people chose, and what they wrote of it
        tables.append("texts")
    return "\n".join(_file_of(found, roles, one, path) for one in tables)


def _file_of(found: Sniffed, roles: Mapping[str, str], table: str, path: Path) -> str:
    """Return the [[file]] of a file for one table."""
    file = found.path
    lines = ["[[file]]"]
    if path.is_dir():
        lines.append(f"path = {_toml(file.name)}")
    lines += [f'table = "{table}"', f'form = "{found.form}"']
    if found.separator is not None:
        lines.append(f"separator = {_toml(found.separator)}")
        if len(found.separator) > 1:
            lines.append("quotes = false")
        if not found.header:
            lines += ["header = false", f"names = {json.dumps(list(found.names), ensure_ascii=False)}"]
    lines += [f"encoding = {_toml(found.encoding)}"] * (found.form != "parquet") + ["[file.columns]"]
    used = set()
    for column in _COLUMNS[table]:
        if name := roles.get(column):
            used.add(name)
            taken = _taken(found, column, name)
            if table == "texts" and column == "text" and {"weight", "action"} & roles.keys():
                taken = f'{{ column = {_toml(name)}, empty = "skip" }}'  # not everybody writes something
            lines.append(f"{column} = {taken}")
    others = [name for name in found.names if name not in used]
    if table == "items" and others:
        names = json.dumps(others, ensure_ascii=False)
        parted = [one for one in others if _is_parted(found, one)]
        split = ", ".join(f'{_toml(one)} = "|"' for one in parted)
        lines.append(
            f"attributes = {{ columns = {names}, split = {{ {split} }} }}"
            if parted
            else f"attributes = {names}"
        )
    elif others:
        lines.append(f"# not used: {', '.join(others)}")
    return "\n".join(lines) + "\n"


def _roles(found: Sniffed) -> dict[str, str]:
    """Return their column for each of ours: by name, without a header by content."""
    plain = {name: _plain(name) for name in reversed(found.names)}
    roles: dict[str, str] = {}
    for ours, known in _NAMES.items():
        for name in (*([_plain(ours)]), *known):
            theirs = next((one for one, said in plain.items() if said == name), None)
            if theirs is not None and theirs not in roles.values():
                roles[ours] = theirs
                break
    if not found.header:
        roles = _by_content(found)
    return roles


def _by_content(found: Sniffed) -> dict[str, str]:
    """Guess columns without names: two ids, a number of few values, a time."""
    roles: dict[str, str] = {}
    wanted = iter(("user_id", "item_id", "weight"))
    for name in found.names:
        values = [str(row[name]) for row in found.rows if row[name]]
        if values and _time_of(values):
            roles.setdefault("ts", name)
        elif values and sum(map(len, values)) / len(values) > 40:
            roles.setdefault("text", name)
        else:
            ours = next(wanted, None)
            if ours and (ours != "weight" or all(map(_is_number, values))):
                roles[ours] = name
    return roles


def _table(roles: Mapping[str, str]) -> str | None:
    if "user_id" in roles and "friend_id" in roles:
        return "social"
    if {"user_id", "item_id"} <= roles.keys():
        if "clicked" in roles or ("query_id" in roles and "position" in roles):
            return "impressions"
        return "texts" if "text" in roles and not {"weight", "action"} & roles.keys() else "behaviors"
    if "user_id" in roles and "text" in roles:
        return "texts"
    return "items" if "item_id" in roles else None


def _taken(found: Sniffed, column: str, name: str) -> str:
    """Return how a column is taken, as TOML."""
    values = [str(row[name]) for row in found.rows if row.get(name) not in (None, "")]
    if column == "ts":
        return f"{{ column = {_toml(name)}, time = {_toml(_time_of(values) or 'iso')} }}"
    if column == "action":
        known = sorted(set(values))
        if 0 < len(known) <= 20:
            inside = ", ".join(f"{_toml(value)} = {_toml(value)}" for value in known)
            return f'{{ column = {_toml(name)}, values = {{ {inside} }}, other = "keep" }}'
    return _toml(name)


def _is_parted(found: Sniffed, name: str) -> bool:
    """Return whether a column holds lists."""
    values = [row[name] for row in found.rows if isinstance(row.get(name), str)]
    return bool(values) and sum(bool(_PARTED.fullmatch(value)) for value in values) >= _PARTED_SHARE * len(
        values
    )


def _time_of(values: Sequence[str]) -> str | None:
    """Return what times look like, None where values are no times."""
    some = values[:100]
    if not some:
        return None
    units = [_DIGITS.get(len(value.split(".")[0].lstrip("-"))) for value in some if _is_number(value)]
    for unit in UNITS:
        if units.count(unit) >= _MOST * len(some):
            return unit
    for pattern in (None, *_PATTERNS):
        if sum(_is_written(value, pattern) for value in some) >= _MOST * len(some):
            return pattern or "iso"
    return None


def _is_written(value: str, pattern: str | None) -> bool:
    if pattern is None and not re.match(r"\d{4}-\d", value):
        return False
    try:
        datetime.strptime(value, pattern) if pattern else datetime.fromisoformat(value.strip())
    except ValueError:
        return False
    return True


def _is_number(value: Any) -> bool:
    return re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", str(value)) is not None


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-:.]", "", name.lower())


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
