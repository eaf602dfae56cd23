"""Tuning and adaptation of tiny random models on two topics that share no word."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.text.encoder import TextEncoder
from encoder.text.export import export_text_model
from encoder.text.samples import Reservoir
from encoder.text.source import UnsupportedTextModelError, find_text_model
from encoder.text.tuning.loop import TextTuningDivergedError
from encoder.text.tuning.lora import NoAttentionLayersError, attention_projections
from encoder.text.tuning.options import (
    AdaptOptions,
    TextTrainingOptions,
    TextTuningSettingsError,
    TuneOptions,
)
from encoder.text.tuning.pairs import (
    TextPair,
    TooFewTextsError,
    draw_pairs,
    draw_texts,
    is_held_out,
)
from encoder.text.tuning.pretrain import adapt_text_model, is_causal, masked
from encoder.text.tuning.tune import augmented, contrastive_loss, tune_text_model, unfair_negatives, words
from store.artifact import DamagedArtifactError, artifacts
from store.export import Export, create_export
from store.imports.run import import_folder
from store.store import Store
from tests.tiny_text_model import SPECIAL, metrics, vocabulary, weights, write_model, write_world

TEXTS = ("sail wave boat", "秋天很美", "三体 rope", "keel")
TUNE = TuneOptions(epochs=3, batch=16, pairs=320, learning_rate=5e-3, held_out=0.25)
ADAPT = AdaptOptions(epochs=3, batch=16, texts=320, learning_rate=3e-3, held_out=0.25, pooling="mean")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Export]:
    place = tmp_path_factory.mktemp("world")
    write_world(place / "world")
    with Store.open(place / "views.duckdb") as store:
        import_folder(store, place / "world", rejects=place / "rejects", strict=True)
        export_id = create_export(store, place / "exports")
    with Export.open(place / "exports" / export_id) as export:
        yield export


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Store, Any]]:
    """An empty store, and a function that exports it."""
    opened: list[Export] = []

    def export_now() -> Export:
        opened.append(Export.open(tmp_path / "exports" / create_export(store, tmp_path / "exports")))
        return opened[-1]

    with Store.open(tmp_path / "views.duckdb") as store:
        yield store, export_now
    for export in opened:
        export.close()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    folder = tmp_path_factory.mktemp("bert") / "Tiny BERT"
    return write_model(folder, BertModel(config), BertTokenizer(vocab=vocabulary()), "mean")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(vocabulary()), n_embd=32, n_layer=2, n_head=4, n_positions=64)
    padding, unknown = SPECIAL[:2]
    inside = Tokenizer(models.WordLevel(vocabulary(), unk_token=unknown))
    inside.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inside, pad_token=padding, unk_token=unknown)
    return write_model(tmp_path_factory.mktemp("gpt2") / "gpt2", GPT2Model(config), tokenizer, "lasttoken")


def check_exports(folder: Path, text_models: Path) -> None:
    """The tuned folder gives sentence_transformers and ONNX Runtime the same vectors."""
    from sentence_transformers import SentenceTransformer

    truth = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS), normalize_embeddings=True)
    directory = export_text_model(str(folder), text_models)
    assert np.abs(TextEncoder.load(directory).encode(TEXTS) - np.asarray(truth)).max() <= 1e-5
    assert find_text_model(text_models, str(folder)) == directory


@pytest.mark.parametrize("method", ["lora", "adalora"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_adapters_lower_the_held_out_loss(
    kind: str, method: Any, export: Export, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(kind)
    rate = {"lora": 5e-3, "adalora": 2e-2}[method]
    folder = tune_text_model(str(source), export, tmp_path, replace(TUNE, method=method, learning_rate=rate))
    found = metrics(folder)
    assert found["improved"]
    assert found["after"] == min(epoch["held_out"] for epoch in found["epochs"])
    # Topics alone bring it down by log 2 at most where half of a batch is of the same topic.
    assert found["after"] < found["before"] - 0.1
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {
        ".json",
        ".safetensors",
        ".jinja",
    }
    assert not any("lora" in name for name in tensor_names(folder))
    assert tensor_names(folder) == tensor_names(source)
    assert weights(folder) != weights(source)
    check_exports(folder, tmp_path)
    assert all("tuned" not in name for name in artifacts(tmp_path))


def tensor_names(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return sorted(file.keys())


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_adaptation_lowers_perplexity_and_tuning_takes_it_from_there(
    kind: str, export: Export, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(kind)
    adapted = adapt_text_model(str(source), export, tmp_path, ADAPT)
    found = metrics(adapted)
    assert found["objective"] == {"bert": "masked", "gpt2": "causal"}[kind]
    # 24 words of one even distribution are a perplexity of 24; a topic's own half of those is 12.
    assert found["perplexity_after"] < 0.8 * found["perplexity_before"]
    assert np.isclose(np.log(found["perplexity_after"]), found["after"])
    assert tensor_names(adapted) == tensor_names(source)
    assert adapt_text_model(str(source), export, tmp_path, ADAPT) == adapted
    tuned = tune_text_model(str(adapted), export, tmp_path, replace(TUNE, epochs=1))
    assert tuned.name.startswith(f"{'tiny-bert' if kind == 'bert' else 'gpt2'}-adapt-")
    check_exports(tuned, tmp_path)


def test_the_same_request_is_found_and_equal_seeds_give_equal_weights(
    bert: Path, export: Export, tmp_path: Path
) -> None:
    import torch

    once = replace(TUNE, epochs=1, pairs=64)
    state = torch.random.get_rng_state()
    first = tune_text_model(str(bert), export, tmp_path / "a", once)
    assert torch.equal(torch.random.get_rng_state(), state)
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert tune_text_model(str(bert), export, tmp_path / "a", once) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    elsewhere = Path(shutil.copytree(bert, tmp_path / "copy" / bert.name))
    second = tune_text_model(str(elsewhere), export, tmp_path / "b", once)
    assert second.name == first.name
    assert weights(second) == weights(first)
    other = tune_text_model(str(bert), export, tmp_path / "a", replace(once, seed=1))
    assert other != first
    assert weights(other) != weights(first)
    (first.parent / "metrics.json").write_text("{}")
    with pytest.raises(DamagedArtifactError, match=r"metrics\.json"):
        tune_text_model(str(bert), export, tmp_path / "a", once)


def test_what_does_not_help_is_not_kept(bert: Path, export: Export, tmp_path: Path) -> None:
    useless = replace(TUNE, pairs=32, learning_rate=1.0, dropout=0.0, patience=1)
    folder = tune_text_model(str(bert), export, tmp_path, useless)
    found = metrics(folder)
    assert (found["improved"], len(found["epochs"]), found["after"]) == (False, 1, found["before"])
    assert weights(folder) == weights(bert)


def test_a_loss_that_is_no_number_stops_the_training(
    bert: Path, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Path(shutil.copytree(bert, tmp_path / "broken"))
    from safetensors.torch import load_file, save_file

    tensors = load_file(broken / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][:] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(TextTuningDivergedError, match="nan at step 0"):
        tune_text_model(str(broken), export, tmp_path / "models", TUNE)
    assert not (tmp_path / "models").exists()


def test_pairs_come_from_what_is_visible(small: tuple[Store, Any]) -> None:
    store, export_now = small
    with store.writing() as cursor:
        cursor.execute("""
            INSERT INTO data.items (item_id, title) VALUES ('i1', 'one'), ('i2', 'two'), ('i3', 'three'),
              ('i4', 'quoted'), ('i5', ' ');
            INSERT INTO data.behaviors SELECT user_id, item_id, action, weight, NULL, split FROM (VALUES
              ('i1', 'click', 1, NULL), ('i2', 'click', 1, 'test'), ('i3', 'skip', 1, NULL),
              ('i4', 'click', 1, 'train'), ('i5', 'click', 1, NULL), ('i9', 'click', 1, NULL)
              ) AS e(item_id, action, weight, split), (SELECT 'u' || range AS user_id FROM range(40));
            INSERT INTO data.texts (user_id, item_id, text, occurrence)
              SELECT user_id, item_id, text, 1 FROM (VALUES (NULL, 'a  text, QUOTED'), ('i2', 'held out'),
              ('i3', 'on number 3'), (NULL, '  ')) AS t(item_id, text),
              (SELECT 'u' || range AS user_id FROM range(40))""")
    options = TuneOptions(ignored_actions=frozenset({"skip"}), left_out_users=frozenset({"u7"}))
    pairs, held_out = draw_pairs(export_now(), options)
    # i2 is held out, i3 ignored but named by a text, i4 quoted whole, i5 has no text, i9 is no item.
    drawn = {(pair.text, pair.item_id) for pair in [*pairs, *held_out]}
    assert drawn == {("a  text, QUOTED", "i1"), ("on number 3", "i3")}
    users, judged = ({pair.user_id for pair in some} for some in (pairs, held_out))
    assert not users & judged
    assert users | judged == {f"u{row}" for row in range(40)} - {"u7"}
    assert all(is_held_out(user, options) for user in judged)
    texts = [*draw_texts(export_now(), AdaptOptions(held_out=0.5, seed=6))]
    assert sorted(texts[0] + texts[1]) == sorted(
        ["a  text, QUOTED", "on number 3", "one", "two", "three", "quoted"]
    )


def test_too_little_to_train_on_is_said(small: tuple[Store, Any], bert: Path, tmp_path: Path) -> None:
    _, export_now = small
    with pytest.raises(TooFewTextsError, match="0 pairs of a user's text and an item to train on and 0"):
        tune_text_model(str(bert), export_now(), tmp_path, TUNE)
    with pytest.raises(TooFewTextsError, match="0 texts to train on"):
        adapt_text_model(str(bert), export_now(), tmp_path, ADAPT)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "dora"),
        ("pooling", "max"),
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch", 1),
        ("rank", True),
        ("replace", 1.0),
        ("temperature", 0.0),
        ("learning_rate", float("nan")),
        ("seed", -1),
    ],
)
def test_settings_are_checked(name: str, value: Any) -> None:
    with pytest.raises(TextTuningSettingsError, match=name) as caught:
        replace(TuneOptions(), **{name: value})
    assert caught.value.name == name


def test_settings_name_no_user() -> None:
    facts = json.dumps(TextTrainingOptions(left_out_users=frozenset({"李", "ann"})).as_json())
    assert "ann" not in facts
    assert facts != json.dumps(TextTrainingOptions(left_out_users=frozenset({"李", "bob"})).as_json())


def test_a_model_without_known_attention_names_its_layers() -> None:
    from torch import nn

    layers = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"mix": nn.Linear(2, 2)})] * 2)})
    with pytest.raises(NoAttentionLayersError, match=r"linear layers are blocks\.N\.mix") as caught:
        attention_projections(layers)
    assert caught.value.layers == ("blocks.N.mix",)
    llama = nn.ModuleDict({f"{name}_proj": nn.Linear(2, 2) for name in ("q", "k", "v", "o", "up")})
    assert attention_projections(llama) == ["q_proj", "k_proj", "v_proj", "o_proj"]


def test_which_models_are_causal() -> None:
    from transformers import BertConfig, CLIPConfig, GPT2Config, Qwen2Config

    assert not is_causal("m", BertConfig())
    assert is_causal("m", BertConfig(is_decoder=True))
    assert is_causal("m", GPT2Config())
    assert is_causal("m", Qwen2Config())
    with pytest.raises(UnsupportedTextModelError, match="neither"):
        is_causal("m", CLIPConfig())
    looks_ahead = Qwen2Config()
    looks_ahead.is_causal = False
    with pytest.raises(UnsupportedTextModelError, match="what follows"):
        is_causal("m", looks_ahead)


def test_contrastive_loss_by_hand() -> None:
    import torch

    texts = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    items = torch.tensor([[1.0, 0.0], [4.0, 0.0]])
    fair = torch.zeros(2, 2, dtype=torch.bool)
    # Cosines 1, 1 and 0, 0: each text chooses between two equal items.
    assert contrastive_loss(texts, items, fair, 0.5).item() == pytest.approx(np.log(2))
    fair[0, 1] = True  # the first text has nothing to choose from any more
    assert contrastive_loss(texts, items, fair, 0.5).item() == pytest.approx(np.log(2) / 2)


def test_unfair_negatives_by_hand() -> None:
    pairs = [
        TextPair("ann", "a", "i1", "one"),
        TextPair("bob", "b", "i1", "one"),  # the same item
        TextPair("ann", "c", "i2", "two"),  # the same user
        TextPair("cy", "d", "i3", "TWO "),  # the same text under another id
        TextPair("di", "A", "i4", "four"),  # the same words of another user
    ]
    expected = np.zeros((5, 5), dtype=bool)
    for row, column in [(0, 1), (0, 2), (2, 3), (0, 4)]:
        expected[row, column] = expected[column, row] = True
    assert (unfair_negatives(pairs) == expected).all()


def test_words_of_both_scripts() -> None:
    assert [word for word, _ in words(" 三体 is a novel,2nd版 ")] == [
        "三",
        "体",
        "is",
        "a",
        "novel,2nd",
        "版",
    ]


@given(st.lists(st.text("ab 三体\n", min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_augmentation_keeps_order_and_words(texts: list[str]) -> None:
    rng = np.random.default_rng(0)
    assert augmented(texts, 0.0, 0.0, rng) == [text.strip() for text in texts]
    for text, cut in zip(texts, augmented(texts, 1.0, 0.0, rng), strict=True):
        assert cut in text
        assert len(words(cut)) >= len(words(text)) / 2
    known = {word for text in texts for word, _ in words(text)}
    for text, changed in zip(texts, augmented(texts, 0.0, 0.9, rng), strict=True):
        assert changed.strip()
        assert set("".join(known)) >= set(changed) - set(" \n")
        assert len(changed) <= len(text) * max(map(len, known))


def test_a_replaced_word_comes_from_another_text() -> None:
    texts = ["a a a a a a a a", "三体三体三体三体"]
    left, right = augmented(texts, 0.0, 0.5, np.random.default_rng(0))
    for text in (left, right):
        assert "a" in text
        assert {"三", "体"} & set(text)


def test_masking_by_the_book() -> None:
    import torch
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(vocab=vocabulary())
    ids = torch.full((100, 102), vocabulary()["boat"])
    ids[:, 0], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    guessed, targets = masked(ids, tokenizer, 20, 0.15, torch.Generator().manual_seed(0))
    chosen = targets != -100
    assert (targets[chosen] == ids[chosen]).all()
    assert (guessed[~chosen] == ids[~chosen]).all()
    assert not chosen[:, [0, -1]].any()
    assert chosen.float().mean().item() == pytest.approx(0.15 * 100 / 102, abs=0.01)
    hidden = (guessed[chosen] == tokenizer.mask_token_id).float().mean().item()
    assert hidden == pytest.approx(0.8 + 0.1 / 20, abs=0.03)
    rare = masked(ids, tokenizer, 20, 0.01, torch.Generator().manual_seed(0))[1]
    assert ((rare != -100).sum(dim=1) >= 1).all()


def test_a_reservoir_is_uniform() -> None:
    kept = np.zeros(20)
    for seed in range(2000):
        reservoir = Reservoir[int](5, np.random.default_rng(seed))
        for one in range(20):
            reservoir.add(one)
        drawn = sorted(reservoir.shuffled())
        assert all(left < right for left, right in pairwise(drawn))
        kept[drawn] += 1
    assert np.abs(kept / 2000 - 0.25).max() < 0.04  # four standard deviations
