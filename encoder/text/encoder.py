"""An exported language model that encodes texts in ONNX Runtime, without torch or transformers."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from store.artifact import DamagedArtifactError, read_manifest
from store.artifact import verify as verify_artifact

Device = Literal["auto", "cpu", "cuda"]
Vectors = NDArray[np.float32]
Pieces = Mapping[int, Sequence[Sequence[int]]]  # of each text by its row, the token ids

KIND = "text_model"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
TEXT_RULE = 2  # how a long text becomes a vector: 1 cut it, 2 reads it in pieces
MAX_PIECES = 16
_BATCH = {CPU: 8, CUDA: 64}  # measured: on a CPU 64 is no faster than 8
_CHUNK = 512  # texts whose tokens are in memory at once while they are counted
_TINY = 1e-12
_ERRORS_ONLY = 3  # ONNX Runtime's severity; a session has nothing else to say to our users

log = logging.getLogger(__name__)


class NotATextModelError(ValueError):
    """A directory is intact but holds no language model, or another one than its name says."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"{directory} is no text model that can be used: {reason}")
        self.directory = directory
        self.reason = reason


class CudaUnavailableError(RuntimeError):
    """The device is to be cuda, but ONNX Runtime does not offer it."""

    def __init__(self, offered: Sequence[str]) -> None:
        super().__init__(
            f"device cuda was asked for, but ONNX Runtime offers only {', '.join(offered)}: "
            "install the extra `gpu` on a machine with an NVIDIA driver, or use --device cpu"
        )
        self.offered = tuple(offered)


