"""Imports of files that nobody should write: every row counted, every refusal with its reason, no crash.

An hour of it: pytest tests/store/test_import_anything.py --hypothesis-profile nightly --timeout 0
"""

import gzip
import io
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, note, settings
from hypothesis import strategies as st

from server.live.ingest import IMPORT_ERRORS
from store.export import Export, create_export
from store.imports.run import ImportOptions, ImportReport, import_folder
from store.store import Store
from store.tables import TABLES

# An example takes a quarter of a second, so a usual run makes few of them.
few = settings(max_examples=20) if settings.default and settings.default.max_examples <= 50 else settings()

IDS = st.sampled_from(
    ["i1", "i2", "u1", "u2", "", "书", "10", "10.0", "x" * 257, "a b", "NaN", "nan", "\0", "é\u0301"]
)
WORDS = st.sampled_from(
    [
        *(
            "",
            " ",
            "true",
            "F",
            "yes",
            "1.0",
            "0",
            "nan",
            "NaN",
            "-1",
            "1e400",
            "inf",
            "0x10",
            "1_000",
            "½",
            "🙂",
            "null",
        ),
        *(
            "2021-01-01",
            "2021-01-01 00:00:00 +0100",
            "20210101",
            "2021",
            "1609459200000",
            "99999999999999999999",
            "epoch",
        ),
        *(
            "{}",
            "[]",
            '{"a": NaN}',
            '{"a": [1, {"b": null}]}',
            "[1, 2]",
            "[1, NaN]",
            "[1,",
            "a\nb",
            "a\r\n\r\nb",
            'q"q',
            '""',
        ),
        *(
            "train",
            "valid",
            "test",
            "dev",
            ",",
            "\t",
            ";",
            "'",
            "\\",
            "\ufeff",
            "\u2028",
            "c0",
            "_row",
            "' OR 1=1 --",
            "$1",
        ),
    ]
)
TEXTS = st.one_of(WORDS, st.text(max_size=8))
NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2021, 20210101, 1609459200, 1609459200000, 2**53, 2**53 + 2, 2**63 - 1, -(2**63)]
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.sampled_from([10.0, 1.5, float("nan"), float("inf"), 1e300, 1.7e308, -0.0]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, IDS, TEXTS)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
# What a column of each kind is meant to hold, so that rows are also accepted.
MEANT: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "id": (pa.string(), st.sampled_from(["i1", "i2", "u1", "u2", "书", "10"])),
    "text": (pa.string(), st.sampled_from(["a", "b\n\nc", 'say "x"', "d, e"])),
    "word": (pa.string(), st.sampled_from(["train", "valid", "test", "m"])),
    "number": (pa.float64(), st.sampled_from([0.0, 1.0, 2.5])),
    "whole": (pa.int64(), st.sampled_from([0, 7, 2**31 - 1])),
    "time": (pa.int64(), st.sampled_from([1609459200, 1609459201])),
    "flag": (pa.bool_(), st.booleans()),
    "json": (pa.string(), st.sampled_from(["{}", '{"a": [1, NaN]}'])),
    "vector": (pa.list_(pa.float64()), st.just([1.0, 2.0])),
}
STRANGE_NAMES = st.sampled_from(
    ["", "_row", "_line", "_fault", "file_row_number", "filename", "c0", "Item_ID", "a.b", "x\ny", "'", '"']
)
ARROW_TYPES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), st.one_of(IDS, TEXTS)),
    (pa.large_string(), IDS),
    (pa.binary(), st.one_of(st.binary(max_size=4), IDS.map(str.encode))),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1) | st.sampled_from([1, 20210101, 1609459200])),
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float64(), st.floats() | st.sampled_from([10.0, 1.0, 1609459200.0])),
    (pa.float32(), st.floats(width=32)),
    (pa.float16(), st.floats(width=16)),
    (pa.bool_(), st.booleans()),
    (pa.decimal128(20, 2), st.decimals(-(10**6), 10**6, places=2)),
    (pa.timestamp("us"), st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))),
    (pa.timestamp("ms", "Europe/Berlin"), st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))),
    (pa.timestamp("ns"), st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))),
    (pa.date32(), st.dates()),
    (pa.time64("us"), st.times()),
    (pa.null(), st.none()),
    (pa.list_(pa.string()), st.lists(st.none() | TEXTS, max_size=3)),
    (pa.list_(pa.float64()), st.lists(st.none() | st.floats(), max_size=3)),
    (pa.list_(pa.float32(), 2), st.lists(st.floats(width=32), min_size=2, max_size=2)),
    (pa.list_(pa.list_(pa.int64())), st.lists(st.lists(st.integers(0, 9), max_size=2), max_size=2)),
    (pa.struct({"a": pa.float64(), "b": pa.string()}), st.fixed_dictionaries({"a": st.floats(), "b": TEXTS})),
    (
        pa.map_(pa.string(), pa.int64()),
        st.lists(st.tuples(st.sampled_from(["k", "l"]), st.integers(0, 9)), max_size=1),
    ),
    (pa.dictionary(pa.int32(), pa.string()), IDS),
]


