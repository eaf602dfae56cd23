"""Measure our text encoder beside a bare ONNX Runtime loop on the same batches."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from encoder.text import TextEncoder
from scripts.bench_text_bare import BareTextLoop

log = logging.getLogger(__name__)


class TooFewTextsToMeasureError(ValueError):
    """The data hold fewer texts than were asked for."""

    def __init__(self, path: Path, found: int, wanted: int) -> None:
        super().__init__(f"{path} holds {found} different texts, {wanted} are asked for")
        self.found = found


@dataclass(frozen=True)
class TextOptions:
    """What to measure.

    Attributes:
        texts: drawn at random from the different ones.
        calls: texts per call; each pass over all texts is made in calls of one of these sizes.
        threads: of ONNX Runtime, in ours and in the bare loop; None: one per core.
    """

    texts: int = 128
    calls: Sequence[int] = (1, 8, 128)
    threads: int | None = None
    rounds: int = 3
    seed: int = 0


def measure(directories: Sequence[Path], texts: Sequence[str], options: TextOptions) -> dict[str, Any]:
    """Return results and ratios for text models, each a text_models/<text_model_id>.

    Raises:
        DamagedArtifactError, NotATextModelError: of a directory.
    """
    works = [(path.name, calls_of(path, texts, options)) for path in directories]
    steps = [(name, size, way) for name, work in works for size, way in work]
    run = {(name, size, way): calls for name, work in works for (size, way), calls in work.items()}
    times: dict[tuple[str, int, str], list[list[float]]] = {step: [] for step in steps}
    log.info("bench text: %d texts, %d text models", len(texts), len(works))
    for step in steps:
        run[step][0]()
    turns = [step for _ in range(options.rounds) for step in steps]
    for step in tqdm(turns, desc="bench text", unit="pass", disable=None):
        times[step].append([_seconds(call) for call in run[step]])
    results = [
        {
            "text_model": name,
            "texts": size,
            "path": way,
            "throughput": statistics.median(len(texts) / sum(taken) for taken in rounds),
            "p50_ms": statistics.median(1e3 * float(np.percentile(taken, 50)) for taken in rounds),
            "p99_ms": statistics.median(1e3 * float(np.percentile(taken, 99)) for taken in rounds),
        }
        for (name, size, way), rounds in times.items()
    ]
    log.info("bench text: done")
    return {"results": results, "ratios": ratios(results)}


def ratios(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return ours over bare, short names for the first text model at the most texts per call.

    `text_throughput` tokenises on both sides; `text_throughput_ready` does in ours alone.
    `…/speedup` is ours with that text model over ours with the first.
    """
    rates = {(row["text_model"], row["texts"], row["path"]): row["throughput"] for row in results}
    first, most = results[0]["text_model"], max(row["texts"] for row in results)
    found: dict[str, float] = {}
    for (name, size, way), rate in rates.items():
        if way == "ours":
            found[f"{name}/texts{size}_throughput"] = rate / rates[name, size, "bare"]
            found[f"{name}/texts{size}_throughput_ready"] = rate / rates[name, size, "ready"]
            found[f"{name}/texts{size}_speedup"] = rate / rates[first, size, "ours"]
    short = {f"text_throughput{end}": found[f"{first}/texts{most}_throughput{end}"] for end in ("", "_ready")}
    return short | found


def draw(path: Path, options: TextOptions) -> list[str]:
    """Return texts of the texts.parquet in a folder of the import layout, in random order.

    Raises:
        FileNotFoundError: there is none.
        TooFewTextsToMeasureError: it holds fewer different texts than are asked for.
    """
    column = pq.read_table(path / "texts.parquet", columns=["text"]).column("text").to_pylist()
    different = list(dict.fromkeys(text for text in column if text and text.strip()))
    if len(different) < options.texts:
        raise TooFewTextsToMeasureError(path, len(different), options.texts)
    rows = np.random.default_rng(options.seed).permutation(len(different))[: options.texts]
    return [different[row] for row in rows]


def calls_of(
    directory: Path, texts: Sequence[str], options: TextOptions
) -> dict[tuple[int, str], list[Callable[[], object]]]:
    """Return the calls that make a pass over all texts, by texts per call and way.

    `ours` is TextEncoder.encode; `bare` tokenises, pads and runs; `ready` runs on arrays made before.
    """
    encoder = TextEncoder.load(directory, threads=options.threads)
    bare = BareTextLoop(directory, encoder.provider, encoder.batch, options.threads)
    found: dict[tuple[int, str], list[Callable[[], object]]] = {}
    for size in options.calls:
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        found[size, "ready"] = [partial(bare.run, list(bare.batches(part))) for part in parts]
        found[size, "bare"] = [partial(bare.encode, part) for part in parts]
        found[size, "ours"] = [partial(encoder.encode, part) for part in parts]
    return found


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
