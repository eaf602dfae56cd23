"""bench ratings: the rating head of a home beside a library's models."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from encoder.heads.examples import Examples
from scripts.bench.command import app
from scripts.bench.ratings import SurpriseMissingError, _less
from store.home import Home
from tests.command_line import Run


def test_an_interval_is_that_of_the_difference_over_ratings() -> None:
    users = np.repeat(np.arange(40), 3)
    examples = Examples.of_pairs(users, np.zeros(120, dtype=np.int64), np.zeros(120), 1)
    assert _less(examples, np.full(120, 1.0), np.full(120, 3.0)) == [-2, -2]
    noise = np.random.default_rng(0).normal(size=120)
    low, high = _less(examples, noise, np.zeros(120))
    assert low < noise.mean() < high


@pytest.mark.skipif(find_spec("surprise") is not None, reason="scikit-surprise is installed")
def test_without_the_library_it_says_what_to_install(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["ratings", "--home", str(tmp_path)])
    assert isinstance(result.exception, SurpriseMissingError)
    assert "pip install scikit-surprise" in str(result.exception)


@pytest.mark.skipif(find_spec("surprise") is None, reason="scikit-surprise is not installed")
def test_the_head_is_measured_beside_the_library(small_home: Home, tmp_path: Path, run: Run) -> None:
    rng = np.random.default_rng(0)
    kind, good = rng.normal(0, 0.7, 60), rng.normal(0, 0.7, 40)
    rows = [(u, i) for u in range(60) for i in rng.choice(40, 15, replace=False).tolist()]
    behaviors = [
        {
            "user_id": f"u{u:02}",
            "item_id": f"i{i:02}",
            "weight": float(np.clip(3 + kind[u] + good[i], 0.5, 5)),
            "split": ["train", "train", "train", "valid", "test"][n % 5],
        }
        for n, (u, i) in enumerate(rows)
    ]
    folder, home = tmp_path / "tables", tmp_path / "home"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(behaviors), folder / "behaviors.parquet")
    pq.write_table(pa.table({"item_id": [f"i{i:02}" for i in range(40)]}), folder / "items.parquet")
    assert run("import", folder, "--home", home)[0] == 0
    code, _, err = run("train", "--home", home, "--fusion", "ridge", "--dim", 8, "--task", "rating")
    assert code == 0, err
    path = tmp_path / "ratings.json"
    code, out, err = run("bench", "ratings", "--home", home, "--factors", 4, "--epochs", 5, "--json", path)
    assert code == 0, err
    results = {row["model"]: row for row in json.loads(path.read_text("utf-8"))["results"]}
    assert "Triptych" in out
    assert {"Triptych", "BaselineOnly", "KNNBaseline, items"} < set(results)
    assert results["Triptych"]["squared_error_ci95"] == [0, 0]
    assert results["Triptych"]["rmse"] < 0.75
