"""Texts encoded by the workers of `encoder.jobs`: chunks as files there, vectors as files back.

Only the process that gives out the work has the cache open, because LMDB is no file that several machines
may write.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from encoder.jobs import Jobs, check_shared
from encoder.progress import LongStage
from encoder.text.cache import CHUNK, ErasureSafeWriter, TextCache, look_up
from encoder.text.encoder import TextEncoder
from store.disk import sync

_TEXT, _VECTORS = "text", "vectors"


def cache_in_parts(
    encoder: TextEncoder,
    cache: TextCache,
    batches: Iterable[Sequence[str]],
    total: int,
    label: str,
    jobs: Jobs,
    folder: Path,
    writer: ErasureSafeWriter | None = None,
) -> None:
    """Encode the texts that a cache lacks with the workers of `jobs`, and cache their vectors.

    The vectors are those of `encode_with_cache` for one batch after the other. Each chunk is cached as soon
    as it and those before it are encoded, so that a killed run goes on there.

    Args:
        encoder: the language model, whose directory workers see.
        cache: takes the vectors.
        batches: of texts.
        total: how many they are, for the progress.
        label: names them there.
        jobs: encodes.
        folder: that workers see, for chunks on their way; their files are removed as they come back.
        writer: as in `encode_with_cache`.
    """
    store = cache.put if writer is None else writer.put
    under_way: dict[int, list[str]] = {}  # texts by the number of their chunk

    def chunks() -> Iterator[int]:
        number = 0
        for texts in batches:
            distinct, _, missing = look_up(encoder, cache, texts)
            begun = {text for some in under_way.values() for text in some}
            missing = [row for row in missing if distinct[row] not in begun]
            stage.advance(len(texts) - len(missing))
            for start in range(0, len(missing), CHUNK):
                some = [distinct[row] for row in missing[start : start + CHUNK]]
                pq.write_table(pa.table({_TEXT: some}), _texts(folder, number))
                under_way[number] = some
                yield number
                number += 1

    with LongStage(label, total, "text") as stage:
        encode = partial(encode_chunk, encoder.directory, folder)
        for number in jobs.map(encode, chunks(), label):
            some = under_way[number]
            store(encoder.text_model_id, some, load_file(_vectors(folder, number))[_VECTORS])
            del under_way[number]
            for file in (_texts(folder, number), _vectors(folder, number)):
                file.unlink()
            stage.advance(len(some))


def encode_chunk(text_model: Path, folder: Path, number: int) -> int:
    """Encode the texts of a chunk into a file beside them; return its number."""
    check_shared(folder)
    texts = pq.read_table(_texts(folder, number)).column(_TEXT).to_pylist()
    draft = folder / f"{number}.draft"
    save_file({_VECTORS: _encoder_of(text_model).encode(texts)}, draft)
    sync(draft)
    draft.replace(_vectors(folder, number))
    return number


@lru_cache(1)
def _encoder_of(text_model: Path) -> TextEncoder:
    """Load a language model once for all parts of a worker."""
    return TextEncoder.load(text_model, threads=1, device="cpu", verify=False)


def _texts(folder: Path, number: int) -> Path:
    return folder / f"{number}.texts.parquet"


def _vectors(folder: Path, number: int) -> Path:
    return folder / f"{number}.vectors.safetensors"
