from pathlib import Path

import pytest

from encoder.text_export import DEFAULT_SOURCE, export_text_model


@pytest.fixture(scope="session")
def text_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text_models folder that holds the default language model; exported once per run."""
    text_models = tmp_path_factory.mktemp("text_models")
    export_text_model(DEFAULT_SOURCE, text_models)
    return text_models