@st.composite
def names_of_columns(draw: st.DrawFn, table: Any) -> list[str]:
    """Mostly the required columns, others, and names that are nobody's or ours."""
    names = [column.name for column in table.columns if column.required and draw(st.integers(0, 29))]
    names += draw(st.lists(st.sampled_from(table.names), max_size=5))
    names += draw(st.lists(STRANGE_NAMES, max_size=2))
    return list(draw(st.permutations(list(dict.fromkeys(names)))))


def meant(draw: st.DrawFn, table: Any, name: str) -> tuple[pa.DataType, st.SearchStrategy[Any]] | None:
    """Mostly what a known column is meant to hold, else None."""
    kinds = [column.kind for column in table.columns if column.name == name]
    return MEANT[kinds[0]] if kinds and draw(st.integers(0, 4)) else None


def field(text: str, delimiter: str) -> str:
    if any(char in text for char in (delimiter, '"', "\n", "\r")):
        return '"' + text.replace('"', '""') + '"'
    return text


@st.composite
def separated(draw: st.DrawFn, table: Any, delimiter: str) -> tuple[bytes, int | None]:
    names = draw(names_of_columns(table))
    ends = draw(st.sampled_from([("\n",), ("\r\n",), ("\n", "\r\n"), ("\r",), ("\n\n", "\n")]))
    kind = draw(st.sampled_from([IDS, TEXTS, NUMBERS.map(str), st.integers(0, 3000).map(str)]))
    cells = [found[1].map(str) if (found := meant(draw, table, name)) else kind | IDS for name in names]
    rows = draw(st.lists(st.tuples(*cells), max_size=6))
    lines = [delimiter.join(field(cell, delimiter) for cell in row) for row in [names, *rows]]
    text = "".join(line + ends[number % len(ends)] for number, line in enumerate(lines))
    sound = len(names) > 1  # of a single column, an empty row is a blank line
    raw = draw(st.sampled_from([None, None, None, '"', 'x"y"z', "\0", ",,,,,,,,,,", "\x1a", "a"]))
    if raw is not None:
        return (text + raw + ends[0] + text.partition(ends[0])[2]).encode(errors="replace"), None
    return text.encode(errors="replace"), len(rows) if sound else None


@st.composite
def json_lines(draw: st.DrawFn, table: Any) -> tuple[bytes, int | None]:
    names = draw(names_of_columns(table))
    values = draw(st.sampled_from([SCALARS, ANY_JSON]))
    cells = {name: found[1] if (found := meant(draw, table, name)) else values for name in names}
    rows = draw(st.lists(st.fixed_dictionaries(cells), max_size=6))
    if draw(st.booleans()):
        rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
    lines = [json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows]
    if draw(st.integers(0, 3)) == 0:
        return ("[" + ",\n".join(lines) + "]").encode(errors="replace"), len(rows)
    lines += draw(
        st.lists(
            st.sampled_from(["[1]", "5", "null", "{", '{"item_id": "i1"} x', "NaN", "\0", '"x"']), max_size=2
        )
    )
    return "\n".join(lines).encode(errors="replace"), len(lines)


