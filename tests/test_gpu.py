"""FAISS on a graphics card finds what the CPU finds, in files that serve on both."""

from pathlib import Path

import numpy as np
import pytest

from indexer.gpu import cards, in_cpu_form, on_a_card, on_cards
from tests.test_index import FILTERS, make_index, queries_of

gpu = pytest.mark.gpu


def test_without_a_card_everything_stays_as_it_is() -> None:
    if cards().count:
        pytest.skip("there is a card")
    index = object()
    assert on_cards(index) is index
    assert in_cpu_form(index) is index
    assert not on_a_card(index)
    assert "CPU build" in cards().reason or "0 graphics cards" in cards().reason


@gpu
@pytest.mark.skipif(not cards().count, reason="no graphics card")
@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "IVF16,SQ8"])
def test_a_card_finds_what_brute_force_finds(tmp_path: Path, factory: str) -> None:
    index = make_index(tmp_path, 4_000, factory)
    assert index.approximate is not None
    assert on_a_card(index.approximate._shards[0])
    found, exact = index.search(queries_of(32), 20), index.brute_force(queries_of(32), 20)
    shared = [len(np.intersect1d(f, e)) for f, e in zip(found[0], exact[0], strict=True)]
    assert np.mean(shared) >= 0.98 * 20
    for wanted in FILTERS:
        kept = index.search(queries_of(3), 10, None, wanted)[0]
        assert (kept >= 0).sum() == (index.brute_force(queries_of(3), 10, None, wanted)[0] >= 0).sum()
