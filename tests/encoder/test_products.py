"""Products over threads: the same bits as scipy's own."""

import threading

import numpy as np
import pytest
from scipy import sparse
from threadpoolctl import threadpool_limits

from encoder import products
from encoder.products import in_threads, product, threads


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_has_the_same_bits_for_any_number_of_threads(
    limit: int, dtype: type[np.floating], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "threads", lambda: limit)
    rng = np.random.default_rng(limit)
    full = sparse.csr_array(sparse.random_array((2_300, 500), density=0.12, rng=rng, dtype=np.float32))
    rows = sparse.csr_array(sparse.vstack([sparse.csr_array((700, 500), dtype=np.float32), full]))
    dense = rng.standard_normal((500, 64)).astype(dtype)
    assert rows.nnz * 64 > products._WORK_ALONE
    found = product(rows, dense)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, rows @ dense)


def test_one_row_with_all_the_work_and_an_empty_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_WORK_ALONE", 0)
    one = sparse.csr_array(np.vstack([np.ones((1, 40)), np.zeros((30, 40))]).astype(np.float32))
    np.testing.assert_array_equal(product(one, np.eye(40, 3, dtype=np.float32))[0], np.ones(3))
    assert not product(sparse.csr_array((5, 40), dtype=np.float32), np.ones((40, 3), np.float32)).any()


def test_results_come_in_the_order_of_the_parts_from_as_many_threads_as_blas_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with threadpool_limits(1):
        assert threads() == 1
    monkeypatch.setattr(products, "threads", lambda: 2)
    both = threading.Barrier(2, timeout=30)

    def work(part: int) -> int:
        if part < 2:
            both.wait()  # only two threads at a time get past it
        return part * part

    assert list(in_threads(work, range(6))) == [0, 1, 4, 9, 16, 25]