@st.composite
def parquet(draw: st.DrawFn, table: Any) -> tuple[bytes, int | None]:
    names = draw(names_of_columns(table)) or ["x"]
    count = draw(st.integers(0, 6))
    columns = {}
    for name in names:
        kind, values = meant(draw, table, name) or draw(st.sampled_from(ARROW_TYPES))
        cells = draw(st.lists(st.none() | values, min_size=count, max_size=count))
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
            cells = [cell if cell is None else cell.encode(errors="replace").decode() for cell in cells]
        columns[name] = pa.array(cells, kind)
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue(), count


@st.composite
def files(draw: st.DrawFn, table: Any) -> tuple[str, bytes, int | None]:
    """A file's ending and content, and how many rows are in it, where that is sure."""
    form = draw(st.sampled_from(["csv", "tsv", "jsonl", "json", "ndjson", "parquet"]))
    made = {
        "csv": lambda: separated(table, ","),
        "tsv": lambda: separated(table, "\t"),
        "parquet": lambda: parquet(table),
    }
    content, rows = draw(made.get(form, lambda: json_lines(table))())
    if form != "parquet":
        encoding = draw(st.sampled_from(["utf-8"] * 4 + ["utf-8-sig", "utf-16", "latin-1"]))
        content = content.decode().encode(encoding, errors="replace")
    if draw(st.integers(0, 9)) == 0:
        at, byte = draw(st.integers(0, max(len(content) - 1, 0))), draw(st.binary(max_size=2))
        content, rows = content[:at] + byte + content[at + draw(st.integers(0, 3)) :], None
    packing = draw(st.sampled_from(["", "", "", ".gz", ".zst"]))
    if packing == ".gz":
        content = gzip.compress(content)
    elif packing == ".zst":
        content = pa.compress(content, "zstd", asbytes=True) if content else b""
        rows = rows if content else None
    return f".{form}{packing}", content, rows


@st.composite
def folders(draw: st.DrawFn) -> dict[str, tuple[bytes, int | None]]:
    """Names and contents of the files of a folder of tables."""
    found: dict[str, tuple[bytes, int | None]] = {}
    for table in draw(
        st.lists(st.sampled_from(TABLES), min_size=1, max_size=4, unique_by=lambda one: one.name)
    ):
        if draw(st.integers(0, 4)):
            ending, content, rows = draw(files(table))
            found[table.name + ending] = content, rows
            continue
        for number in range(draw(st.integers(1, 3))):
            ending, content, rows = draw(files(table))
            found[f"{table.name}/split=test/part-{number}{ending}"] = content, rows
    return found


OPTIONS = st.builds(
    ImportOptions,
    encoding=st.sampled_from(["utf-8"] * 5 + ["latin-1", "ascii", "utf-16"]),
    times=st.sampled_from(["auto"] * 5 + ["s", "ms", "us", "ns", "dates", "years"]),
    create_items=st.booleans(),
    dims=st.sampled_from([{}, {"m": 2}]),
)


@contextmanager
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="triptych-test-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def counts_add_up(report: ImportReport) -> None:
    for name, one in report.tables.items():
        assert min(one.inserted, one.updated, one.unchanged, *one.rejected.values(), 0) >= 0
        assert one.read == one.inserted + one.updated + one.unchanged + sum(one.rejected.values()), name
        lines = one.rejects_file.read_bytes().splitlines() if one.rejects_file else []
        rows = [json.loads(line) for line in lines]
        assert Counter(row["reason"] for row in rows) == one.rejected
        places = [(row.get("file"), row["row"]) for row in rows]
        assert len(set(places)) == len(places)
        assert all(row["row"] >= 1 for row in rows)


def told_in_our_words(error: Exception) -> None:
    told = str(error)
    assert told
    assert "\n" not in told.replace("\\n", "")[:1]
    for word in ("Error:", "LINE 1", "Possible", "SELECT ", "read_csv", "raw_", "DuckDB", "Traceback"):
        assert word not in told, told


