"""RecBole's files: the rows that evaluate takes for train, valid and test, and all comes back from them."""

from pathlib import Path

import pytest
import yaml

from scripts.exchange import write_recbole
from scripts.exchange.to_recbole import UnwritableIdError
from store.export import Export, create_export
from store.home import Home
from store.imports import import_folder
from store.store import Store
from tests.command_line import Run
from tests.layouts import imported, lines, rows_of, write


def stored(home: Home, **tables: str) -> Export:
    """Import JSON Lines of tables into a home and export it."""
    folder = write(
        home.path.parent / "tables", **{f"{name}_DOT_jsonl": text for name, text in tables.items()}
    )
    with Store.open(home.database) as store:
        import_folder(store, folder, rejects=home.rejects, strict=True)
        return Export.open(home.exports / create_export(store, home.exports))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


ITEMS = lines(
    {
        **{"item_id": "x", "title": "Two\twords", "text": "line\nbreak", "kind": "film"},
        "attributes": {"genres": ["Sci Fi", "War"], "year": 1999, "colour": "dark blue", "deep": {"a": 1}},
    },
    {"item_id": "y", "attributes": {"year": None, "on": True}},
)


def test_the_split_comes_back(home: Home, tmp_path: Path) -> None:
    behaviors = lines(
        {"user_id": "a", "item_id": "x", "action": "rate", "weight": 4.5, "ts": "2024-05-01T00:00:00.25"},
        {"user_id": "a", "item_id": "y", "action": "view", "split": "train"},
        {"user_id": "b", "item_id": "x", "split": "valid", "ts": "2024-05-01"},
        {"user_id": "b", "item_id": "y", "split": "test"},
    )
    social = lines({"user_id": "a", "friend_id": "b", "weight": 2})
    texts = lines(
        {"user_id": "a", "text": "later\tone", "ts": "2024-05-02"},
        {"user_id": "a", "text": "first", "ts": "2024-05-01"},
        {"user_id": "b", "item_id": "x", "text": "on what is held out"},
    )
    with stored(home, items=ITEMS, behaviors=behaviors, social=social, texts=texts) as export:
        files = write_recbole(export, tmp_path / "out", "tiny")
        with pytest.raises(FileExistsError):
            write_recbole(export, tmp_path / "out", "tiny")
    read = {file.name: file.read_text("utf-8") for file in files}
    assert read["tiny.item"] == (
        "item_id:token\ttitle:token_seq\ttext:token_seq\tkind:token\tgenres:token_seq\tyear:float\t"
        "colour:token\ton:token\n"
        "x\tTwo words\tline break\tfilm\tSci_Fi War\t1999.0\tdark_blue\t\ny\t\t\t\t\t\t\tTrue\n"
    )
    assert read["tiny.part2.inter"].splitlines()[1:] == ["b\tx\tinteract\t1.0\t1714521600.0"]
    assert read["tiny.part3.inter"].splitlines()[1:] == ["b\ty\tinteract\t1.0\t"]
    assert read["tiny.net"].splitlines()[1:] == ["a\tb\t2.0"]
    assert read["tiny.user"].splitlines()[1:] == ["a\tfirst later one"]
    settings = yaml.safe_load(read["tiny.yaml"])
    assert settings["benchmark_filename"] == ["part1", "part2", "part3"]
    assert Path(settings["data_path"]) == tmp_path / "out"
    back = imported(tmp_path / "out" / "tiny", "recbole", Home(tmp_path / "back"))
    assert back.refused == set()
    before = rows_of(home)
    assert back.rows["social"] == before["social"]
    assert back.rows["behaviors"] == [(*row[:5], row[5] or "train") for row in before["behaviors"]]
    assert [row[:4] for row in back.rows["items"]] == [
        ("x", "Two words", "line break", "film"),
        ("y", None, None, None),
    ]


def test_without_a_split_there_is_one_file(home: Home, tmp_path: Path) -> None:
    with stored(home, items=ITEMS, behaviors=lines({"user_id": "a", "item_id": "x"})) as export:
        names = {file.name for file in write_recbole(export, tmp_path / "out", "t")}
    assert names == {"t.inter", "t.item", "t.yaml"}
    assert "benchmark_filename" not in (tmp_path / "out" / "t" / "t.yaml").read_text()


def test_an_id_that_the_files_cannot_hold(home: Home, tmp_path: Path) -> None:
    items = lines({"item_id": "x\ty"})
    with (
        stored(home, items=items) as export,
        pytest.raises(UnwritableIdError, match="item_id in row 1 has a tab or a line end"),
    ):
        write_recbole(export, tmp_path / "out", "t")


def test_the_command_writes_them(home: Home, tmp_path: Path, run: Run) -> None:
    stored(home, items=ITEMS, behaviors=lines({"user_id": "a", "item_id": "x"})).close()
    code, out, _ = run("export", "--home", home.path, "--format", "recbole", "--out", tmp_path / "out")
    assert code == 0
    assert str(tmp_path / "out" / "home" / "home.inter") in out.splitlines()
    for words in (
        ["--format", "recbole"],
        ["--out", "x"],
        ["--format", "recbole", "--out", "x", "--name", "a/b"],
    ):
        assert run("export", "--home", home.path, *words)[0] == 2
