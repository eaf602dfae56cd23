"""Pruning and distilling tiny random models, and how far a student is from its teacher."""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.text.agreement import IncomparableTextModelsError, agreement, neighbours, overlap
from encoder.text.encoder import TextEncoder
from encoder.text.export import export_text_model
from encoder.text.source import (
    DEFAULT_SOURCE,
    TextModelUnavailableError,
    UnsupportedTextModelError,
    find_text_model,
)
from encoder.text.tuning.distill import LayerCountError, compress_text_model, evenly_spaced, prune
from encoder.text.tuning.options import CompressOptions, TextTuningSettingsError
from encoder.text.tuning.pairs import TooFewTextsError, draw_texts
from scripts.compress_text import ChangedTextModelError, text_model_source
from store.artifact import DamagedArtifactError, artifacts, build
from store.export import Export, create_export
from store.home import Home
from store.imports.run import import_folder
from store.store import Store
from tests.command_line import Run
from tests.tiny_text_model import metrics, vocabulary, weights, write_model, write_world

COMPRESS = CompressOptions(epochs=3, batch=16, texts=192, learning_rate=5e-3, held_out=0.25)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with texts of two topics and one export; nothing is trained."""
    place = tmp_path_factory.mktemp("world")
    write_world(place / "world")
    home = Home(place / "home")
    with Store.open(home.database) as store:
        import_folder(store, place / "world", rejects=home.rejects, strict=True)
        create_export(store, home.exports)
    return home


@pytest.fixture(scope="module")
def export(home: Home) -> Iterator[Export]:
    with Export.latest(home.exports) as export:
        yield export


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.2,  # so that every layer matters
    )
    folder = tmp_path_factory.mktemp("bert") / "Deep BERT"
    return write_model(folder, BertModel(config), BertTokenizer(vocab=vocabulary()), "mean")


def qwen(layers: int = 4) -> Any:
    """A decoder whose attention knows its layer's number, and whose configuration lists kinds of layers."""
    from transformers import Qwen2Config, Qwen2Model

    config = Qwen2Config(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
    )
    return Qwen2Model(config)


class Sentence(list[Any]):
    """As much of a SentenceTransformer as pruning looks at."""

    def __init__(self, transformer: Any) -> None:
        module = type("Module", (), {"auto_model": transformer})()
        super().__init__([module])


@pytest.mark.parametrize(
    ("layers", "total", "kept"),
    [
        (3, 6, [1, 3, 5]),
        (2, 6, [1, 4]),
        (1, 6, [3]),
        (4, 6, [0, 2, 3, 5]),
        (4, 12, [1, 4, 7, 10]),
        (1, 2, [1]),
    ],
)
def test_which_layers_stay(layers: int, total: int, kept: list[int]) -> None:
    assert evenly_spaced(layers, total) == kept


@given(st.integers(1, 60), st.integers(1, 60))
def test_layers_that_stay_are_spread_evenly(layers: int, more: int) -> None:
    total = layers + more
    kept = evenly_spaced(layers, total)
    assert len(kept) == layers
    assert 0 <= kept[0] <= kept[-1] < total
    steps = np.diff(kept)
    assert not len(steps) or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_a_decoder_is_pruned_with_what_counts_its_layers() -> None:
    import torch

    torch.manual_seed(0)
    model = qwen()
    left = [model.layers[row] for row in (1, 3)]
    assert prune("q", Sentence(model), None) == [1, 3]
    assert list(model.layers) == left
    assert [layer.self_attn.layer_idx for layer in model.layers] == [0, 1]
    assert model.config.num_hidden_layers == 2
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    assert model(torch.tensor([[1, 2, 3]])).last_hidden_state.shape == (1, 3, 8)


@pytest.mark.parametrize("layers", [0, 4, 9])
def test_a_count_of_layers_that_cannot_stay_is_refused(layers: int) -> None:
    with pytest.raises(
        LayerCountError, match=rf"'q' has 4 layers and can keep 1\.\.3, not {layers}"
    ) as caught:
        prune("q", Sentence(qwen()), layers)
    assert (caught.value.layers, caught.value.total) == (layers, 4)