def tables_of(store: Store, folder: Path) -> list[pa.Table]:
    with Export.open(folder / create_export(store, folder)) as export:
        return [
            *(export.items(), export.history(), export.texts(), export.friends()),
            export.impressions(),
        ]


@few
@given(folders(), OPTIONS)
def test_anything_is_imported_or_refused_in_words(
    content: dict[str, tuple[bytes, int | None]], options: ImportOptions
) -> None:
    note(str({name: data for name, (data, _) in content.items()}))
    with place() as folder, Store.open(folder / "views.duckdb") as store:
        for name, (data, _) in content.items():
            file = folder / "in" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        try:
            first = import_folder(store, folder / "in", rejects=folder / "rejects", options=options)
        except IMPORT_ERRORS as error:
            told_in_our_words(error)
            assert store.counts()["users"] == 0
            return
        counts_add_up(first)
        sure = options.encoding == "utf-8"
        for name, one in first.tables.items():
            rows = [
                rows
                for file, (_, rows) in content.items()
                if file.partition(".")[0].partition("/")[0] == name
            ]
            if sure and None not in rows:
                assert one.read == sum(rows)  # type: ignore[arg-type]
        again = import_folder(store, folder / "in", rejects=folder / "rejects", options=options)
        counts_add_up(again)
        for name, one in again.tables.items():
            assert (one.inserted, one.updated, one.items_made) == (0, 0, 0), name
            assert one.rejected == first.tables[name].rejected
        with store.snapshot() as cursor:
            for table in ("behaviors", "social"):
                bad = f"SELECT count(*) FROM data.{table} WHERE weight < 0 OR NOT isfinite(weight)"
                assert cursor.execute(bad).fetchall() == [(0,)]
        whole = folder / create_export(store, folder)
        with Store.open(folder / "copy.duckdb") as copy:
            there = import_folder(copy, whole, rejects=folder / "rejects", options=ImportOptions(strict=True))
            counts_add_up(there)
            pairs = zip(tables_of(store, folder), tables_of(copy, folder), strict=True)
            assert all(ours.equals(theirs) for ours, theirs in pairs)


LIKE_COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "texts": st.one_of(IDS, TEXTS),
    "wholes": st.integers(-(2**31), 2**31),
    "doubles": st.floats() | st.sampled_from([10.0, 1.0, 1609459200.0, 0.1, 1e22]),
    "flags": st.booleans(),
    "lists": st.lists(st.none() | TEXTS, max_size=2),
    "numbers": st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=2),
}


@few
@given(st.data())
def test_parquet_and_json_say_the_same(data: st.DataObject) -> None:
    table = data.draw(st.sampled_from(TABLES))
    count = data.draw(st.integers(1, 5))
    names = [column.name for column in table.columns if column.required or data.draw(st.booleans())]
    columns: dict[str, list[Any]] = {}
    for name in names:
        # What is an object in one format is text in the other: attributes are compared elsewhere.
        kind = data.draw(
            st.sampled_from([one for one in LIKE_COLUMNS if name != "attributes" or one == "texts"])
        )
        cells = data.draw(st.lists(st.none() | LIKE_COLUMNS[kind], min_size=count, max_size=count))
        columns[name] = cells
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    note(str(rows))
    with place() as folder:
        (folder / "json").mkdir()
        (folder / "parquet").mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "json" / f"{table.name}.jsonl").write_text(lines)
        pq.write_table(pa.table(columns), folder / "parquet" / f"{table.name}.parquet")
        outcomes: list[Any] = []
        for form in ("json", "parquet"):
            with Store.open(folder / f"{form}.duckdb") as store:
                options = ImportOptions(create_items=True)
                try:
                    report = import_folder(store, folder / form, rejects=folder / "rejects", options=options)
                except IMPORT_ERRORS as error:
                    outcomes.append(type(error))  # of two columns at fault either may be named
                    continue
                with store.snapshot() as cursor:
                    stored = cursor.execute(f"FROM data.{table.name} ORDER BY ALL").fetchall()
                outcomes.append((report.tables[table.name].rejected, str(stored)))
        assert outcomes[0] == outcomes[1]
