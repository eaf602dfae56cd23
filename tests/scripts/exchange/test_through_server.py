"""Layouts into the home of a running server: it imports the parts, and an erasure leaves none behind."""

import json
from pathlib import Path

import pytest

from scripts.exchange.command import import_sources
from scripts.exchange.conversion import convert
from scripts.exchange.formats import LAYOUTS
from scripts.exchange.unfinished import Unfinished
from server.app import running
from server.config import ServerConfig
from store.home import Home
from store.imports import ImportOptions
from tests.layouts import refused_rows, write
from tests.live_server import copy_home
from triptych_client import CallError, Client

WHAT = {"layout": "test"}
RATINGS = "userId,movieId,rating,timestamp\nfrom-layout,m1,4,964982703\nfrom-layout,m1,bad,1\n"


def test_a_layout_goes_through_a_running_server(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    folder = write(tmp_path / "ml", ratings_DOT_csv=RATINGS)
    sources = LAYOUTS["movielens"].find(folder, None)
    with running(ServerConfig(home, port=0)) as address, Client(address) as client:
        with pytest.raises(CallError, match=r"ratings\.csv, row 3: weight_not_a_number: weight = 'bad'"):
            import_sources(home, sources, WHAT, ImportOptions(strict=True, create_items=True))
        report = import_sources(home, sources, WHAT, ImportOptions(create_items=True))
        assert report.tables["behaviors"].inserted == report.tables["behaviors"].items_made == 1
        assert refused_rows(report) == {("ratings.csv", 3, "weight_not_a_number")}
        rows = client.export_user("from-layout")["behaviors"]
        assert [row["item_id"] for row in rows] == ["m1"]


def test_an_erasure_removes_what_imports_left(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    folder = write(tmp_path / "ml", ratings_DOT_csv=RATINGS)
    sources = LAYOUTS["movielens"].find(folder, None)
    with running(ServerConfig(home, port=0)) as address, Client(address) as client:
        for name in ("left", "runs"):
            with Unfinished.of(home.imports, {"layout": name}, restart=False) as unfinished:
                convert(sources, unfinished)
        with Unfinished.of(home.imports, {"layout": "runs"}, restart=False) as unfinished:
            client.erase_user("from-layout")
            assert list(home.imports.iterdir()) == [unfinished.path]
            assert json.loads((unfinished.path / "progress.json").read_text())["progress"]["file"] == 1
