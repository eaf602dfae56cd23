"""A sentence-transformers model to a directory that `encoder.text` runs without torch."""

import hashlib
import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.text import KIND, MODEL_FILE, TOKENIZER_FILE, TextEncoder
from encoder.text_source import (
    DEFAULT_SOURCE,
    FORMAT,
    POOLINGS,
    PRECISIONS,
    Pooling,
    Precision,
    TextModelUnavailableError,
    UnsupportedTextModelError,
    fetch,
    find_text_model,
    source_digest,
)
from store.artifact import DamagedArtifactError, build, read_manifest, verify

if TYPE_CHECKING:
    from encoder.text_graph import Sentence

__all__ = [
    "DEFAULT_SOURCE",
    "TextExportError",
    "TextModelUnavailableError",
    "UnsupportedTextModelError",
    "export_text_model",
    "find_text_model",
]

_LONGEST = 512
_TOLERANCE = 1e-5
_INT8_COSINE = 0.9  # a real model at int8 is above .98; below this it is broken
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


def export_text_model(
    source: str,
    text_models: Path,
    *,
    precision: Precision = "fp32",
    pooling: Pooling | None = None,
    shared: Path | None = None,
) -> Path:
    """Return text_models/<text_model_id>, exported and checked now, copied from `shared` or found there.

    Args:
        source: `DEFAULT_SOURCE`, a sentence-transformers hub id or a local folder.
        text_models: where exported language models lie.
        precision: int8 quantises the weights of the matrix products, per channel.
        pooling: overrides what the model's own modules say.
        shared: where earlier exports of any home lie, found by content; an export made now is left there.

    Raises:
        ValueError: no such precision or pooling.
        TextModelUnavailableError: the files cannot be had.
        UnsupportedTextModelError: pickled weights, other modules, no fast tokenizer, unknown pooling.
        TextExportError: the graph differs from the model, at fp32 by more than 1e-5 in a coordinate.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if pooling is not None and pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
    found = find_text_model(text_models, source, precision, pooling)
    if found is not None:
        return found
    if shared is not None:
        directory = _from_shared(source, shared, text_models, precision, pooling)
        if directory is not None:
            return directory
    folder = fetch(source)
    log.info("exporting text model %s to ONNX, %s", source, precision)
    directory = _export(source, folder, text_models, precision, pooling)
    log.info("exported text model %s", directory.name)
    if shared is not None:
        try:
            _copy(directory, shared, source)
        except OSError as error:  # a full or read-only cache folder costs the next home an export
            log.warning("text model %s is not kept for other homes: %s", directory.name, error)
    return directory


def _from_shared(
    source: str, shared: Path, text_models: Path, precision: Precision, pooling: Pooling | None
) -> Path | None:
    """Return a copy of an export in the shared folder, every byte checked, or None where there is none."""
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
    """Copy an export below `parent` unless it is there, naming the source that it was asked for."""
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


def _export(
    source: str, folder: Path, text_models: Path, precision: Precision, pooling: Pooling | None
) -> Path:
    from encoder.text_graph import load, quiet, write_graph  # noqa: PLC0415  only an export needs torch

    with quiet():
        sentence = load(source, folder, pooling)
        facts = _facts(source, folder, sentence) | {"precision": precision}
        directory = text_models / _text_model_id(source, facts)
        if directory.exists():  # the same files under two hub ids that end alike
            return directory
        with build(text_models, directory.name) as draft:
            draft.facts = facts = facts | {"text_model_id": directory.name}
            tokenizer = sentence.model.tokenizer.backend_tokenizer
            tokenizer.save(str(draft.path / TOKENIZER_FILE))
            write_graph(sentence, draft.path / MODEL_FILE, _metadata(facts), int8=precision == "int8")
            _check(source, sentence, TextEncoder(draft.path, facts, device="cpu"), precision)
    return directory


def _facts(source: str, folder: Path, sentence: "Sentence") -> dict[str, Any]:
    model, tokenizer = sentence.model, sentence.model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedTextModelError(source, f"{type(tokenizer).__name__} is no fast tokenizer")
    if tokenizer.pad_token_id is None:
        raise UnsupportedTextModelError(source, "its tokenizer has no padding token")
    return {
        "kind": KIND,
        "format": FORMAT,
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
    """Return an id that no two models share: it holds a digest of weights, configuration and tokenizer."""
    name = re.sub(r"[^a-z0-9]+", "-", Path(source).name.lower()).strip("-")[:48] or "model"
    digest = hashlib.sha256(f"{FORMAT} {facts['source_digest']}".encode()).hexdigest()
    return f"{name}-{facts['pooling']}-{facts['precision']}-{digest[:8]}"


def _check(source: str, sentence: "Sentence", encoder: TextEncoder, precision: Precision) -> None:
    """Compare tokenizer, graph and pooling at once with what sentence-transformers itself gives."""
    model = sentence.model
    model.max_seq_length = encoder.max_tokens
    # One by one: without padding there is no doubt about what is right.
    truth = np.asarray(
        model.encode(list(_CHECK_TEXTS), batch_size=1, normalize_embeddings=True, show_progress_bar=False)
    )
    ours = encoder.encode(_CHECK_TEXTS, pieces=1)  # the model itself cuts
    if precision == "int8":
        cosine = float((truth * ours).sum(axis=1).min())
        if not cosine >= _INT8_COSINE:
            raise TextExportError(source, f"cosine {cosine:.3f} to the model at int8, below {_INT8_COSINE}")
        return
    difference = float(np.abs(truth - ours).max())
    if not difference <= _TOLERANCE:
        raise TextExportError(source, f"vectors differ by {difference:.1e}, more than {_TOLERANCE:.0e}")
