import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from encoder.text import export as text_export
from encoder.text import graph as text_graph
from encoder.text.encoder import TextEncoder
from encoder.text.export import Int8LossError, TextExportError, export_text_model
from encoder.text.samples import sample_texts
from encoder.text.source import (
    DEFAULT_SOURCE,
    Pooling,
    Precision,
    TextModelUnavailableError,
    UnsupportedTextModelError,
    find_text_model,
)
from store.artifact import DamagedArtifactError, artifacts, read_manifest, verify
from store.export import Export, create_export
from store.home import Home
from store.store import Store

WORDS = ["a", "quiet", "novel", "about", "the", "sea", "shoes", "red", "blue", ",", *"三体北京的秋天很美。"]
TEXTS = ("a quiet novel about the sea", "北京的秋天很美。", "三体", "red shoes, blue shoes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with CLS pooling in the sentence-transformers layout."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule
    from transformers import BertConfig, BertModel, BertTokenizer

    parts, folder = tmp_path_factory.mktemp("parts"), tmp_path_factory.mktemp("source") / "小 Bert.v1"
    torch.manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(parts)
    BertTokenizer(vocab={word: row for row, word in enumerate(vocabulary)}).save_pretrained(parts)
    modules = [Transformer(str(parts), max_seq_length=24), PoolingModule(32, "cls"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / source.name))


def truth(source: Path, pooling: Pooling) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(source), device="cpu")
    setattr(model[1], "pooling_mode", pooling)  # noqa: B010  mypy takes it for a tensor
    return np.asarray(model.encode(list(TEXTS), normalize_embeddings=True))


@pytest.mark.parametrize("pooling", ["cls", "lasttoken", "mean"])
def test_each_pooling_is_exported(source: Path, tmp_path: Path, pooling: Pooling) -> None:
    directory = export_text_model(str(source), tmp_path, pooling=pooling)
    encoder = TextEncoder.load(directory)
    assert np.abs(encoder.encode(TEXTS) - truth(source, pooling)).max() <= 1e-5
    assert directory.name.startswith(f"bert-v1-{pooling}-fp32-")
    facts = read_manifest(directory)
    assert (facts["pooling"], facts["own_pooling"], facts["dim"], facts["max_tokens"]) == (
        pooling,
        "cls",
        32,
        24,
    )
    inside = {entry.key: entry.value for entry in onnx.load(directory / "model.onnx").metadata_props}
    assert inside["text_model_id"] == directory.name
    assert inside["source_digest"] == facts["source_digest"]


