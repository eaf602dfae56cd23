"""Another index than the one that serves: one at a time, forgotten, and none whose language model differs."""

from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest

from server.query import OtherIndex, TextModelDiffersError, other_index
from server.query.query import Query, StoredUser


class Loaded:
    """Stands for an index with its model, as far as it is looked at before it answers."""

    def __init__(self, index_id: str, text_model_id: str) -> None:
        self.index = Mock(index_id=index_id)
        self.index.ids.__len__ = lambda _: 0
        self.model = Mock(text_model_id=text_model_id)


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OtherIndex:
    serving = MagicMock()
    serving.snapshot.index.index_id = "serving"
    serving.snapshot.encoder.text_model_id = "text-1"
    monkeypatch.setattr(
        other_index,
        "load_index",
        lambda _, index_id, threads: Loaded(index_id, "text-2" if index_id == "odd" else "text-1"),
    )

    def retriever(store: object, state: object, snapshot: object, **_: object) -> MagicMock:
        return MagicMock(snapshot=snapshot)

    monkeypatch.setattr(other_index, "Retriever", retriever)
    monkeypatch.setattr(other_index, "Snapshot", lambda index, *_: Mock(index=index))
    return OtherIndex(Mock(path=tmp_path), Mock(), Mock(), Mock(), serving)


def test_one_is_loaded_at_a_time_and_forgotten_when_nobody_asks(
    other: OtherIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = Query(StoredUser("anna"))
    monkeypatch.setattr(other_index, "KEPT_SECONDS", 3_600.0)
    other.retrieve("first", query)
    assert other.index_id == "first"
    other.retrieve("second", query)
    assert other.index_id == "second"
    other.retrieve("serving", query)  # answered by what serves
    assert other.index_id == "second"
    timer = other._forget
    assert timer is not None
    assert timer.daemon
    timer.function()  # as after five minutes
    assert other.index_id == ""
    other.close()
    assert timer.finished.is_set()


def test_one_whose_language_model_differs_is_refused_and_not_kept(other: OtherIndex) -> None:
    with pytest.raises(TextModelDiffersError, match="index odd reads texts by the language model text-2"):
        other.retrieve("odd", Query(StoredUser("anna")))
    assert other.index_id == ""
    other.close()
