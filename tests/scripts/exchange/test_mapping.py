"""Mapping files: every key, wrong ones named with their place; first mappings read what was sniffed."""

import gzip
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.exchange.lines import Lines
from scripts.exchange.mapping import MappingError, read_mapping
from scripts.exchange.records import ParquetRows, Position
from scripts.exchange.sniff import CannotSniffError, sniff
from scripts.exchange.sources import NoSuchLayoutError
from store.home import Home
from store.imports import ImportOptions, UnreadableFileError
from tests.command_line import Run
from tests.layouts import Imported, imported_sources, lines, rows_of, write

EVENTS = (
    'uid;sku;event;stars;when;words\na;x;view;;01.02.2024 03:04;"nice; one"\nb;y;buy;4.5;02.02.2024 03:04;\n'
    "c;y;spam;1;02.02.2024 03:04;no\nd;y;odd;1;02.02.2024 03:04;\ne;y;buy;1;2024;\n"
)
MAPPING = """
[[file]]
path = "events*.csv"
table = "behaviors"
separator = ";"
encoding = "utf-8"
[file.columns]
user_id = "uid"
item_id = "sku"
action = { column = "event", values = { view = "seen", buy = "bought" }, other = "refuse" }
weight = { column = "stars", default = 2 }
ts = { column = "when", time = "%d.%m.%Y %H:%M" }

[[file]]
path = "events*.csv"
table = "texts"
separator = ";"
[file.columns]
user_id = "uid"
text = { column = "words", empty = "skip" }

[[file]]
path = "things.jsonl.gz"
table = "items"
form = "jsonl"
[file.columns]
item_id = "id.main"
title = "name"
text = { columns = ["about", "more"], between = " / " }
kind = { value = "thing" }
attributes = { columns = ["colours", "size"], split = { colours = "|" } }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    things = lines(
        {"id": {"main": "x"}, "name": "X", "about": "a", "more": "b", "colours": "red|blue", "size": 3},
        {"id": {"main": 7}, "name": None, "colours": ""},
        {"name": "no id"},
        "[]",
    )
    return write(tmp_path / "in", events1_DOT_csv=EVENTS, things_DOT_jsonl_DOT_gz=things)


def mapped(folder: Path, mapping: str) -> Imported:
    file = folder.parent / "mapping.toml"
    file.write_text(mapping)
    home = Home(folder.parent / "home")
    return imported_sources(read_mapping(file, folder), home, ImportOptions(create_items=True))


def test_every_key_of_a_mapping(folder: Path) -> None:
    done = mapped(folder, MAPPING)
    assert done.rows["items"] == [
        ("7", None, None, "thing", "{}", True),
        ("x", "X", "a / b", "thing", '{"colours":["red","blue"],"size":3}', True),
        ("y", None, None, None, "{}", True),
    ]
    assert done.rows["behaviors"] == [
        ("a", "x", "seen", 2.0, "2024-02-01 03:04:00", None),
        ("b", "y", "bought", 4.5, "2024-02-02 03:04:00", None),
    ]
    assert done.rows["texts"] == [("a", None, "nice; one", None), ("c", None, "no", None)]
    assert done.refused == {
        ("things.jsonl.gz", 3, "empty_item_id"),
        ("things.jsonl.gz", 4, "malformed_row"),
        ("events1.csv", 4, "value_not_in_the_mapping"),
        ("events1.csv", 5, "value_not_in_the_mapping"),
        ("events1.csv", 6, "unparsable_time"),
    }


def test_other_values_are_left_out_or_kept(folder: Path) -> None:
    done = mapped(folder, MAPPING.replace('other = "refuse"', 'other = "skip"'))
    assert {row[0] for row in done.rows["behaviors"]} == {"a", "b"}
    assert not [reason for _, _, reason in done.refused if reason == "value_not_in_the_mapping"]
    done = mapped(folder, MAPPING.replace('other = "refuse"', 'other = "keep"'))
    assert {row[2] for row in done.rows["behaviors"]} == {"seen", "bought", "spam", "odd"}


def test_tables_without_a_header(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", u_DOT_data="1::2::1714521600123\n1::3::x\n")
    done = mapped(
        folder,
        """
        [[file]]
        path = "u.data"
        table = "behaviors"
        separator = "::"
        quotes = false
        header = false
        names = ["who", "what", "when"]
        columns = { user_id = "who", item_id = "what", ts = { column = "when", time = "ms" } }
        """,
    )
    assert done.rows["behaviors"] == [("1", "2", "interact", 1.0, "2024-05-01 00:00:00.123", None)]
    assert done.refused == {("u.data", 2, "unparsable_time")}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('[[file]]\npath = "ev', 'fiel = 1\n[[file]]\npath = "ev', "unknown key 'fiel': did you mean file"),
        (
            "split = { colours",
            "split = { colors",
            r"attributes\.split: unknown key 'colors': did you mean colours",
        ),
        (
            'separator = ";"\nen',
            'seperator = ";"\nen',
            "file 1: unknown key 'seperator': did you mean separator?",
        ),
        (
            'item_id = "sku"',
            'itm_id = "sku"',
            r"file 1\.columns: unknown key 'itm_id': did you mean item_id\?",
        ),
        ('item_id = "sku"\n', "", r"file 1\.columns: behaviors needs a column item_id"),
        ('"uid"', '"udi"', r"file 1\.columns: events1\.csv has no column 'udi': did you mean 'uid'\?"),
        ('"uid"', '"zz"', r"has no column 'zz'; it has uid, sku, event, stars, when, words"),
        ('"behaviors"', '"behaviours"', r"file 1\.table: 'behaviours' is none of items, behaviors"),
        ('"behaviors"', "7", r"file 1\.table: 7 is none of"),
        ("events*.csv", "missing.csv", r"file 1\.path: no file missing\.csv at"),
        ("events*.csv", "/etc/hosts", r"file 1\.path: it must be the name of a file below PATH"),
        ('"utf-8"', '"klingon"', r"file 1\.encoding: encoding 'klingon' is unknown"),
        ('";"\nen', '";;"\nen', r"file 1\.separator: it must be one character"),
        ('form = "jsonl"', 'form = "xml"', r"file 3\.form: 'xml' is none of csv, jsonl, parquet"),
        ('form = "jsonl"', 'separator = ","', r"file 3\.separator: it is for csv"),
        ('form = "jsonl"', 'form = "csv"', r"things\.jsonl\.gz has no column"),
        ('other = "refuse"', 'other = "drop"', r"action\.other: 'drop' is none of skip, keep, refuse"),
        ('other = "refuse"', "others = 1", r"columns\.action: unknown key 'others': did you mean other\?"),
        ('values = { view = "seen", buy = "bought" }', "values = 3", r"action\.values: it must be a table"),
        ('time = "%d.%m.%Y %H:%M"', 'time = "minutes"', r"columns\.ts\.time: 'minutes' is none of s, ms"),
        (', time = "%d.%m.%Y %H:%M"', "", r"columns\.ts: say what times look like"),
        ("default = 2", 'time = "s"', r"columns\.weight\.time: it is for ts and updated_at"),
        ("default = 2", "split = {}", r"columns\.weight\.split: it is for several columns"),
        ('user_id = "uid"', "user_id = 7", r"columns\.user_id: it must be the name of a column"),
        ('user_id = "uid"', 'user_id = ["uid", "sku"]', r"user_id: only a text, a title and attributes"),
        (
            '{ value = "thing" }',
            '{ value = "thing", column = "x" }',
            r"kind: it needs one of column, columns",
        ),
        ('empty = "skip"', 'empty = "drop"', r"columns\.text\.empty: it can only be \"skip\""),
        (
            '{ columns = ["colours", "size"], split = { colours = "|" } }',
            '{ columns = "x" }',
            "must be a list of names",
        ),
        ('separator = ";"\nencoding', "header = false\nencoding", r"file 1\.names: without a header"),
        ("[[file]]", "[[file", "it is no TOML"),
    ],
)
def test_a_wrong_mapping_names_the_place(folder: Path, old: str, new: str, message: str) -> None:
    assert old in MAPPING
    with pytest.raises(MappingError, match=message):
        mapped(folder, MAPPING.replace(old, new, 1))


def test_an_empty_mapping(folder: Path) -> None:
    with pytest.raises(MappingError, match="it describes no file"):
        mapped(folder, "")


SAMPLES: dict[str, tuple[bytes, dict[str, object]]] = {
    "semicolons.csv": (
        b"User ID;Product;Event;Timestamp\na;x;view;2024-01-02T03:04:05Z\nb;y;buy;2024-01-03 03:04:05\n",
        {"behaviors": [("a", "x", "view", 1.0, "2024-01-02 03:04:05", None)]},
    ),
    "u.data": (
        b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
        {"behaviors": [("186", "302", "interact", 3.0, "1998-04-04 19:22:22", None)]},
    ),
    "ratings.dat": (
        b"1::1193::5::978300760\n1::661::3::978302109\n",
        {"behaviors": [("1", "1193", "interact", 5.0, "2000-12-31 22:12:40", None)]},
    ),
    "reviews.jsonl.gz": (
        gzip.compress(
            lines(
                {
                    "reviewerID": "A",
                    "asin": "p",
                    "overall": 5,
                    "reviewText": "Fine.",
                    "unixReviewTime": 1514764800,
                },
                {"reviewerID": "B", "asin": "p", "overall": 4, "unixReviewTime": 1514764800},
            ).encode()
        ),
        {
            "behaviors": [("A", "p", "interact", 5.0, "2018-01-01 00:00:00", None)],
            "texts": [("A", "p", "Fine.", "2018-01-01 00:00:00")],
        },
    ),
    "friends.tsv": (
        b"userID\tfriendID\n2\t275\n2\t428\n",
        {"social": [("2", "275", "friend", 1.0)]},
    ),
    "shown.csv": (
        b"user_id,item_id,impression_id,position,clicked,date\na,x,q1,0,1,05.03.2024\nb,y,q2,1,0,06.03.2024\n",
        {"impressions": [("a", "x", "2024-03-05 00:00:00", 0, "q1", True)]},
    ),
    "caf\xe9.csv": (
        "item_id,name,description,genres,price\n1,Caf\xe9,Good,A|B,3\n2,Bar,Bad,B|C,4\n".encode("latin-1"),
        {"items": [("1", "Café", "Good", None, '{"genres":["A","B"],"price":"3"}', True)]},
    ),
    "comments.csv": (
        b"user,item,comment\na,x,Very good indeed\nb,y,Very bad indeed\n",
        {"texts": [("a", "x", "Very good indeed", None)]},
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_first_mapping_reads_what_was_sniffed(name: str, tmp_path: Path) -> None:
    content, expected = SAMPLES[name]
    path = tmp_path / name
    path.write_bytes(content)
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(sniff(path))
    home = Home(tmp_path / "home")
    done = imported_sources(read_mapping(mapping, path), home, ImportOptions(create_items=True))
    assert done.refused == set()
    assert done.rows.keys() - {"items"} == expected.keys() - {"items"}
    for table, rows in expected.items():
        assert isinstance(rows, list)
        assert rows[0] in done.rows[table]


def test_parquet_with_columns_of_others(tmp_path: Path) -> None:
    path = tmp_path / "visits.parquet"
    times = pa.array([datetime(2024, 5, 1), datetime(2024, 5, 2), None], pa.timestamp("ns", tz="UTC"))
    rows = {"uid": [7, 8, None], "sku": ["x", "y", "z"], "when": times, "tags": [["a", "b"], [], None]}
    pq.write_table(pa.table(rows), path, row_group_size=2)
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(sniff(path))
    home = Home(tmp_path / "home")
    done = imported_sources(read_mapping(mapping, path), home, ImportOptions(create_items=True))
    assert done.rows["behaviors"] == [
        ("7", "x", "interact", 1.0, "2024-05-01 00:00:00", None),
        ("8", "y", "interact", 1.0, "2024-05-02 00:00:00", None),
    ]
    assert done.refused == {("visits.parquet", 3, "empty_user_id")}
    with Lines(path) as lines:
        behind = list(ParquetRows().records(lines, Position(1, 2)))
        assert [record.number for record in behind] == [3]
        assert lines.consumed == path.stat().st_size
    path.write_text("no Parquet")
    with pytest.raises(UnreadableFileError, match="it is no Parquet file"):
        sniff(path)


def test_what_is_no_table_is_not_guessed(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_DOT_csv="colour,size\nred,3\n",
        b_DOT_csv="",
        c_DOT_jsonl="[\n1,\n2]\n",
        d_DOT_csv="a,a\n1,2\n",
    )
    for name, message in (
        ("a.csv", "none of its columns may be a person or an item: colour, size"),
        ("b.csv", "it is empty"),
        ("c.jsonl", "its first lines hold no JSON object"),
        ("d.csv", "its first line gives the columns a, a"),
    ):
        with pytest.raises(CannotSniffError, match=message):
            sniff(tmp_path / name)
    with pytest.raises(NoSuchLayoutError, match=r"looked for files that end in \.csv"):
        sniff(write(tmp_path / "none", x_DOT_pdf=""))


def test_the_command_sniffs_and_reads(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "in",
        visits_DOT_csv="user,sku,time\n" + "".join(f"a{at},x,171452160{at}\n" for at in range(9)),
    )
    code, out, _ = run("import", "--sniff", "in")
    assert code == 0
    assert "2024-05-01 00:00:04" in out  # the fifth row
    assert "2024-05-01 00:00:05" not in out
    code, _, error = run("import", "--sniff", "in")
    assert (code, "mapping.toml is there already and is not replaced" in error) == (1, True)
    code, out, _ = run("import", "in", "--map", "mapping.toml", "--home", "h", "--create-items")
    assert code == 0
    assert len(rows_of(Home(tmp_path / "h"))["behaviors"]) == 9
    code, _, error = run("import", "in", "--map", "other.toml", "--home", "h")
    assert (code, "other.toml" in error) == (1, True)


def test_options_that_do_not_go_together(tmp_path: Path, run: Run) -> None:
    write(tmp_path, m_DOT_toml="")
    for words, message in (
        ([], "which home"),
        (["--home", tmp_path / "h", "--limit", 3], "for --map and for layouts of others"),
        (["--home", tmp_path / "h", "--restart"], "for --map and for layouts of others"),
        (["--home", tmp_path / "h", "--format", "yelp", "--map", tmp_path / "m.toml"], "needs no mapping"),
    ):
        code, _, error = run("import", tmp_path, *words)
        assert (code, message in " ".join(error.replace("│", " ").split())) == (2, True), error
    code, _, error = run("import", tmp_path / "missing", "--format", "yelp", "--home", tmp_path / "h")
    assert (code, "missing is not there" in error) == (1, True)


def test_a_layout_by_the_command_names_its_licence(tmp_path: Path, run: Run) -> None:
    folder = write(tmp_path / "ml", ratings_DOT_csv="userId,movieId,rating,timestamp\n1,2,3,4\n")
    code, out, error = run("import", folder, "--format", "movielens", "--home", tmp_path / "h")
    assert (code, "licence: MovieLens" in out, "say --create-items" in out) == (1, True, True)
    assert "every row was refused of behaviors: unknown_item" in error
    code, out, _ = run("import", folder, "--format", "movielens", "--home", tmp_path / "h", "--create-items")
    assert code == 0
    assert len(rows_of(Home(tmp_path / "h"))["behaviors"]) == 1