def test_one_layer_has_no_half() -> None:
    with pytest.raises(LayerCountError, match="1 layers and can keep no fewer"):
        prune("q", Sentence(qwen(layers=1)), None)


def test_layers_that_share_weights_cannot_be_pruned() -> None:
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(
        vocab_size=16,
        embedding_size=8,
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=8,
    )
    with pytest.raises(UnsupportedTextModelError, match="0 lists of 3 layers in albert"):
        prune("a", Sentence(AlbertModel(config)), 1)


def test_a_student_learns_its_teachers_vectors(bert: Path, export: Export, tmp_path: Path) -> None:
    folder = compress_text_model(str(bert), export, tmp_path, COMPRESS)
    found = metrics(folder)
    assert found["layers"] == [1, 3]
    assert found["improved"]
    assert found["cosine_after"] == pytest.approx(1 - min(epoch["held_out"] for epoch in found["epochs"]))
    assert 1 - found["cosine_after"] < 0.5 * (1 - found["cosine_before"])
    held_out = draw_texts(export, COMPRESS)[1]
    assert found["held_out_texts"] == len(held_out)
    teacher, student = (TextEncoder.load(export_text_model(str(path), tmp_path)) for path in (bert, folder))
    kept = agreement(teacher, student, held_out)
    assert kept.cosine == pytest.approx(found["cosine_after"], abs=1e-4)  # nothing here is cut off
    assert kept.overlap > 2 * kept.k / len(held_out)  # twice what chance gives
    assert kept.texts == len(held_out)
    assert (student.dim, student.max_tokens) == (teacher.dim, teacher.max_tokens)
    assert student.text_model_id != teacher.text_model_id
    assert find_text_model(tmp_path, str(folder)) == tmp_path / student.text_model_id
    assert words_of(folder) == words_of(bert)


def words_of(folder: Path) -> bytes:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"].tobytes()


def test_the_same_compression_is_found_and_equal_seeds_give_equal_weights(
    bert: Path, export: Export, tmp_path: Path
) -> None:
    once = replace(COMPRESS, epochs=1, texts=32)
    first = compress_text_model(str(bert), export, tmp_path / "a", once)
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert compress_text_model(str(bert), export, tmp_path / "a", once) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    second = compress_text_model(str(bert), export, tmp_path / "b", once)
    assert second.name == first.name
    assert weights(second) == weights(first)
    copy = Path(shutil.copytree(export.path, tmp_path / "exports" / "another-id"))
    with Export.open(copy) as same_rows:
        assert compress_text_model(str(bert), same_rows, tmp_path / "a", once) == first
    fewer = compress_text_model(str(bert), export, tmp_path / "a", replace(once, layers=1))
    assert fewer != first
    assert metrics(fewer)["layers"] == [2]
    (first.parent / "metrics.json").write_text("{}")
    with pytest.raises(DamagedArtifactError, match=r"metrics\.json"):
        compress_text_model(str(bert), export, tmp_path / "a", once)


def test_what_cannot_be_compressed_leaves_nothing(bert: Path, export: Export, tmp_path: Path) -> None:
    with pytest.raises(LayerCountError, match="not 4"):
        compress_text_model(str(bert), export, tmp_path, replace(COMPRESS, layers=4))
    with pytest.raises(TextModelUnavailableError, match="no such folder"):
        compress_text_model(str(tmp_path / "gone"), export, tmp_path, COMPRESS)
    assert artifacts(tmp_path) == []
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(("name", "value"), [("layers", 0), ("texts", 1), ("epochs", 0), ("layers", 1.5)])
def test_settings_are_checked(name: str, value: Any) -> None:
    with pytest.raises(TextTuningSettingsError, match=name):
        replace(CompressOptions(), **{name: value})


def test_neighbours_and_overlap_by_hand() -> None:
    at = np.deg2rad([0, 10, 25, 90])
    vectors = np.stack([np.cos(at), np.sin(at)], axis=1).astype(np.float32)
    nearest = neighbours(vectors, 2)
    assert nearest.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    other = np.array([[1, 3], [2, 0], [3, 0], [0, 3]])
    assert overlap(nearest, other) == (1 + 2 + 1 + 0) / 8


