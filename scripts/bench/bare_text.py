"""A tokenizer and a bare ONNX Runtime loop: the floor that our text encoder is compared with."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from encoder.text.encoder import MODEL_FILE, TOKENIZER_FILE, Vectors
from store.artifact import read_manifest

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
