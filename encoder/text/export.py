"""The export of a sentence-transformers model to a directory that `TextEncoder` runs without torch."""

import hashlib
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.text.encoder import KIND, MODEL_FILE, TOKENIZER_FILE, TextEncoder, Vectors
from encoder.text.samples import sample_texts
from encoder.text.source import (
    FORMATS,
    POOLINGS,
    PRECISIONS,
    Pooling,
    Precision,
    UnsupportedTextModelError,
    fetch,
    find_text_model,
    source_digest,
)
from store.artifact import DamagedArtifactError, build, read_manifest, verify
from store.export import Export

if TYPE_CHECKING:
    from encoder.text.graph import Sentence

_LONGEST = 512
_TOLERANCE = 1e-5
_INT8_COSINE = 0.97  # the mean that the default model keeps is .99; its neighbours suffer much below
_INT8_TEXTS = 128  # that the loss is measured on: seconds, and a mean to the third digit
_CHECK_TEXTS = (
    "A quiet novel about two sisters.",
    "三体是一部科幻小说。",
    "wireless noise-cancelling headphones, black",
    "深夜食堂:一碗热汤面,四个陌生人 (second edition, 2019)",
    "longer than any model reads " * _LONGEST,
)

log = logging.getLogger(__name__)


class TextExportError(RuntimeError):
    """The exported graph does not give the vectors of the model that it was made from."""

    def __init__(self, source: str, found: str) -> None:
        super().__init__(f"the ONNX export of {source!r} is not faithful: {found}")
        self.source = source
        self.found = found


class Int8LossError(ValueError):
    """A model of 8 bits gives vectors that are too far from those of the whole one."""

    def __init__(self, source: str, cosine: float, texts: int) -> None:
        super().__init__(
            f"text model {source!r} loses too much at int8: cosine {cosine:.3f} to fp32, the mean of {texts} "
            f"texts, below {_INT8_COSINE}; use fp32 (train --precision fp32, compress-text --no-int8)"
        )
        self.source = source
        self.cosine = cosine