def test_a_model_agrees_with_itself(bert: Path, tmp_path: Path) -> None:
    encoder = TextEncoder.load(export_text_model(str(bert), tmp_path))
    kept = agreement(encoder, encoder, ["sail", "wave tide", " ", "秋天"])
    assert (kept.cosine, kept.overlap) == (pytest.approx(1, abs=1e-5), 1)
    assert (kept.k, kept.texts) == (2, 3)
    assert kept.speedup == kept.student_rate / kept.teacher_rate
    with pytest.raises(IncomparableTextModelsError, match="1 texts"):
        agreement(encoder, encoder, ["sail", ""])


def test_models_of_other_dims_cannot_be_compared(bert: Path, tmp_path: Path, text_models_dir: Path) -> None:
    encoder = TextEncoder.load(export_text_model(str(bert), tmp_path))
    other = find_text_model(text_models_dir, DEFAULT_SOURCE)
    assert other is not None
    with pytest.raises(IncomparableTextModelsError, match="dim 32 and 384"):
        agreement(encoder, TextEncoder.load(other, verify=False), ["sail", "wave"])


def test_the_command_compresses_and_says_what_to_train_with(
    home: Home, bert: Path, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mine = Home(Path(shutil.copytree(home.path, tmp_path / "home")))
    small = ["--text-model", bert, "--epochs", 1, "--texts", 64, "--seed", 3]
    words = ["compress-text", "--home", mine.path, *small, "--layers", 1]
    code, out, err = run(*words, "--int8", "--json", tmp_path / "report.json")
    assert code == 0, err
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert "cosine to fp32" in caplog.text
    assert report["training"]["layers"] == [2]
    assert (mine.text_models / report["text_model_id"]).is_dir()
    assert "-int8-" in report["text_model_id"]
    assert -1 <= report["agreement"]["cosine"] <= 1
    assert out.splitlines()[-1] == (
        f"triptych train --home {mine.path} --text-model {report['folder']} --precision int8"
    )
    assert find_text_model(mine.text_models, report["folder"], "int8") is not None
    code, out, err = run(*words, "--json", tmp_path / "again.json")
    assert code == 0, err
    assert "--precision" not in out
    again = json.loads((tmp_path / "again.json").read_text("utf-8"))
    assert again["training"] == report["training"]  # seconds, too: it was found
    assert find_text_model(mine.text_models, report["folder"]) == mine.text_models / again["text_model_id"]


def test_the_command_names_what_is_wrong(home: Home, bert: Path, tmp_path: Path, run: Run) -> None:
    words = ["compress-text", "--home", home.path, "--text-model"]
    assert run(*words, tmp_path / "gone")[0] == 1
    code, _, err = run(*words, bert, "--layers", 7)
    assert (code, "has 4 layers and can keep 1..3, not 7" in err) == (1, True)
    empty = Home(tmp_path / "empty")
    with Store.open(empty.database) as store:
        code, _, err = run("compress-text", "--home", empty.path, "--text-model", bert)
        assert (code, "no export yet" in err) == (1, True)
        create_export(store, empty.exports)
    with Export.latest(empty.exports) as nothing, pytest.raises(TooFewTextsError, match="0 texts"):
        compress_text_model(str(bert), nothing, tmp_path, COMPRESS)


def test_the_latest_models_text_model_is_the_default(bert: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert text_model_source(home, None) == ("all-MiniLM-L6-v2", None)
    source = Path(shutil.copytree(bert, tmp_path / bert.name))
    for pooling, own in (("mean", None), ("cls", "cls")):
        name = export_text_model(str(source), home.text_models, pooling=pooling).name
        with build(home.models, pooling) as draft:
            draft.facts |= {"kind": "model", "text_model_id": name}
        assert text_model_source(home, home.models / pooling) == (str(source), own)
    (source / "modules.json").write_text((source / "modules.json").read_text("utf-8") + "\n")
    with pytest.raises(ChangedTextModelError, match="any more: name the one to compress"):
        text_model_source(home, home.models / "cls")
    shutil.rmtree(source)
    with pytest.raises(TextModelUnavailableError):
        text_model_source(home, home.models / "cls")
