"""Vectors that users bring with items, as arrays."""

import numpy as np
import pyarrow as pa
import pytest

from encoder.dataset import brought_vectors

ROWS = [None, [1.0, 2.0], None, [3.0, 4.0]]


def table(rows: list[list[float] | None]) -> pa.Table:
    return pa.table({"vector": pa.array(rows, pa.list_(pa.float32()))})


def test_the_first_vector_gives_the_length_and_an_item_without_one_is_zero() -> None:
    expected = [[0, 0], [1, 2], [0, 0], [3, 4]]
    np.testing.assert_array_equal(brought_vectors(table(ROWS)), expected)
    (batch,) = table(ROWS).to_batches()
    np.testing.assert_array_equal(brought_vectors(batch.slice(1)), expected[1:])
    whole = pa.concat_tables([table(ROWS[:2]), table(ROWS[2:])])
    np.testing.assert_array_equal(brought_vectors(whole), expected)


@pytest.mark.parametrize("rows", [[], [None, None]])
def test_where_no_item_has_one_there_are_no_coordinates(rows: list[list[float] | None]) -> None:
    assert brought_vectors(table(rows)).shape == (len(rows), 0)
    assert brought_vectors(table(rows), 3).shape == (len(rows), 3)


def test_a_model_knows_nothing_of_vectors_of_another_length() -> None:
    assert brought_vectors(table(ROWS), 0).shape == (4, 0)
    np.testing.assert_array_equal(brought_vectors(table(ROWS), 5), np.zeros((4, 5)))
    np.testing.assert_array_equal(brought_vectors(table(ROWS), 2)[1], [1, 2])
