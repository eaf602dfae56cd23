"""Kinds and attributes as numbers."""

import json

import numpy as np
import pytest

from encoder.content import AttributeEncoder, ContentEncoder, Described, RawContent
from encoder.content.attributes import HASHED_DIM, MOST_TERMS

SHOP = Described(
    ["film", "film", "book", None],
    [
        {"genre": ["crime", "drama"], "price": 5, "maker": {"country": "FR"}},
        {"genre": ["crime"], "price": 15.0, "used": True},
        {"genre": "drama", "price": 25, "used": True, "maker": {"country": "FR"}},
        None,
    ],
)


def test_terms_are_kinds_texts_truths_and_elements_that_two_items_have_and_not_all() -> None:
    encoder = AttributeEncoder.fit(SHOP, "one-hot")
    said = {term for term in encoder.terms if "≈" not in term}
    assert said == {"kind=film", "genre=crime", "genre=drama", "used=True", "maker.country=FR"}


def test_the_terms_of_a_name_weigh_together_no_more_than_one() -> None:
    encoder = AttributeEncoder.fit(SHOP, "one-hot")
    rows = encoder.encode(SHOP).toarray()
    at = [encoder.terms.index(f"genre={name}") for name in ("crime", "drama")]
    np.testing.assert_allclose(rows[0, at], 1 / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(rows[1, at], [1, 0], rtol=1e-6)
    assert not rows[3].any()


def test_a_number_is_shared_by_the_two_knots_around_it_and_held_at_the_ends() -> None:
    prices = Described([None] * 50, [{"price": float(n)} for n in range(50)])
    encoder = AttributeEncoder.fit(prices, "one-hot")
    assert encoder.knots is not None
    knots = encoder.knots["price"]
    between = (knots[2] + knots[3]) / 2
    asked = Described([None] * 3, [{"price": between}, {"price": 1e9}, {"price": knots[3]}])
    rows = encoder.encode(asked).toarray()
    at = [encoder.terms.index(f"price≈{n}") for n in range(len(knots))]
    np.testing.assert_allclose(rows[0, [at[2], at[3]]], 0.5, atol=1e-6)
    np.testing.assert_allclose(rows[1, at[-1]], 1.0)
    np.testing.assert_allclose(rows[2, at[3]], 1.0)
    assert (rows > 0).sum() == 4


@pytest.mark.parametrize("encoding", ["one-hot", "hashed"])
def test_an_encoder_read_from_its_json_encodes_alike(encoding: str) -> None:
    encoder = AttributeEncoder.fit(SHOP, encoding)  # type: ignore[arg-type]
    again = AttributeEncoder.from_json(json.loads(json.dumps(encoder.as_json())))
    np.testing.assert_array_equal(again.encode(SHOP).toarray(), encoder.encode(SHOP).toarray())


def test_hashed_terms_share_coordinates_and_one_that_was_not_learned_is_nothing() -> None:
    encoder = AttributeEncoder.fit(SHOP, "hashed")
    assert encoder.dim == HASHED_DIM
    rows = encoder.encode(
        Described(["film", None, None], [{"genre": "crime"}, {"genre": "crime"}, {"age": 9}])
    )
    assert abs(rows).sum(axis=1).tolist() == [2, 1, 0]
    assert rows[[0]].multiply(rows[[1]]).sum() == pytest.approx(1.0)


def test_no_more_terms_are_kept_than_the_bound_the_most_frequent_first() -> None:
    rare = MOST_TERMS["one-hot"] + 50
    items = [{"tag": [f"t{n}", "often"]} for n in range(rare) for _ in range(2)] + [{}]
    encoder = AttributeEncoder.fit(Described([None] * len(items), items), "one-hot")
    assert encoder.dim == MOST_TERMS["one-hot"]
    assert "tag=often" in encoder.terms


def test_items_that_all_say_the_same_say_nothing() -> None:
    alike = Described(["place"] * 9, [{"country": "FR"}] * 9)
    assert AttributeEncoder.fit(alike, "one-hot").dim == 0


def test_an_item_of_which_only_the_kind_is_known_has_no_content() -> None:
    encoder = ContentEncoder(attributes=AttributeEncoder.fit(SHOP, "one-hot"))
    bare = Described(["film"] * 3, [None, {"genre": "crime"}, {}])
    text = np.array([[0.0], [0.0], [1.0]], np.float32)
    content = encoder.encode(RawContent(["", "", "seen"], text, bare, np.zeros((3, 0), np.float32)))
    assert content.present[:, :2].tolist() == [[False, False], [False, True], [True, True]]
