"""The text benchmark on a tiny random model: what it compares, never how fast anything is."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from encoder.text.encoder import TextEncoder
from encoder.text.source import DEFAULT_SOURCE, find_text_model
from scripts.bench.command import app
from scripts.bench.text import (
    BareTextLoop,
    TextOptions,
    TooFewTextsToMeasureError,
    draw,
    figure_rows,
    text_ratios,
)

TEXTS = ("a novel about the sea", "三体是一部科幻小说", "shoes", "one two three four five six seven", "red")


@pytest.fixture(scope="module")
def directory(text_models_dir: Path) -> Path:
    found = find_text_model(text_models_dir, DEFAULT_SOURCE)
    assert found is not None
    return found


def test_the_bare_loop_runs_the_batches_of_our_encoder(directory: Path) -> None:
    encoder = TextEncoder.load(directory, verify=False, device="cpu")
    bare = BareTextLoop(directory, encoder.provider, 2, None)
    batches = list(bare.batches(TEXTS))
    assert [feeds["input_ids"].shape[0] for feeds in batches] == [2, 2, 1]
    lengths = np.concatenate([feeds["attention_mask"].sum(axis=1) for feeds in batches])
    assert lengths.tolist() == sorted(lengths, reverse=True)
    assert [feeds["input_ids"].shape[1] for feeds in batches] == lengths[::2].tolist()  # no more padding
    ours = encoder.encode(TEXTS)
    found = np.concatenate([bare.run([feeds])[0] for feeds in batches])
    cosines = found @ ours.T  # the same vectors, in another order
    np.testing.assert_allclose(cosines.max(axis=1), 1, atol=1e-5)
    assert sorted(cosines.argmax(axis=1).tolist()) == list(range(len(TEXTS)))
    np.testing.assert_array_equal(np.concatenate(bare.encode(TEXTS)), found)


def test_texts_are_drawn_without_repetition(tmp_path: Path) -> None:
    texts = pa.table({"user_id": list("abcdef"), "text": ["one", "two", "one", None, " ", "three"]})
    pq.write_table(texts, tmp_path / "texts.parquet")
    assert sorted(draw(tmp_path, TextOptions(texts=3))) == ["one", "three", "two"]
    assert len({tuple(draw(tmp_path, TextOptions(texts=3, seed=seed))) for seed in range(20)}) > 1
    with pytest.raises(TooFewTextsToMeasureError, match="holds 3 different texts, 4 are asked for"):
        draw(tmp_path, TextOptions(texts=4))
    with pytest.raises(FileNotFoundError):
        draw(tmp_path / "gone", TextOptions())


def test_ratios_are_medians_over_calls_on_the_same_texts() -> None:
    steps = [(name, way) for name in ("big", "small") for way in ("ours", "bare", "ready")]
    ours = np.array([[1.0, 2.0, 9.0]])  # one round, three calls
    seconds = np.stack([ours, 2 * ours, ours / 2, ours / 4, ours / 4 + [[0, 0, 99]], ours / 5])
    rows = figure_rows(steps, seconds, 8, 24)
    assert [row["throughput"] for row in rows[:3]] == [2, 1, 4]
    assert [row["p50_ms"] for row in rows] == [2000, 4000, 1000, 500, 500, 400]
    assert [row["ours_over_it"] for row in rows] == pytest.approx([1, 2, 0.5, 1, 1, 0.8])
    assert [row["over_first"] for row in rows] == pytest.approx([1, 0.5, 2, 4, 4, 5])
    found = text_ratios([*figure_rows(steps, seconds, 1, 3), *rows])
    assert found["text_throughput"] == found["big/texts8_throughput"] == 2
    assert found["text_throughput_ready"] == found["big/texts1_throughput_ready"] == 0.5
    assert found["small/texts8_speedup"] == found["small/texts1_speedup"] == 4
    assert found["big/texts8_speedup"] == 1


def test_bench_text_reports_every_way_and_its_ratios(directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "text.json"
    words = ["text", "--text-model", str(directory), "--texts", "9", "--rounds", "1", "--json", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text("utf-8"))
    rows = {(row["texts"], row["path"]): row for row in report["results"]}
    assert rows.keys() == {(size, path) for size in (1, 8, 32) for path in ("ours", "bare", "ready")}
    assert report["ratios"]["text_throughput"] == rows[32, "bare"]["ours_over_it"] > 0
    assert report["ratios"]["text_throughput_ready"] == rows[32, "ready"]["ours_over_it"] > 0
    assert report["ratios"][f"{directory.name}/texts1_speedup"] == 1
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