def test_int8_measures_what_it_loses_on_texts_of_the_home(
    small_home: Home, text_models_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Export.latest(small_home.exports) as export:
        texts = sample_texts(export, 128)
        directory = export_text_model(DEFAULT_SOURCE, text_models_dir, precision="int8", export=export)
    assert "int8" not in read_manifest(export_text_model(DEFAULT_SOURCE, text_models_dir))
    loss = read_manifest(directory)["int8"]
    said = f"cosine to fp32 {loss['cosine']:.4f} on average, {loss['least_cosine']:.4f} at least, over "
    assert said + f"{loss['texts']} texts" in caplog.text
    int8 = TextEncoder.load(directory)
    fp32 = TextEncoder.load(export_text_model(DEFAULT_SOURCE, text_models_dir), verify=False)
    cosine = (fp32.encode(texts) * int8.encode(texts)).sum(axis=1)
    assert (loss["texts"], len(texts)) == (128, 128)
    assert loss["cosine"] == pytest.approx(cosine.mean(), abs=1e-3)  # batches are quantised together
    assert loss["least_cosine"] == pytest.approx(cosine.min(), abs=5e-3)
    assert 0.985 < cosine.mean() < 0.99999  # it is another model
    assert int8.text_model_id.partition("-int8-")[0] == fp32.text_model_id.partition("-fp32-")[0]


def test_without_texts_of_a_home_sentences_of_our_own_are_measured(source: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "views.duckdb") as store:
        create_export(store, tmp_path / "exports")
    with Export.latest(tmp_path / "exports") as nothing:
        directory = export_text_model(str(source), tmp_path / "models", precision="int8", export=nothing)
    assert read_manifest(directory)["int8"]["texts"] == 5


def test_int8_weights_leave_room_for_processors_without_vnni(source: Path, tmp_path: Path) -> None:
    """Two products of 8 and 7 bits fit in 16, so every processor computes the same."""
    graph = onnx.load(export_text_model(str(source), tmp_path, precision="int8") / "model.onnx").graph
    weights = [
        onnx.numpy_helper.to_array(w) for w in graph.initializer if w.data_type == onnx.TensorProto.INT8
    ]
    matrices = [w for w in weights if w.ndim == 2]
    assert (
        len(matrices) == 2 * 6
    )  # of two layers: query, key, value, output, and two of the feed-forward part
    assert max(int(np.abs(w.astype(int)).max()) for w in matrices) == 64


def test_what_was_exported_is_found_and_not_made_again(source: Path, tmp_path: Path) -> None:
    assert find_text_model(tmp_path / "models", str(source)) is None
    directory = export_text_model(str(source), tmp_path / "models")
    (tmp_path / "models" / "cache").mkdir()
    written = (directory / "model.onnx").stat().st_mtime_ns
    assert export_text_model(str(source), tmp_path / "models") == directory
    assert export_text_model(str(source), tmp_path / "models", pooling="cls") == directory
    assert (directory / "model.onnx").stat().st_mtime_ns == written
    assert find_text_model(tmp_path / "models", str(source)) == directory
    assert find_text_model(tmp_path / "models", str(source), "int8") is None
    assert find_text_model(tmp_path / "models", str(source), "fp32", "mean") is None
    assert find_text_model(tmp_path / "models", "some/hub-model") is None


def test_a_changed_folder_is_exported_anew(copy: Path, tmp_path: Path) -> None:
    first = export_text_model(str(copy), tmp_path / "models")
    (copy / "README.md").write_text("other words, same model")
    assert export_text_model(str(copy), tmp_path / "models") == first
    settings = copy / "sentence_bert_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_seq_length": 12}))
    assert find_text_model(tmp_path / "models", str(copy)) is None
    second = export_text_model(str(copy), tmp_path / "models")
    assert second != first
    assert artifacts(tmp_path / "models") == sorted([first.name, second.name])


