"""Measure our text encoder beside a bare ONNX Runtime loop on the same batches."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm import tqdm

from encoder.text import MODEL_FILE, TOKENIZER_FILE, TextEncoder, Vectors
from store.artifact import read_manifest

OURS, BARE, READY = "ours", "bare", "ready"
Call = Callable[[], object]

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
        calls: texts per call; all texts are encoded in calls of each of these sizes.
        threads: of ONNX Runtime, in ours and in the bare loop; None: one per core.
    """

    texts: int = 128
    calls: Sequence[int] = (1, 8, 32)
    threads: int | None = None
    rounds: int = 3
    seed: int = 0


def measure_text_encoding(
    directories: Sequence[Path], texts: Sequence[str], options: TextOptions
) -> dict[str, Any]:
    """Return results and ratios for text models, each a text_models/<text_model_id>.

    Calls on the same texts follow one another in random order, so what else the machine does meets all
    models and ways alike; ratios are medians over these calls.

    Raises:
        DamagedArtifactError, NotATextModelError: of a directory.
    """
    ways = {path.name: ways_of(path, options.threads) for path in directories}
    log.info("bench text: %d texts, %d text models", len(texts), len(ways))
    generator = np.random.default_rng(options.seed)
    results: list[dict[str, Any]] = []
    for size in options.calls:
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        calls = {(name, way): [make(part) for part in parts] for name in ways for way, make in ways[name]}
        steps = list(calls)
        seconds = np.zeros((len(steps), options.rounds, len(parts)))
        for step in steps:
            calls[step][0]()
        turns = list(itertools.product(range(options.rounds), range(len(parts))))
        for turn, part in tqdm(turns, desc=f"{size} a call", unit="turn", disable=None):
            for row in generator.permutation(len(steps)):
                seconds[row, turn, part] = _timed(calls[steps[row]][part])
        results += figure_rows(steps, seconds, size, len(texts))
    log.info("bench text: done")
    return {"results": results, "ratios": text_ratios(results)}


def figure_rows(
    steps: Sequence[tuple[str, str]], seconds: NDArray[np.float64], size: int, texts: int
) -> list[dict[str, Any]]:
    """Return a row of figures for each (text model, way).

    `ours_over_it` is the throughput of our encoder with the same model over this way's, `over_first` this
    way's over our encoder's with the first model; both are medians over calls on the same texts.

    Shapes:
        seconds: (ways, rounds, calls).
    """
    taken = dict(zip(steps, seconds, strict=True))
    first = taken[steps[0][0], OURS]
    return [
        {
            "text_model": name,
            "texts": size,
            "path": way,
            "throughput": texts / float(np.median(mine.sum(axis=1))),
            "p50_ms": 1e3 * float(np.percentile(mine, 50)),
            "p99_ms": 1e3 * float(np.percentile(mine, 99)),
            "ours_over_it": float(np.median(mine / taken[name, OURS])),
            "over_first": float(np.median(first / mine)),
        }
        for (name, way), mine in taken.items()
    ]


def text_ratios(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return ours over bare, short names for the first text model at the most texts per call.

    `text_throughput` tokenises on both sides; `text_throughput_ready` does in ours alone.
    `…_speedup` is ours with that text model over ours with the first.
    """
    rows = {(row["text_model"], row["texts"], row["path"]): row for row in results}
    first, most = results[0]["text_model"], max(row["texts"] for row in results)
    found: dict[str, float] = {}
    for (name, size, way), row in rows.items():
        if way == OURS:
            found[f"{name}/texts{size}_throughput"] = rows[name, size, BARE]["ours_over_it"]
            found[f"{name}/texts{size}_throughput_ready"] = rows[name, size, READY]["ours_over_it"]
            found[f"{name}/texts{size}_speedup"] = row["over_first"]
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


def ways_of(directory: Path, threads: int | None) -> list[tuple[str, Callable[[Sequence[str]], Call]]]:
    """Return the ways to encode texts with a model; each makes a call of some texts, ready to time.

    `ours` is TextEncoder.encode; `bare` tokenises, pads and runs; `ready` runs on arrays made before.
    """
    encoder = TextEncoder.load(directory, threads=threads)
    # A session each: one that is called twice as often finds more of its weights in the processor's cache.
    bare, ready = (BareTextLoop(directory, encoder.provider, encoder.batch, threads) for _ in range(2))
    return [
        (OURS, lambda texts: partial(encoder.encode, texts)),
        (BARE, lambda texts: partial(bare.encode, texts)),
        (READY, lambda texts: partial(ready.run, list(ready.batches(texts)))),
    ]


def _timed(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


Feeds = dict[str, NDArray[np.int64]]
_ERRORS_ONLY = 3  # ONNX Runtime's severity


class BareTextLoop:
    """A tokenizer and an ONNX Runtime session with nothing around them.

    Attributes:
        batch: texts that go through the graph at once.
    """

    def __init__(self, directory: Path, provider: str, batch: int, threads: int | None) -> None:
        facts = read_manifest(directory)
        self.batch = batch
        self._prompt, self._pad = facts["prompt"], facts["pad_token_id"]
        self._tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
        self._tokenizer.enable_truncation(facts["max_tokens"], direction=facts["truncation_side"])
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = threads or 0
        self._session = onnxruntime.InferenceSession(
            str(directory / MODEL_FILE), options, providers=[provider]
        )

    def batches(self, texts: Sequence[str]) -> Iterator[Feeds]:
        """Yield the model's inputs, longest texts first."""
        encodings = self._tokenizer.encode_batch_fast([self._prompt + text for text in texts])
        rows = sorted((one.ids for one in encodings), key=len, reverse=True)
        for start in range(0, len(rows), self.batch):
            part = rows[start : start + self.batch]
            ids = np.full((len(part), len(part[0])), self._pad, dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, one in enumerate(part):
                ids[row, : len(one)], mask[row, : len(one)] = one, 1
            yield {"input_ids": ids, "attention_mask": mask}

    def run(self, batches: Sequence[Feeds]) -> list[Vectors]:
        """Return the vectors of each batch that was made ready."""
        return [self._session.run(["vectors"], feeds)[0] for feeds in batches]

    def encode(self, texts: Sequence[str]) -> list[Vectors]:
        """Return the vectors of each batch, tokenised now."""
        return self.run(list(self.batches(texts)))
