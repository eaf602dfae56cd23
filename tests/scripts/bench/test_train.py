"""bench train: data that has something to learn, and a report."""

import json
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from encoder.config import TowerConfig
from encoder.tower import fit_closed_form
from encoder.tower.select import HeldOutScorer
from scripts.bench.command import app
from scripts.bench.train import TrainBenchOptions, synthetic_dataset

OPTIONS = TrainBenchOptions(users=1_500, items=400, events=30_000, dim=8)


def test_taste_tells_more_than_popularity_and_a_seed_gives_the_same_data() -> None:
    data = synthetic_dataset(OPTIONS)
    assert data.shape == (1_500, 400)
    assert len(data.history.users) + len(data.held_out["valid"].users) == 30_000
    np.testing.assert_array_equal(data.history.items, synthetic_dataset(OPTIONS).history.items)
    scorer = HeldOutScorer(data, "valid")
    tower = fit_closed_form(data, TowerConfig(dim=64, damping=0.1, user_exponent=0.3))
    popular = np.asarray(data.seen.sum(axis=0), dtype=np.float32)[:, None]
    by_popularity = scorer.score(np.ones((len(scorer.users), 1)), popular)
    assert scorer.score_tower(tower) > 1.2 * by_popularity


def test_the_command_reports_one_fit_and_the_whole(tmp_path: Path) -> None:
    words = ["--users", "60", "--items", "80", "--events", "1500", "--dim", "4"]
    result = CliRunner().invoke(app, ["train", *words, "--json", str(tmp_path / "train.json")])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "train.json").read_text("utf-8"))["results"]
    assert {"one fit", "choice and fit"} <= {row["work"] for row in rows}
    assert all(row["seconds"] > 0 and row["peak_gib"] > 0 for row in rows)
