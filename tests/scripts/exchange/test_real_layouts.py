"""MovieLens and Last.fm written in their own layouts and read back: the same store, the same evaluation.

Needs a folder with the tables of ml-latest-small and lastfm, which are not part of the repository:

    TRIPTYCH_DATA=~/data pytest tests/scripts/exchange/test_real_layouts.py
"""

import csv
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from store.home import Home
from store.store import Store
from tests.command_line import Run
from tests.layouts import rows_of

DATA = Path(os.environ.get("TRIPTYCH_DATA", "/nonexistent"))
Tables = dict[str, pa.Table]
_GENRES = re.compile(r"Genres: ([^.]*)")
_TEXT = ["user_id", "item_id", "text", "ts"]
_OF_A_RUN = ("dataset", "model_id", "index_id", "seconds")


def tables_of(name: str) -> Tables:
    """The tables of a set, as far as its layout can say them: a tag names what was tagged."""
    tables = {
        table: pq.read_table(DATA / name / f"{table}.parquet") for table in ("items", "behaviors", "social")
    }
    texts = pq.read_table(DATA / name / "texts.parquet")
    kept = texts.filter(pc.is_valid(texts.column("item_id"))).select(["user_id", "item_id", "text", "ts"])
    return tables | {"texts": kept}


def write_rows(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]], separator: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if separator == ",":
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
        else:
            for row in (header, *rows):
                cells = ["" if cell is None else str(cell) for cell in row]
                assert not any(set(cell) & set("\t\n\r") for cell in cells)
                file.write(separator.join(cells) + "\n")


def numbers(times: pa.ChunkedArray, unit: str) -> list[int | None]:
    scale = {"s": 1_000_000, "ms": 1_000}[unit]
    return [
        None if value is None else value // scale
        for value in times.cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
    ]


def columns(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table.column(name).to_pylist() for name in names]


def movielens(tables: Tables, folder: Path) -> pa.Table:
    """Write the layout of latest-small; return the items as it can say them."""
    items, kept = tables["items"], []
    movies = []
    for item, title, text in zip(*columns(items, "item_id", "title", "text"), strict=True):
        found = _GENRES.search((text or "").removeprefix(title))
        genres = [] if found is None else [one.strip() for one in found[1].split(",")]
        movies.append((item, title, "|".join(genres) or "(no genres listed)"))
        year = re.search(r"\((\d{4})\)\s*$", title)
        attributes = ({"genres": genres} if genres else {}) | ({"year": int(year[1])} if year else {})
        kept.append((item, title, f"Genres: {', '.join(genres)}" if genres else None, json.dumps(attributes)))
    write_rows(folder / "movies.csv", ("movieId", "title", "genres"), movies, ",")
    for name, table, value in (("ratings", "behaviors", "weight"), ("tags", "texts", "text")):
        rows = zip(
            *columns(tables[table], "user_id", "item_id", value),
            numbers(tables[table].column("ts"), "s"),
            strict=True,
        )
        header = ("userId", "movieId", "rating" if value == "weight" else "tag", "timestamp")
        write_rows(folder / f"{name}.csv", header, rows, ",")
    names = ("item_id", "title", "text", "attributes")
    made = pa.table(dict(zip(names, map(list, zip(*kept, strict=True)), strict=True)))
    return made.append_column("kind", items.column("kind"))


def lastfm(tables: Tables, folder: Path) -> pa.Table:
    """Write the layout of HetRec; return the items as it can say them."""
    artists, listens, texts = tables["items"], tables["behaviors"], tables["texts"]
    blank = [""] * len(artists)
    rows = zip(*columns(artists, "item_id", "title"), blank, blank, strict=True)
    write_rows(folder / "artists.dat", ("id", "name", "url", "pictureURL"), rows, "\t")
    listened = [
        (u, i, int(w)) for u, i, w in zip(*columns(listens, "user_id", "item_id", "weight"), strict=True)
    ]
    write_rows(folder / "user_artists.dat", ("userID", "artistID", "weight"), listened, "\t")
    friends = zip(*columns(tables["social"], "user_id", "friend_id"), strict=True)
    write_rows(folder / "user_friends.dat", ("userID", "friendID"), friends, "\t")
    tags = {text: at for at, text in enumerate(dict.fromkeys(texts.column("text").to_pylist()), start=1)}
    write_rows(folder / "tags.dat", ("tagID", "tagValue"), ((at, text) for text, at in tags.items()), "\t")
    given = zip(
        *columns(texts, "user_id", "item_id"),
        [tags[text] for text in texts.column("text").to_pylist()],
        numbers(texts.column("ts"), "ms"),
        strict=True,
    )
    header = ("userID", "artistID", "tagID", "timestamp")
    write_rows(folder / "user_taggedartists-timestamps.dat", header, given, "\t")
    return artists.select(["item_id", "title", "kind"])


def evaluated(home: Home, run: Run) -> dict[str, Any]:
    """Train, index and evaluate; the figures without what names the run."""
    file = home.path / "evaluation.json"
    for words in (
        ("train", "--home", home.path, "--epochs", 1, "--members", 1, "--dim", 32),
        ("reindex", "--home", home.path),
        ("evaluate", "--home", home.path, "--split", "test", "--json", file),
    ):
        code, _, error = run(*words)
        assert code == 0, error
    figures: dict[str, Any] = json.loads(file.read_text())
    return {name: value for name, value in figures.items() if name not in _OF_A_RUN}


SETS = {"ml-latest-small": ("movielens", movielens), "lastfm": ("lastfm-hetrec", lastfm)}
pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason="TRIPTYCH_DATA names no folder of data sets"),
    pytest.mark.nightly,
    pytest.mark.timeout(0),
    pytest.mark.parametrize("name", SETS),
]


@pytest.fixture
def homes(name: str, tmp_path: Path, run: Run) -> tuple[Home, Home]:
    """Two homes with the same set: imported from our tables, and from the layout."""
    layout, write = SETS[name]
    tables = tables_of(name)
    direct, folder = tmp_path / "direct", tmp_path / layout
    direct.mkdir()
    folder.mkdir()
    items = write(tables, folder)
    for table, rows in (tables | {"items": items}).items():
        pq.write_table(rows, direct / f"{table}.parquet")
    homes = Home(tmp_path / "one"), Home(tmp_path / "two")
    assert run("import", direct, "--home", homes[0].path, "--strict")[0] == 0
    code, _, error = run("import", folder, "--format", layout, "--home", homes[1].path, "--strict")
    assert code == 0, error
    with Store.open(homes[1].database) as store:
        marks = tables["behaviors"].select(["user_id", "item_id", "action", "ts", "split"])
        store.write_splits(marks, reset=True)
    return homes


def test_a_layout_read_back_is_the_same_store(name: str, homes: tuple[Home, Home]) -> None:
    tables = tables_of(name)
    first, second = (rows_of(home) for home in homes)
    assert first == second
    assert len(first["behaviors"]) == len(tables["behaviors"])
    assert len(first["texts"]) == len(tables["texts"])


def test_a_layout_read_back_evaluates_as_the_direct_import(homes: tuple[Home, Home], run: Run) -> None:
    first = evaluated(homes[0], run)
    shutil.copytree(homes[0].text_models, homes[1].text_models)  # no text is encoded twice
    assert evaluated(homes[1], run) == first
    assert first["k"]["20"]["recall"] > 0
