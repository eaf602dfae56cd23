"""The text benchmark on a tiny random model: what it compares, never how fast anything is."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from encoder.text import TextEncoder
from encoder.text_export import DEFAULT_SOURCE, find_text_model
from scripts.bench import app
from scripts.bench_text import TextOptions, TooFewTextsToMeasureError, draw, ratios
from scripts.bench_text_bare import BareTextLoop

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


def test_ratios_by_hand() -> None:
    rates = {
        ("big", 1, "ours"): 30.0,
        ("big", 1, "bare"): 40.0,
        ("big", 1, "ready"): 60.0,
        ("big", 8, "ours"): 99.0,
        ("big", 8, "bare"): 100.0,
        ("big", 8, "ready"): 110.0,
        ("small", 8, "ours"): 297.0,
        ("small", 8, "bare"): 300.0,
        ("small", 8, "ready"): 330.0,
    }
    results = [
        {"text_model": name, "texts": size, "path": path, "throughput": rate}
        for (name, size, path), rate in rates.items()
    ]
    results += [
        {"text_model": "small", "texts": 1, "path": path, "throughput": 60.0}
        for path in ("ours", "bare", "ready")
    ]
    found = ratios(results)
    assert found["text_throughput"] == found["big/texts8_throughput"] == 0.99
    assert found["text_throughput_ready"] == 0.9
    assert found["big/texts1_throughput_ready"] == 0.5
    assert found["small/texts8_speedup"] == 3
    assert found["small/texts1_speedup"] == 2
    assert found["big/texts8_speedup"] == 1


def test_bench_text_reports_every_way_and_its_ratios(directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "text.json"
    words = ["text", "--text-model", str(directory), "--texts", "9", "--rounds", "1", "--json", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text("utf-8"))
    rows = {(row["texts"], row["path"]): row for row in report["results"]}
    assert rows.keys() == {(size, path) for size in (1, 8, 9) for path in ("ours", "bare", "ready")}
    ratio = rows[9, "ours"]["throughput"] / rows[9, "bare"]["throughput"]
    assert report["ratios"]["text_throughput"] == ratio
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