def test_a_default_prompt_goes_before_every_text(copy: Path, tmp_path: Path) -> None:
    path = copy / "config_sentence_transformers.json"
    settings = json.loads(path.read_text()) | {"prompts": {"item": "novel: "}, "default_prompt_name": "item"}
    path.write_text(json.dumps(settings))
    prompted = TextEncoder.load(export_text_model(str(copy), tmp_path / "models"))
    assert np.abs(prompted.encode(TEXTS) - truth(copy, "cls")).max() <= 1e-5
    assert not prompted.encode([" "]).any()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_heavy_weights_lie_beside_the_graph(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    export_text_model(str(source), tmp_path / "inline", precision=precision)
    monkeypatch.setattr(text_graph, "_INLINE_BYTES", 1000)
    directory = export_text_model(str(source), tmp_path, precision=precision)
    names = {"manifest.json", "model.onnx", "model.onnx.data", "tokenizer.json"}
    assert {path.name for path in directory.iterdir()} == names
    vectors = TextEncoder.load(directory).encode(TEXTS)
    if precision == "fp32":
        assert np.abs(vectors - truth(source, "cls")).max() <= 1e-5
    whole = (tmp_path / "inline" / directory.name / "model.onnx", directory / "model.onnx.data")
    assert whole[0].stat().st_size > whole[1].stat().st_size  # the same weights, in one file
    inline = TextEncoder.load(whole[0].parent)
    assert np.abs(vectors - inline.encode(TEXTS)).max() <= 1e-5
    weights = bytearray((directory / "model.onnx.data").read_bytes())
    weights[100] ^= 1
    (directory / "model.onnx.data").write_bytes(weights)
    with pytest.raises(DamagedArtifactError, match="its sha256"):
        TextEncoder.load(directory)


@pytest.mark.parametrize(
    ("precision", "error", "reason"),
    [
        ("fp32", TextExportError, "differ by"),
        ("int8", Int8LossError, r"loses too much at int8: cosine 0\.99\d to fp32, .* below 1\.5; use fp32"),
    ],
)
def test_an_unfaithful_export_is_not_published(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    error: type[Exception],
    reason: str,
) -> None:
    monkeypatch.setattr(text_export, "_TOLERANCE", -1.0)
    monkeypatch.setattr(text_export, "_INT8_COSINE", 1.5)
    with pytest.raises(error, match=reason):
        export_text_model(str(source), tmp_path, precision=precision)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("nobody/has-such-a-model", "the hub did not give it"),
        ("./nowhere", "no such folder"),
        ("a/b/c", "the hub"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(tmp_path: Path, missing: str, reason: str) -> None:
    with pytest.raises(TextModelUnavailableError, match=reason) as caught:
        export_text_model(missing, tmp_path)
    assert caught.value.source == missing
    assert "Give a local folder" in str(caught.value)


def test_pickled_weights_are_not_loaded(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UnsupportedTextModelError, match="no safetensors"):
        export_text_model(str(copy), tmp_path / "models")


@pytest.mark.parametrize("kind", ["sentence_transformers.models.Dense", "own_code.Transformer"])
def test_other_modules_are_refused(copy: Path, tmp_path: Path, kind: str) -> None:
    modules = json.loads((copy / "modules.json").read_text())
    modules[-1]["type"] = kind
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsupportedTextModelError, match=kind):
        export_text_model(str(copy), tmp_path / "models")
    (copy / "modules.json").write_text("{")
    with pytest.raises(UnsupportedTextModelError, match="no list of modules"):
        export_text_model(str(copy), tmp_path / "models")


def test_a_folder_without_modules_needs_a_pooling(copy: Path, tmp_path: Path) -> None:
    (copy / "modules.json").unlink()
    with pytest.raises(UnsupportedTextModelError, match="no pooling of its own"):
        export_text_model(str(copy), tmp_path / "models")
    directory = export_text_model(str(copy), tmp_path / "models", pooling="mean")
    assert read_manifest(directory)["own_pooling"] is None


def test_a_pooling_that_we_lack_is_refused(copy: Path, tmp_path: Path) -> None:
    path = copy / "1_Pooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pooling_mode": "max"}))
    with pytest.raises(UnsupportedTextModelError, match="pools by max"):
        export_text_model(str(copy), tmp_path / "models")


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    from transformers import CanineConfig, CanineModel, CanineTokenizer

    config = CanineConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    CanineModel(config).save_pretrained(tmp_path / "canine")
    CanineTokenizer().save_pretrained(tmp_path / "canine")  # type: ignore[no-untyped-call]
    with pytest.raises(UnsupportedTextModelError, match="CanineTokenizer is no fast tokenizer"):
        export_text_model(str(tmp_path / "canine"), tmp_path / "models", pooling="mean")


def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'fp16'"):
        export_text_model(DEFAULT_SOURCE, tmp_path, precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'max'"):
        export_text_model(DEFAULT_SOURCE, tmp_path, pooling="max")  # type: ignore[arg-type]


def test_a_new_home_copies_what_an_earlier_one_exported(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "cache" / "text_models"
    first = export_text_model(str(copy), tmp_path / "a", shared=shared)
    assert artifacts(shared) == [first.name]
    moved = copy.rename(tmp_path / "elsewhere")  # found by content, not by name
    with monkeypatch.context() as patch:
        patch.setattr(text_export, "_export", None)  # an export would fail
        second = export_text_model(str(moved), tmp_path / "b", shared=shared)
    assert second.name == first.name
    assert verify(second)["files"] == verify(first)["files"]
    assert read_manifest(second)["source"] == str(moved)
    assert np.array_equal(TextEncoder.load(second).encode(TEXTS), TextEncoder.load(first).encode(TEXTS))
    (shared / first.name / "model.onnx").write_bytes(b"not what was written")
    third = export_text_model(str(moved), tmp_path / "c", shared=shared)
    assert verify(third)
    assert verify(shared / third.name)  # made anew there, too
    (shared / third.name / "manifest.json").write_bytes(b"{}")
    assert verify(export_text_model(str(moved), tmp_path / "d", shared=shared))


def test_a_cache_folder_that_cannot_be_written_costs_nothing_else(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert verify(export_text_model(str(copy), tmp_path / "a", shared=tmp_path / "file" / "text_models"))
