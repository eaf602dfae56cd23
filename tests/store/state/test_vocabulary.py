"""The vocabulary of the derived state: which codes stay, which are given out again, and what readers see."""

from collections.abc import Sequence
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt
import pytest

from server.query.snapshot import ValuesByCode
from store.state.state import UserState
from store.state.vocabulary import Vocabulary, VocabularyDraft


class Table:
    """Stands for the transaction that codes are written in."""

    def put(self, *_: object, **__: object) -> None:
        pass


def lengths_of(names: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.array([len(name) for name in names], dtype=np.int64)


def fail(state: UserState) -> None:
    with state.writing() as draft:
        assert draft.items.code("rolled back") == 1
        raise ZeroDivisionError


def test_a_committed_code_stays_and_one_that_was_rolled_back_is_given_out_again(tmp_path: Path) -> None:
    with UserState.open(tmp_path / "state") as state:
        with state.writing() as draft:
            assert draft.items.code("committed") == 0
        with pytest.raises(ZeroDivisionError):
            fail(state)
        assert state.items.rollbacks == 1
        with state.writing() as draft:
            assert draft.items.code("another") == 1
            assert draft.items.code("committed") == 0
    with UserState.open(tmp_path / "state") as state:
        assert state.items.names == ["committed", "another"]


def test_a_value_that_is_read_amid_a_rollback_is_not_that_of_the_next_string() -> None:
    class Names(list[str]):
        """Has a reader look just before a string is removed."""

        def pop(self, index: SupportsIndex = -1) -> str:
            lengths(np.array([0]))
            return super().pop(index)

    vocabulary = Vocabulary(Names(["a"]))
    lengths = ValuesByCode(vocabulary, lengths_of)
    failing = VocabularyDraft(vocabulary, Table(), None)
    failing.code("failing")
    vocabulary.add(failing)
    vocabulary.roll_back(failing)
    kept = VocabularyDraft(vocabulary, Table(), None)
    assert kept.code("ok") == 1
    vocabulary.add(kept)
    assert lengths(np.array([0, 1])).tolist() == [1, 2]