class TextEncoder:
    """A language model that maps texts to unit vectors; threads may share it.

    A text that is longer than the model reads is read in pieces of that length, MAX_PIECES at most; its
    vector is the mean of theirs, weighted by their tokens, scaled to length 1. A default prompt of the model
    stands before the first piece only.

    Attributes:
        directory: what it was loaded from.
        text_model_id: name of the directory; part of the key of everything derived from the vectors.
        dim: length of a vector.
        max_tokens: of one piece.
        one_piece_bytes: a text of at most so many UTF-8 bytes is one piece.
        provider: the ONNX Runtime execution provider in use.
        batch: texts that go through the graph at once, at most.
    """

    def __init__(
        self,
        directory: Path,
        facts: Mapping[str, Any],
        *,
        threads: int | None = None,
        device: Device = "auto",
    ) -> None:
        self.directory = directory
        self.text_model_id: str = facts["text_model_id"]
        self.dim: int = facts["dim"]
        self.max_tokens: int = facts["max_tokens"]
        self._prompt: str = facts["prompt"]
        self._pad: int = facts["pad_token_id"]
        self._session = _session(directory / MODEL_FILE, threads, device)
        self.provider: str = self._session.get_providers()[0]
        self.batch: int = _BATCH[self.provider]
        inside = self._session.get_modelmeta().custom_metadata_map.get("text_model_id")
        if inside != self.text_model_id:
            raise NotATextModelError(directory, f"{MODEL_FILE} says it is {inside!r}")
        self._tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
        self._tokenizer.enable_truncation(self.max_tokens, direction=facts["truncation_side"])
        self._tokenizer.no_padding()  # padded here, to the longest of a batch
        self._added = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self.one_piece_bytes = self.max_tokens - self._added - len(self._prompt.encode())

    @classmethod
    def load(
        cls, directory: Path, *, threads: int | None = None, device: Device = "auto", verify: bool = True
    ) -> Self:
        """Load the encoder of a directory.

        Args:
            directory: text_models/<text_model_id>, as `export_text_model` wrote it.
            threads: of one call; None: one per core.
            device: auto takes CUDA where ONNX Runtime offers it.
            verify: read every byte against its checksum first; else the manifest alone.

        Raises:
            DamagedArtifactError: a file is missing, added or changed.
            NotATextModelError: it holds something else, or was renamed.
            CudaUnavailableError: device is cuda and there is none.
        """
        facts = verify_artifact(directory) if verify else read_manifest(directory)
        if facts.get("kind") != KIND:
            raise NotATextModelError(directory, f"its kind is {facts.get('kind')!r}")
        if facts["text_model_id"] != directory.name:
            raise NotATextModelError(directory, f"its manifest says it is {facts['text_model_id']!r}")
        for name in (MODEL_FILE, TOKENIZER_FILE):
            if not (directory / name).is_file():
                raise DamagedArtifactError(directory / name, "is missing")
        encoder = cls(directory, facts, threads=threads, device=device)
        log.info("text model %s runs on %s", encoder.text_model_id, encoder.provider)
        return encoder

    def encode(
        self,
        texts: Sequence[str],
        pieces: int = MAX_PIECES,
        before_each_run: Callable[[], None] = lambda: None,
    ) -> Vectors:
        """Encode texts into unit vectors, in the order given; a blank text gives a zero row.

        Args:
            texts: of any length.
            pieces: of a text, at most; the rest is cut off.
            before_each_run: called before each batch of pieces; an error that it raises ends the encoding.

        Shapes:
            returns: (N, D) float32.
        """
        return self._vectors(len(texts), self._tokens(texts, pieces), before_each_run)

    def count_pieces(self, texts: Sequence[str]) -> list[int]:
        """Count the pieces in which each text would be read if there were no bound; a blank text has none."""
        counts = [int(bool(text.strip())) for text in texts]
        longer = [row for row, text in enumerate(texts) if len(text.encode()) > self.one_piece_bytes]
        for start in range(0, len(longer), _CHUNK):
            rows = longer[start : start + _CHUNK]
            pieces_of = self._tokens([texts[row] for row in rows], None)
            for place, row in enumerate(rows):
                counts[row] = len(pieces_of.get(place, ()))
        return counts

    def encode_chunks(self, chunks: Iterable[Sequence[str]]) -> Iterator[Vectors]:
        """Encode chunk by chunk, as `encode` does; a thread tokenises the next chunk meanwhile."""
        before: tuple[int, Future[Pieces]] | None = None
        with ThreadPoolExecutor(1, "tokenise") as pool:
            for chunk in chunks:
                following = len(chunk), pool.submit(self._tokens, chunk)
                if before is not None:
                    yield self._vectors(before[0], before[1].result())
                before = following
            if before is not None:
                yield self._vectors(before[0], before[1].result())

    def _tokens(self, texts: Sequence[str], pieces: int | None = MAX_PIECES) -> Pieces:
        """Tokenise the texts that are not blank into pieces; None sets no bound to their number."""
        rows = [row for row, text in enumerate(texts) if text.strip()]
        encodings = self._tokenizer.encode_batch_fast([self._prompt + texts[row] for row in rows])
        pieces_of = {}
        for row, encoding in zip(rows, encodings, strict=True):
            ids = encoding.ids
            more = encoding.overflowing if len(ids) == self.max_tokens else ()
            if ids:
                pieces_of[row] = [ids, *(one.ids for one in more)][:pieces]
        return pieces_of

    def _vectors(
        self, count: int, pieces: Pieces, before_each_run: Callable[[], None] = lambda: None
    ) -> Vectors:
        # Batches of like length need little padding; longest first, so memory is claimed once.
        whole = [(row, ids) for row, some in pieces.items() for ids in some]
        whole.sort(key=lambda piece: len(piece[1]), reverse=True)
        vectors = np.zeros((count, self.dim), dtype=np.float32)
        for start in range(0, len(whole), self.batch):
            batch = whole[start : start + self.batch]
            before_each_run()
            encoded = self._run([ids for _, ids in batch])  # (B, D)
            for (row, ids), vector in zip(batch, encoded, strict=True):
                if len(pieces[row]) == 1:
                    vectors[row] = vector
                else:
                    vectors[row] += vector * np.float32(len(ids) - self._added)
        split = [row for row, some in pieces.items() if len(some) > 1]
        if split:
            norms = np.linalg.norm(vectors[split].astype(np.float64), axis=1, keepdims=True)
            vectors[split] = (vectors[split] / np.maximum(norms, _TINY)).astype(np.float32)
        return vectors

    def _run(self, batch: Sequence[Sequence[int]]) -> Vectors:
        shape = (len(batch), max(map(len, batch)))
        input_ids = np.full(shape, self._pad, dtype=np.int64)  # (B, L)
        attention_mask = np.zeros(shape, dtype=np.int64)  # (B, L)
        for row, ids in enumerate(batch):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        vectors: Vectors = self._session.run(["vectors"], feeds)[0]
        return vectors


def item_text(title: str | None, text: str | None) -> str:
    """Join title and text of an item into one text; a title that the text begins with is not repeated."""
    head, body = (title or "").strip(), (text or "").strip()
    if body.startswith(head):
        return body
    return f"{head}\n{body}" if body else head


def _session(path: Path, threads: int | None, device: Device) -> onnxruntime.InferenceSession:
    offered = onnxruntime.get_available_providers()
    wanted: list[Any] = [CPU]
    if device != "cpu" and CUDA in offered:
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
        wanted = [(CUDA, {"use_tf32": "0"}), CPU]  # TF32 would part the vectors from a CPU's by 1e-3
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    if device == "cuda" and session.get_providers()[0] != CUDA:
        raise CudaUnavailableError(session.get_providers())
    if len(wanted) > len(session.get_providers()):
        log.warning("ONNX Runtime is built for CUDA but cannot use it here: texts are encoded on the CPU")
    return session
