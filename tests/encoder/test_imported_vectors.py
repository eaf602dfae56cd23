"""Vectors that came with texts and do not fit their text model: told at training, no harm to serving."""

import json
import logging
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from encoder.dataset import load_dataset
from encoder.text.cache import ErasureSafeWriter, ImportedVectorsError, TextCache
from encoder.text.encoder import TextEncoder
from encoder.text.export import export_text_model
from encoder.text.source import DEFAULT_SOURCE
from server.query.snapshot import cache_stored_vectors
from store.export import Export, create_export
from store.imports.run import import_folder
from store.store import Store


def test_vectors_of_a_wrong_length(
    tmp_path: Path, text_models_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = TextEncoder.load(export_text_model(DEFAULT_SOURCE, text_models_dir))
    (tmp_path / "in").mkdir()
    row = {"user_id": "u", "text": "a", "vector": [1, 2], "text_model_id": encoder.text_model_id}
    (tmp_path / "in" / "texts.jsonl").write_text(json.dumps(row))
    with (
        Store.open(tmp_path / "views.duckdb") as store,
        closing(TextCache.open(tmp_path / "cache")) as cache,
    ):
        import_folder(store, tmp_path / "in", rejects=tmp_path / "rejects", strict=True)
        wrong = pytest.raises(
            ImportedVectorsError, match=r"vectors of 2 numbers for text model .* has 384: import"
        )
        with Export.open(tmp_path / create_export(store, tmp_path)) as export, wrong:
            load_dataset(export, encoder, cache)
        with caplog.at_level(logging.WARNING):
            cache_stored_vectors(store, encoder, ErasureSafeWriter(cache, store.texts_among))
        assert "until then they are encoded here" in caplog.text
        assert not cache.get(encoder.text_model_id, ["a"], encoder.dim)[1].any()
        row["vector"] = np.eye(384)[0].tolist()
        (tmp_path / "in" / "texts.jsonl").write_text(json.dumps(row))
        again = tmp_path / "rejects"
        assert (
            import_folder(store, tmp_path / "in", rejects=again).tables["texts"].rejected
        )  # the first length counts
        row["vector"] = None  # the way out that the error names
        (tmp_path / "in" / "texts.jsonl").write_text(json.dumps(row))
        assert import_folder(store, tmp_path / "in", rejects=again).tables["texts"].updated == 1
        with Export.open(tmp_path / create_export(store, tmp_path)) as export:
            assert load_dataset(export, encoder, cache).text.any()
