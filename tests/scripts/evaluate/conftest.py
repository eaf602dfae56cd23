"""The small world, ready to be ranked."""

from contextlib import closing

import pytest

from encoder.dataset import load_dataset
from encoder.text import TextCache, TextEncoder
from indexer.publish import current_index, load_index
from scripts.evaluate.protocol import Evaluator
from store.export import Export
from store.home import Home


@pytest.fixture(scope="module")
def measured(small_home: Home) -> Evaluator:
    pair = load_index(small_home, current_index(small_home).name)
    encoder = TextEncoder.load(small_home.text_models / pair.model.text_model_id)
    with (
        closing(TextCache.open(small_home.text_cache)) as cache,
        Export.open(small_home.exports / pair.model.export_id) as export,
    ):
        data = load_dataset(export, encoder, cache)
    return Evaluator(data, pair, "test")