def export_text_model(
    source: str,
    text_models: Path,
    *,
    precision: Precision = "fp32",
    pooling: Pooling | None = None,
    export: Export | None = None,
    shared: Path | None = None,
) -> Path:
    """Export a language model to text_models/<text_model_id> and check it; an earlier export is reused.

    Args:
        source: `DEFAULT_SOURCE`, a sentence-transformers hub id or a local folder.
        text_models: where exported language models lie.
        precision: int8 quantises the weights of the matrix products, per channel.
        pooling: overrides what the model's own modules say.
        export: on whose texts the loss of int8 is measured; without any, on sentences of our own. The
            manifest keeps the figures.
        shared: folder of exports for all homes, compared by content; a new export is copied there. Those of
            8 bits are not shared: each home measures its own.

    Returns:
        The directory: exported now, copied from `shared`, or the one of an earlier call.

    Raises:
        ValueError: no such precision or pooling.
        TextModelUnavailableError: the files cannot be had.
        UnsupportedTextModelError: pickled weights, other modules, no fast tokenizer, unknown pooling.
        TextExportError: the graph differs from the model by more than 1e-5 in a coordinate, at fp32.
        Int8LossError: at int8 the mean cosine to fp32 is below 0.97.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if pooling is not None and pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
    found = find_text_model(text_models, source, precision, pooling)
    if found is not None:
        _log_loss(found)
        return found
    shared = None if precision == "int8" else shared
    if shared is not None:
        directory = _from_shared(source, shared, text_models, precision, pooling)
        if directory is not None:
            return directory
    folder = fetch(source)
    log.info("exporting text model %s to ONNX, %s", source, precision)
    texts = sample_texts(export, _INT8_TEXTS) if export is not None and precision == "int8" else []
    directory = _export(source, folder, text_models, precision, pooling, texts)
    log.info("exported text model %s", directory.name)
    _log_loss(directory)
    if shared is not None:
        try:
            _copy(directory, shared, source)
        except OSError as error:  # a full or read-only cache folder costs the next home an export
            log.warning("text model %s is not kept for other homes: %s", directory.name, error)
    return directory


def _from_shared(
    source: str, shared: Path, text_models: Path, precision: Precision, pooling: Pooling | None
) -> Path | None:
    """Copy an export from the shared folder, every byte checked; return None where there is none."""
    try:
        found = find_text_model(shared, source, precision, pooling)
        if found is None:
            return None
        verify(found)
    except DamagedArtifactError as error:
        log.warning("%s; it is made anew", error)
        shutil.rmtree(shared / error.path.relative_to(shared).parts[0])
        return None
    copy = _copy(found, text_models, source)
    log.info("text model %s is copied from %s", copy.name, shared)
    return copy


def _copy(directory: Path, parent: Path, source: str) -> Path:
    """Copy an export below `parent` unless it exists there; its manifest names `source`."""
    target = parent / directory.name
    if target.exists():
        return target
    facts = read_manifest(directory)
    files: dict[str, str] = facts.pop("files")
    with build(parent, directory.name) as draft:
        for name in files:
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / name, draft.path / name)
        draft.facts = facts | {"source": source}
    return target


def _log_loss(directory: Path) -> None:
    """Log the loss of int8 that a manifest holds."""
    loss = read_manifest(directory).get("int8")
    if loss is not None:
        log.info(
            "text model %s: cosine to fp32 %.4f on average, %.4f at least, over %d texts",
            directory.name,
            loss["cosine"],
            loss["least_cosine"],
            loss["texts"],
        )


def _export(
    source: str,
    folder: Path,
    text_models: Path,
    precision: Precision,
    pooling: Pooling | None,
    texts: Sequence[str],
) -> Path:
    from encoder.text.graph import load, quiet, write_graph  # noqa: PLC0415  only an export needs torch

    with quiet():
        sentence = load(source, folder, pooling)
        facts = _facts(source, folder, sentence) | {"precision": precision, "format": FORMATS[precision]}
        directory = text_models / _text_model_id(source, facts)
        if directory.exists():  # the same files under two hub ids that end alike
            return directory
        with build(text_models, directory.name) as draft:
            draft.facts = facts = facts | {"text_model_id": directory.name}
            tokenizer = sentence.model.tokenizer.backend_tokenizer
            tokenizer.save(str(draft.path / TOKENIZER_FILE))
            write_graph(sentence, draft.path / MODEL_FILE, _metadata(facts), int8=precision == "int8")
            encoder = TextEncoder(draft.path, facts, device="cpu")
            if precision == "int8":
                draft.facts["int8"] = _int8_loss(source, sentence, encoder, texts or _CHECK_TEXTS)
            else:
                _check_vectors(source, sentence, encoder)
    return directory


def _facts(source: str, folder: Path, sentence: "Sentence") -> dict[str, Any]:
    model, tokenizer = sentence.model, sentence.model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedTextModelError(source, f"{type(tokenizer).__name__} is no fast tokenizer")
    if tokenizer.pad_token_id is None:
        raise UnsupportedTextModelError(source, "its tokenizer has no padding token")
    return {
        "kind": KIND,
        "source": source,
        "source_digest": source_digest(folder),
        "pooling": sentence.pooling,
        "own_pooling": sentence.own_pooling,
        "dim": int(model.get_embedding_dimension()),
        "max_tokens": min(_LONGEST, int(model.max_seq_length or _LONGEST)),
        "truncation_side": tokenizer.truncation_side,
        "pad_token_id": int(tokenizer.pad_token_id),
        "prompt": model.prompts[model.default_prompt_name] if model.default_prompt_name else "",
    }


def _metadata(facts: dict[str, Any]) -> dict[str, str]:
    names = ("text_model_id", "source_digest", "pooling", "precision", "dim", "max_tokens")
    return {name: str(facts[name]) for name in names}


def _text_model_id(source: str, facts: dict[str, Any]) -> str:
    """Make an id that no two models share: it holds a digest of weights, configuration and tokenizer."""
    name = re.sub(r"[^a-z0-9]+", "-", Path(source).name.lower()).strip("-")[:48] or "model"
    digest = hashlib.sha256(f"{facts['format']} {facts['source_digest']}".encode()).hexdigest()
    return f"{name}-{facts['pooling']}-{facts['precision']}-{digest[:8]}"


def _check_vectors(source: str, sentence: "Sentence", encoder: TextEncoder) -> None:
    """Compare tokenizer, graph and pooling at once with sentence-transformers.  Raises: TextExportError."""
    ours = encoder.encode(_CHECK_TEXTS, pieces=1)  # the model itself cuts
    difference = float(np.abs(_reference_vectors(sentence, encoder, _CHECK_TEXTS) - ours).max())
    if not difference <= _TOLERANCE:
        raise TextExportError(source, f"vectors differ by {difference:.1e}, more than {_TOLERANCE:.0e}")


def _int8_loss(
    source: str, sentence: "Sentence", encoder: TextEncoder, texts: Sequence[str]
) -> dict[str, float]:
    """Measure how near the vectors of 8 bits are to the model's own, as this processor computes them.

    Raises:
        Int8LossError: they are too far from them.
    """
    cosines = (_reference_vectors(sentence, encoder, texts) * encoder.encode(texts, pieces=1)).sum(
        axis=1
    )  # (N,)
    cosine = float(cosines.mean())
    if not cosine >= _INT8_COSINE:
        raise Int8LossError(source, cosine, len(texts))
    return {"cosine": cosine, "least_cosine": float(cosines.min()), "texts": len(texts)}


def _reference_vectors(sentence: "Sentence", encoder: TextEncoder, texts: Sequence[str]) -> Vectors:
    """Encode texts with sentence-transformers itself: unit vectors (N, D) float32."""
    model = sentence.model
    model.max_seq_length = encoder.max_tokens
    # One by one: without padding there is no doubt about what is right.
    vectors = model.encode(list(texts), batch_size=1, normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors)
