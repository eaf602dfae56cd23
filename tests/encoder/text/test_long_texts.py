"""Texts that are longer than the language model reads at once: read in pieces, whose vectors are pooled."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import lmdb
import numpy as np
import pytest

from encoder.text.cache import TextCache, encode_with_cache
from encoder.text.encoder import MAX_PIECES, TEXT_RULE, TextEncoder
from encoder.text.source import DEFAULT_SOURCE, find_text_model
from store.artifact import read_manifest, read_pointer
from store.home import Home
from tests.command_line import Run
from tests.live_server import server

FILLER = "lorem ipsum dolor "
LONG = FILLER * 150 + "and then jazz trumpet"  # 450 words and more tokens


@pytest.fixture(scope="module")
def encoder(text_models_dir: Path) -> TextEncoder:
    directory = find_text_model(text_models_dir, DEFAULT_SOURCE)
    assert directory is not None
    return TextEncoder.load(directory)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TextCache]:
    with closing(TextCache.open(tmp_path / "cache")) as opened:
        yield opened


def test_the_vector_of_a_long_text_is_the_mean_of_its_pieces_by_tokens(encoder: TextEncoder) -> None:
    words = [f"{['alpha', 'beta', 'gamma', 'delta'][n % 4]}" for n in range(300)]  # a token each
    assert encoder.count_pieces([" ".join(words), " ".join(words[:254]), "", "  "]) == [2, 1, 0, 0]
    first, second = encoder.encode([" ".join(words[:254]), " ".join(words[254:])])
    wanted = 254 * first + 46 * second
    found = encoder.encode(["short", " ".join(words)])[1]
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-5)


def test_what_differs_behind_the_first_piece_differs_in_the_vector(encoder: TextEncoder) -> None:
    jazz, chess, wanted = encoder.encode([LONG, LONG.replace("jazz trumpet", "chess"), "jazz trumpet"])
    assert jazz @ wanted > chess @ wanted + 0.01
    assert np.linalg.norm(jazz) == pytest.approx(1.0, abs=1e-6)


def test_the_number_of_pieces_is_bounded(encoder: TextEncoder) -> None:
    words = ["alpha"] * (254 * MAX_PIECES)
    within, beyond = encoder.encode([" ".join(words), " ".join([*words, *["beta"] * 254])])
    np.testing.assert_allclose(within, beyond, atol=1e-5)
    assert encoder.count_pieces([" ".join([*words, "beta"])]) == [MAX_PIECES + 1]
    assert encoder.encode([" ".join(words[:-254] + ["beta"] * 254)])[0] @ within < 0.9999


def test_a_long_text_among_short_ones_changes_none_of_them(encoder: TextEncoder) -> None:
    texts = ["one short text", LONG, "another"]
    for chunk in encoder.encode_chunks([texts]):
        np.testing.assert_allclose(chunk, [encoder.encode([text])[0] for text in texts], atol=1e-5)


def old_entry(path: Path, encoder: TextEncoder, text: str, vector: np.ndarray) -> None:
    """Write what a version of before cached: the vector, and nothing behind it."""
    with closing(TextCache.open(path)) as opened:
        opened.put(encoder.text_model_id, [text], vector[None])
    with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
        for key, value in list(transaction.cursor()):
            if len(value) > encoder.dim * 4:
                transaction.put(key, value[: encoder.dim * 4])


def test_vectors_of_an_old_cache_serve_for_short_texts_only(encoder: TextEncoder, tmp_path: Path) -> None:
    one_piece = FILLER * 20  # of more bytes than tells it at once
    assert len(one_piece) > encoder.one_piece_bytes
    marked = np.full(encoder.dim, encoder.dim**-0.5, np.float32)
    for text in ("short", one_piece, LONG):
        old_entry(tmp_path / "cache", encoder, text, marked)
    with closing(TextCache.open(tmp_path / "cache")) as cache:
        limit = encoder.one_piece_bytes
        _, found = cache.get(encoder.text_model_id, ["short", one_piece, LONG], encoder.dim, limit)
        assert found.tolist() == [True, False, False]
        vectors = encode_with_cache(encoder, cache, ["short", one_piece, LONG], "texts")
        np.testing.assert_array_equal(vectors[:2], [marked, marked])  # taken over, not encoded again
        np.testing.assert_allclose(vectors[2], encoder.encode([LONG])[0], atol=1e-5)
        again, found = cache.get(encoder.text_model_id, ["short", one_piece, LONG], encoder.dim, limit)
        assert found.all()
        np.testing.assert_array_equal(again, vectors)


def test_items_that_differ_far_behind_are_told_apart_by_a_query(
    tmp_path: Path, text_models_dir: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data, home = tmp_path / "data", Home(tmp_path / "home")
    data.mkdir()
    lorem = FILLER * 110
    items = {"a": f"{lorem}jazz trumpet", "b": f"{lorem}chess", "c": "chess", "d": "jazz trumpet", "e": "e"}
    lines = [json.dumps({"item_id": name, "text": text}) for name, text in items.items()]
    (data / "items.jsonl").write_text("\n".join(lines) + "\n")
    rows = [f"u{u},{item},{u}" for u in range(8) for item in ("c" if u % 2 else "d", "e")]
    (data / "behaviors.csv").write_text("\n".join(["user_id,item_id,ts", *rows]) + "\n")
    texts = [f"u{u},I play {'chess' if u % 2 else 'jazz trumpet'}" for u in range(8)]
    (data / "texts.csv").write_text("\n".join(["user_id,text", *texts]) + "\n")
    assert run("import", data, "--home", home.path)[0] == 0
    shutil.copytree(text_models_dir, home.text_models)
    code, _, err = run("train", "--home", home.path, "--fusion", "ridge", "--dim", 4)
    assert code == 0, err
    said = [line for line in caplog.messages if "longer than" in line]
    wanted = "are longer than the 256 tokens that the text model reads at once: read in pieces"
    assert said == [f"item texts: 2 of 5 {wanted}"]  # and no user text is
    assert run("reindex", "--home", home.path)[0] == 0
    assert read_manifest(read_pointer(home.current_index, home.indexes))["text_rule"] == TEXT_RULE
    with server(home) as client:
        for text, first, second in (("jazz trumpet", "a", "b"), ("chess", "b", "a")):
            reply = client.query(text=text, k=5)
            scores = dict(zip(reply.item_ids, reply.scores, strict=True))
            assert scores[first] > scores[second] + 1e-4
