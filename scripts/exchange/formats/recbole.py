"""RecBole's atomic files: .inter .item .user .net, the names in the first line with their types.

`user_id:token  item_id:token  rating:float  timestamp:float`: a rating becomes the weight, an `action` ours.
Of .item a title, text and kind are taken by name and all else becomes attributes. Files of a benchmark
(name.part1.inter, …) are train, valid and test. What .user says of people has no place in our tables and is
not read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.exchange.lines import Lines
from scripts.exchange.records import Delimited, Fields
from scripts.exchange.sources import Layout, NoSuchLayoutError, Row, SourceFile, Values, files_below
from scripts.exchange.values import attributes_of, text_of, time_of
from store.imports import UTF_8, UnreadableFileError

SPLITS = {"part1": "train", "part2": "valid", "part3": "test"}
_TITLES = ("title", "name", "movie_title", "item_name", "artist_name", "product_name")
_TEXTS = ("text", "description", "abstract")
_KINDS = ("kind", "type")
_NETS = (("source_id", "target_id"), ("user_id", "friend_id"))


class _Typed(NamedTuple):
    """The names in a first line, with their types (token, token_seq, float, float_seq)."""

    names: Sequence[str]
    types: Sequence[str]

    def first(self, wanted: Sequence[str]) -> str | None:
        return next((name for name in wanted if name in self.names), None)


def _find(path: Path, encoding: str | None) -> list[SourceFile]:
    files = files_below(path, ".inter", ".item", ".net")
    found = [_item_file(file, encoding) for file in files if ".item" in file.suffixes]
    logs = [file for file in files if ".inter" in file.suffixes]
    parts = [file for file in logs if _split(file)]
    found += [_log_file(file, encoding) for file in parts or logs]  # beside parts, the whole repeats them
    found += [_net_file(file, encoding) for file in files if ".net" in file.suffixes]
    if not found:
        raise NoSuchLayoutError(
            path, "set of RecBole's atomic files", "files that end in .inter, .item, .net"
        )
    return found


def _split(file: Path) -> str | None:
    return next((SPLITS[part] for part in file.name.split(".") if part in SPLITS), None)


def _typed(file: Path, encoding: str | None, *required: str) -> tuple[_Typed, Delimited]:
    """Read the first line of a file.  Raises: UnreadableFileError: it lacks a name."""
    reader = Delimited(
        "\t", quotes=False, encoding=encoding or UTF_8, rename=lambda name: name.partition(":")[0]
    )
    with Lines(file) as lines:
        line = next(lines, b"").decode(reader.encoding, errors="replace").strip()
    typed = [one.partition(":") for one in line.split("\t")]
    head = _Typed([name.strip() for name, _, _ in typed], [kind.strip() for _, _, kind in typed])
    for name in required:
        if name not in head.names:
            raise UnreadableFileError(
                file, f"its first line names no {name}:token, but {', '.join(head.names)}"
            )
    return head, reader


def _log_file(file: Path, encoding: str | None) -> SourceFile:
    head, reader = _typed(file, encoding, "user_id", "item_id")
    weight, split = head.first(("weight", "rating")), _split(file)
    action = "rate" if weight == "rating" and "action" not in head.names else None
    columns = ["user_id", "item_id", "action"]
    columns += ["weight"] * bool(weight) + ["ts"] * ("timestamp" in head.names) + ["split"] * bool(split)

    def rows(fields: Fields) -> Iterator[Row]:
        values: Values = {
            "user_id": text_of(fields["user_id"]),
            "item_id": text_of(fields["item_id"]),
            "action": text_of(fields.get("action")) or action,
            "weight": text_of(fields[weight]) if weight else None,
            "ts": time_of(fields.get("timestamp")),
            "split": split,
        }
        yield "behaviors", values

    return SourceFile(file, {"behaviors": columns}, reader, rows)


def _item_file(file: Path, encoding: str | None) -> SourceFile:
    head, reader = _typed(file, encoding, "item_id")
    title, text, kind = (head.first(names) for names in (_TITLES, _TEXTS, _KINDS))
    taken = {"item_id", title, text, kind}
    others = [(name, held) for name, held in zip(*head, strict=True) if name not in taken]
    columns = [
        "item_id",
        *(ours for ours, name in (("title", title), ("text", text), ("kind", kind)) if name),
    ]
    columns += ["attributes"] * bool(others)

    def rows(fields: Fields) -> Iterator[Row]:
        values: Values = {
            "item_id": text_of(fields["item_id"]),
            "title": text_of(fields[title]) if title else None,
            "text": text_of(fields[text]) if text else None,
            "kind": text_of(fields[kind]) if kind else None,
            "attributes": attributes_of(**{name: _value(fields[name], held) for name, held in others}),
        }
        yield "items", values

    return SourceFile(file, {"items": columns}, reader, rows)


def _net_file(file: Path, encoding: str | None) -> SourceFile:
    head, reader = _typed(file, encoding)
    pair = next((names for names in _NETS if set(names) <= set(head.names)), None)
    if pair is None:
        raise UnreadableFileError(
            file, f"its first line names no source_id and target_id, but {', '.join(head.names)}"
        )
    extra = [name for name in ("weight", "relation") if name in head.names]

    def rows(fields: Fields) -> Iterator[Row]:
        values: Values = {"user_id": text_of(fields[pair[0]]), "friend_id": text_of(fields[pair[1]])}
        yield "social", values | {name: text_of(fields[name]) for name in extra}

    return SourceFile(file, {"social": ["user_id", "friend_id", *extra]}, reader, rows)


def _value(text: str, held: str) -> object:
    """Return an attribute by its type; numbers that are none stay text."""
    if held == "token_seq":
        return text.split()
    if held in ("float", "float_seq"):
        try:
            numbers = [_number(one) for one in text.split()]
        except ValueError:
            return text
        return numbers if held == "float_seq" else numbers[0] if numbers else None
    return text


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


RECBOLE = Layout(
    "recbole",
    _find,
    licence="RecBole's files hold sets of others: the licence of each is that of its source",
    checked="hand-made samples, and what `triptych export --format recbole` writes",
)
