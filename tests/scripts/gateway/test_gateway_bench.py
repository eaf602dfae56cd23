"""What `bench gateway` measures: each way answers, and the bare Envoy passes calls on as they are."""

from dataclasses import replace
from pathlib import Path

from scripts.bench.gateway import BARE, DIRECT, GATEWAY, REST, GatewayBenchOptions, bare, measure_gateway
from scripts.bench.serve.work import STORED, make_work
from store.export import Export
from store.home import Home
from tests.live_server import Client, copy_home
from tests.scripts.gateway.conftest import Open
from triptych_client import Client as ApiClient


def test_every_way_is_measured_beside_the_direct_one(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with Export.latest(home.exports) as export:
        (work,) = make_work(export, 32, [STORED], k=10, seed=0)
    work = replace(work, requests=work.requests[:50])  # all are asked of each way before it is measured
    options = GatewayBenchOptions(rounds=1, seconds=0.2, callers=2)
    rows = {row["way"]: row for row in measure_gateway(home, work, tmp_path, options)["results"]}
    assert list(rows) == [DIRECT, BARE, GATEWAY, REST]
    assert rows[DIRECT]["added_p50_ms"] == 0
    assert all(0 < row["p50_ms"] <= row["p95_ms"] for row in rows.values())
    assert all(rows[name]["envoy_cpu_us"] > 0 for name in (BARE, GATEWAY, REST))


def test_a_bare_envoy_passes_calls_on(quiet: Client, open_gateway: Open) -> None:
    with open_gateway(quiet.address, make=bare) as passing, ApiClient(passing.address) as client:
        asked = client.query(user_id="u00001", k=5)
        assert asked.item_ids == quiet.query(user_id="u00001", k=5).item_ids
        assert passing.ask("/v1/query", {"user_id": "u00001"}).status != 200
