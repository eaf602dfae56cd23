"""Items and people in parts: what a killed build left is used, and what is missing is told."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.jobs import IN_PROCESS, Jobs, PartFailedError
from encoder.jobs.jobs import PartOutcome, attempt
from encoder.text import TextCache, TextEncoder, encode_with_cache
from indexer.building import parts
from indexer.building.parts import PartSources, Rows, encode_item_part
from indexer.building.text_vectors import TextVectors, TextVectorsMissingError, write_text_vectors
from store.home import Home
from tests.indexer.divided import built, cached, copy_without_vectors, divide_more


class Here(Jobs):
    """Divides the work as workers do, but does it here, notes the parts, and may end before one of them."""

    def __init__(self, ends_before: tuple[str, int] | None = None) -> None:
        self.done: list[tuple[str, Any]] = []
        self._ends_before = ends_before

    def submit(self, function: Callable[[Any], Any], part: Any) -> "Future[PartOutcome[Any]]":
        name = function.func.__name__ if isinstance(function, partial) else function.__name__
        if self._ends_before == (name, sum(other == name for other, _ in self.done)):
            raise KeyboardInterrupt
        self.done.append((name, part))
        future: Future[PartOutcome[Any]] = Future()
        future.set_result(attempt(function, part))
        return future

    def abandon(self, futures: "Collection[Future[Any]]") -> None:
        pass

    def close(self) -> None:
        pass

    def count(self, name: str) -> int:
        return sum(other == name for other, _ in self.done)


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    divide_more(monkeypatch)
    yield
    parts._opened.cache_clear()  # workers end with what they have opened


@pytest.fixture(scope="module")
def alone(
    small_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], dict[bytes, bytes]]:
    """The files of an index that was built in one go, and the text cache after it."""
    home = copy_without_vectors(small_home, tmp_path_factory.mktemp("alone") / "home")
    with pytest.MonkeyPatch.context() as patch:
        divide_more(patch)
        return built(home, IN_PROCESS), cached(home)


@pytest.mark.parametrize(
    "ends_before", [("encode_chunk", 3), ("encode_item_part", 2), ("encode_user_part", 2)]
)
def test_a_killed_build_goes_on_from_its_parts(
    small_home: Home,
    alone: tuple[dict[str, bytes], dict[bytes, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends_before: tuple[str, int],
) -> None:
    other = copy_without_vectors(small_home, tmp_path / "other")
    files, vectors = alone
    name, count = ends_before
    with pytest.raises(KeyboardInterrupt):
        built(other, Here(ends_before))
    (left,) = other.indexes.glob(".spool-*")
    assert len(list(left.rglob("0*.done.json"))) == (0 if name == "encode_chunk" else count)
    again, made = Here(), list[str]()
    for real in ("items.item_vectors", "sample.encode_users"):
        here = f"indexer.building.parts.{real.partition('.')[2]}"
        monkeypatch.setattr(here, _noted(f"indexer.building.{real}", made))
    assert built(other, again) == files
    assert cached(other) == vectors
    if name == "encode_chunk":  # what was cached is not encoded again
        texts = len(vectors) - 1  # beside the vectors stands the dim
        assert again.count(name) < texts // 32
    else:
        assert len(made) == {"encode_item_part": 3 + 4, "encode_user_part": 4}[name] - count


def _noted(name: str, made: list[Any]) -> Callable[..., Any]:
    from importlib import import_module

    module, _, function = name.rpartition(".")
    real = getattr(import_module(module), function)

    def noted(*given: Any) -> Any:
        made.append(name)
        return real(*given)

    return noted


def test_vectors_are_found_by_the_text(small_home: Home, tmp_path: Path) -> None:
    (name,) = [path.name for path in small_home.text_models.iterdir() if path != small_home.text_cache]
    encoder = TextEncoder.load(small_home.text_models / name)
    texts = [f"a film about number {number}" for number in range(40)]
    with closing(TextCache.open(tmp_path / "cache")) as cache:
        expected = encode_with_cache(encoder, cache, texts, "texts")
        write_text_vectors(tmp_path / "texts", [texts[:25], ["not cached"], texts[20:], []], encoder, cache)
    found = TextVectors.open(tmp_path / "texts")
    rows = [39, 0, 22, 0]
    np.testing.assert_array_equal(found.get([texts[row] for row in rows]), expected[rows])
    np.testing.assert_array_equal(found.get([" ", texts[1]]), [np.zeros(encoder.dim), expected[1]])
    assert found.get([]).shape == (0, encoder.dim)
    with pytest.raises(TextVectorsMissingError, match=r"lacks the vectors of 2 texts") as caught:
        found.get(["not cached", texts[0], "secret"])
    assert "secret" not in str(caught.value)


def test_a_machine_that_does_not_see_the_home_says_so(tmp_path: Path) -> None:
    sources = PartSources(tmp_path / "export", tmp_path / "model", tmp_path / "gone")
    work = Here().map(partial(encode_item_part, sources), [Rows(0, 0, 8)], "item vectors")
    with pytest.raises(
        PartFailedError, match=r"part 0 failed: NotSharedError: .*gone is not there on .* mounts at"
    ):
        list(work)
