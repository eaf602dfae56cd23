"""`bench overload` and `bench soak` on a small home: what they count, never how much of it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from scripts.bench.serve.overload import OverloadOptions, measure_overload
from scripts.bench.serve.servers import ServerUnderTest, own_server
from scripts.bench.serve.soak import SoakOptions, measure_soak
from scripts.bench.serve.work import STORED, Work, make_work
from store.export import Export
from store.home import Home
from tests.live_server import copy_home


@pytest.fixture(scope="module")
def served(
    small_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerUnderTest, Work]]:
    home = copy_home(small_home, tmp_path_factory.mktemp("overload") / "home")
    with Export.latest(home.exports) as export:
        (work,) = make_work(export, 32, [STORED], k=5, seed=0)
    work = replace(work, requests=work.requests[:100])  # all are asked before the clock starts
    with own_server(home, workers=2) as server:
        yield server, work


@pytest.mark.nightly
def test_too_many_callers_and_calls_are_counted_and_health_is_asked(
    served: tuple[ServerUnderTest, Work],
) -> None:
    report = measure_overload(*served, OverloadOptions(callers=20, factor=2.0, seconds=1.0))
    assert [row["load"] for row in report["results"]] == ["20 callers", "2 × the peak"]
    for row in report["results"]:
        assert row["answered_per_second"] > 0
        assert row["share_of_peak"] == pytest.approx(row["answered_per_second"] / report["peak"])
        assert row["health_asked"] > 0


@pytest.mark.nightly
def test_a_soak_writes_and_asks_without_an_error(
    served: tuple[ServerUnderTest, Work], small_home: Home
) -> None:
    with Export.latest(small_home.exports) as export:
        item_ids = export.items(columns=["item_id"]).column("item_id").to_pylist()
    report = measure_soak(*served, item_ids, SoakOptions(seconds=3.0))
    assert report["failed"] == {}
    assert report["failed_writes"] == []
    assert report["writes"] > 0
    assert report["memory_warm_mib"] > 10
    assert report["memory_growth"] == pytest.approx(report["memory_end_mib"] / report["memory_warm_mib"])
