"""Write an export as RecBole's atomic files, with the split of `evaluate`, so that others' models compare.

Where rows are held out, name.part1.inter, .part2.inter and .part3.inter are train, valid and test, and
name.yaml tells RecBole so. People's texts are in name.user, joined to one.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from store.export import Export

PARTS = {"valid": "part2", "test": "part3"}
MAX_ATTRIBUTES = 64
_BLANKS = re.compile(r"\s+")
_BREAKS = re.compile(r"[\t\r\n]")
_TAKEN = ("item_id", "title", "text", "kind")
_SETTINGS = """\
# RecBole: run_recbole(model="BPR", dataset={name!r}, config_file_list=[this file])
data_path: {data_path}
USER_ID_FIELD: user_id
ITEM_ID_FIELD: item_id
{time}load_col:
  inter: [{columns}]
{split}eval_args:
  group_by: user
  order: RO
  mode: full
metrics: [Recall, NDCG, MRR]
topk: [10, 20]
valid_metric: NDCG@20
"""


class UnwritableIdError(ValueError):
    """An id has a tab or a line end, between which RecBole's files have their values."""

    def __init__(self, column: str, row: int) -> None:
        super().__init__(f"{column} in row {row} has a tab or a line end, which RecBole's files cannot hold")
        self.column, self.row = column, row


def write_recbole(export: Export, folder: Path, name: str) -> list[Path]:
    """Write the rows that an export shows below folder/name; return the files.

    Raises:
        FileExistsError: folder/name is there already.
        UnwritableIdError: an id has a tab or a line end; the files are not whole.
    """
    place = folder / name
    place.mkdir(parents=True)
    held_out = {split: rows for split in PARTS if len(rows := export.held_out(split))}
    first = f"{name}.part1.inter" if held_out else f"{name}.inter"
    files = [_write_events(place / first, export.history_batches())]
    for split, rows in held_out.items():
        files.append(_write_events(place / f"{name}.{PARTS[split]}.inter", rows.to_batches()))
    files.append(_write_items(place / f"{name}.item", export))
    friends = export.friends()
    if len(friends):
        header = ("source_id:token", "target_id:token", "weight:float")
        files.append(_write(place / f"{name}.net", header, _ties(friends.to_batches())))
    texts = _write_texts(place / f"{name}.user", export)
    files += [texts] if texts else []
    files.append(place / f"{name}.yaml")
    parts = ["part1", *(PARTS[split] for split in held_out)]
    settings = _SETTINGS.format(
        name=name,
        data_path=json.dumps(str(folder.absolute())),
        time="TIME_FIELD: timestamp\n",
        columns="user_id, item_id",
        split=f"benchmark_filename: [{', '.join(parts)}]\n" if held_out else "",
    )
    files[-1].write_text(settings, "utf-8")
    return files


def _write_events(path: Path, batches: Iterable[pa.RecordBatch]) -> Path:
    header = ("user_id:token", "item_id:token", "action:token", "weight:float", "timestamp:float")
    return _write(path, header, _events(batches))


def _events(batches: Iterable[pa.RecordBatch]) -> Iterator[list[str]]:
    for batch in batches:
        columns = (batch.column(one).to_pylist() for one in ("user_id", "item_id", "action", "weight", "ts"))
        for user, item, action, weight, ts in zip(*columns, strict=True):
            yield [user, item, _words(action), repr(weight), _seconds(ts)]


def _ties(batches: Iterable[pa.RecordBatch]) -> Iterator[list[str]]:
    for batch in batches:
        columns = (batch.column(one).to_pylist() for one in ("user_id", "friend_id", "weight"))
        for user, friend, weight in zip(*columns, strict=True):
            yield [user, friend, repr(weight)]


def _write_texts(path: Path, export: Export) -> Path | None:
    """Write the texts of each person, joined; return None where there are none."""
    rows = (
        (user, text)
        for batch in export.texts_batches()
        for user, text in zip(
            batch.column("user_id").to_pylist(), batch.column("text").to_pylist(), strict=True
        )
    )
    joined = (
        [user, _words(" ".join(text for _, text in some))] for user, some in groupby(rows, lambda row: row[0])
    )
    first = next(joined, None)
    if first is None:
        return None

    def all_rows() -> Iterator[list[str]]:
        yield first
        yield from joined

    return _write(path, ("user_id:token", "text:token_seq"), all_rows())


def _write_items(path: Path, export: Export) -> Path:
    items = export.items(columns=("item_id", "title", "text", "kind", "attributes"))
    types = _types_of_attributes(items)
    header = ("item_id:token", "title:token_seq", "text:token_seq", "kind:token")
    names = [f"{_BLANKS.sub('_', name)}:{held}" for name, held in types.items()]

    def rows() -> Iterator[list[str]]:
        for batch in items.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                attributes = json.loads(row["attributes"] or "{}")
                yield [
                    row["item_id"],
                    *(_words(row[one] or "") for one in _TAKEN[1:]),
                    *(_attribute(attributes.get(one), held) for one, held in types.items()),
                ]

    return _write(path, (*header, *names), rows())


def _types_of_attributes(items: pa.Table) -> dict[str, str]:
    """Return the type of each attribute that has one: numbers, words, or lists of words."""
    types: dict[str, str] = {}
    for batch in items.select(["attributes"]).to_batches(max_chunksize=10_000):
        for text in batch.column(0).to_pylist():
            for name, value in json.loads(text or "{}").items():
                held = _type_of(value)
                if held and name not in _TAKEN and (name in types or len(types) < MAX_ATTRIBUTES):
                    types[name] = held if types.get(name, held) == held else "token_seq"
    return types


def _type_of(value: Any) -> str | None:
    if isinstance(value, list):
        return "token_seq" if all(isinstance(one, str | int | float) for one in value) else None
    if isinstance(value, bool | str):
        return "token"
    return "float" if isinstance(value, int | float) else None


def _attribute(value: Any, held: str) -> str:
    """Return a value by its type; blanks inside a word become underscores."""
    if value is None or isinstance(value, Mapping):
        return ""
    if held == "float":
        return repr(float(value)) if math.isfinite(value) else ""
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    return " ".join(_BLANKS.sub("_", str(one).strip()) for one in values if _type_of(one))


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    """Write a header and rows.  Raises: UnwritableIdError."""
    ids = [at for at, name in enumerate(header) if name.endswith("_id:token")]
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(header) + "\n")
        for number, row in enumerate(rows, start=1):
            for at in ids:
                if _BREAKS.search(row[at]):
                    raise UnwritableIdError(header[at].partition(":")[0], number)
            file.write("\t".join(row) + "\n")
    return path


def _words(text: str | None) -> str:
    """Return text on one line, without tabs."""
    return _BLANKS.sub(" ", text or "").strip()


def _seconds(time: datetime | None) -> str:
    return "" if time is None else repr(time.replace(tzinfo=UTC).timestamp())
