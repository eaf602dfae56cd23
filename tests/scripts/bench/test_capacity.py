"""`bench capacity` on a small home: what it counts, and that larger homes are the units times their sizes."""

from pathlib import Path

import pytest

from scripts.bench.capacity import Units, extended, measure_capacity, size_of
from store.home import Home


@pytest.mark.nightly
def test_every_unit_of_a_home_is_measured_and_the_home_stays_as_it_is(
    small_home: Home, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in small_home.path.rglob("*") if path.is_file()}
    report = measure_capacity(small_home, tmp_path)
    assert all(taken > 0 for taken in report["bytes_per_unit"].values())
    assert report["private_mib_started"].keys() == {"server", "owner", "query"}
    assert report["people"] == report["rows"]["users"]
    assert {path: path.stat().st_mtime_ns for path in small_home.path.rglob("*") if path.is_file()} == before


def test_larger_homes_by_hand() -> None:
    units = Units(index_item=100.0, model_item=50.0, store_row=40.0, state_user=1_000.0, export_row=8.0)
    rows = {"behaviors": 60, "texts": 10, "social": 30, "items": 5}  # ten of each person's
    found = extended(units, rows, people=10, items=1 << 20, users=1 << 30)
    assert found["index_gib"] == pytest.approx(100 / 1024)
    assert found["state_gib"] == pytest.approx(1_000)
    assert found["store_gib"] == pytest.approx(40 * (10 + 1 / 1024))


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"x" * 8192)
    assert size_of(tmp_path) == size_of(tmp_path / "in" / "a") >= 8192
