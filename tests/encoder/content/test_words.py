"""Words of item texts as numbers."""

import json

import numpy as np

from encoder.content import WordEncoder
from encoder.content.words import MOST_WORDS, words_of


def test_words_are_in_lower_case_and_chinese_is_read_two_characters_at_a_time() -> None:
    assert list(words_of("The Moka-Pot, café № 7")) == ["the", "moka", "pot", "café", "7"]
    assert list(words_of("深度学习 with 猫")) == ["深度", "度学", "学习", "with", "猫"]


def test_a_word_of_one_text_or_of_more_than_half_tells_nothing() -> None:
    texts = ["jazz live", "jazz club", "jazz club trio", "opera club live", "opera", ""]
    encoder = WordEncoder.fit(texts)
    assert encoder.words == ("live", "opera")  # jazz and club are in three of five


def test_texts_become_unit_rows_and_rare_words_weigh_more() -> None:
    texts = ["a b", "a c", "a d", "b c", "d e", "e f", "f g", "g h"]
    encoder = WordEncoder.fit(texts)
    rows = encoder.encode(["a b", "zzz", "a a a b"]).toarray()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 0, 1], atol=1e-6)
    a, b = encoder.words.index("a"), encoder.words.index("b")
    assert rows[0, b] > rows[0, a] > 0
    assert rows[2, a] > rows[2, b]


def test_an_encoder_read_from_its_json_encodes_alike() -> None:
    texts = ["深度学习 猫", "深度学习 狗", "a cat", "a dog", "cat", "dog"]
    encoder = WordEncoder.fit(texts)
    again = WordEncoder.from_json(json.loads(json.dumps(encoder.as_json())))
    np.testing.assert_array_equal(again.encode(texts).toarray(), encoder.encode(texts).toarray())


def test_no_more_words_are_kept_than_the_bound() -> None:
    texts = [f"w{n} w{n + 1}" for n in range(2 * MOST_WORDS)]
    assert WordEncoder.fit(texts).dim == MOST_WORDS
