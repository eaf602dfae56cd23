"""The language model that turns texts into unit vectors, and the cache of these vectors.

`source` fetches a sentence-transformers model, `export` writes and checks it as ONNX (the torch side of
that is `graph`), `encoder` runs the exported model without torch, and `cache` keeps every vector on disk,
so that no text is encoded twice; `parts` has texts encoded by the workers of `encoder.jobs`. `samples` draws
texts from an export; `agreement` compares two models. `tuning` trains a model before its export.
"""

from encoder.text.cache import (
    DamagedTextCacheError,
    ErasureSafeWriter,
    ImportedVectorsError,
    TextCache,
    cache_imported_vectors,
    encode_with_cache,
)
from encoder.text.encoder import (
    MAX_PIECES,
    MODEL_FILE,
    TEXT_RULE,
    TOKENIZER_FILE,
    NotATextModelError,
    TextEncoder,
    Vectors,
    item_text,
)
from encoder.text.parts import cache_in_parts
from encoder.text.source import DEFAULT_SOURCE, Pooling, Precision, fetch, source_digest, text_model_dims

__all__ = [
    "DEFAULT_SOURCE",
    "MAX_PIECES",
    "MODEL_FILE",
    "TEXT_RULE",
    "TOKENIZER_FILE",
    "DamagedTextCacheError",
    "ErasureSafeWriter",
    "ImportedVectorsError",
    "NotATextModelError",
    "Pooling",
    "Precision",
    "TextCache",
    "TextEncoder",
    "Vectors",
    "cache_imported_vectors",
    "cache_in_parts",
    "encode_with_cache",
    "fetch",
    "item_text",
    "source_digest",
    "text_model_dims",
]
