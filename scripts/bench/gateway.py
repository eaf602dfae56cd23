"""What the gateway adds to a stored user's query, beside a bare Envoy that passes gRPC on, by turns."""

import http.client
import json
import logging
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToJson
from tqdm import tqdm

from scripts.bench.load import CallFailedError
from scripts.bench.serve.callers import Callers, ClosedLoop, Load, ask
from scripts.bench.serve.servers import ServerUnderTest, own_server
from scripts.bench.serve.work import Work
from scripts.gateway.config import ADMIN, GatewayConfig, bootstrap
from scripts.gateway.process import running_gateway
from store.home import Home
from triptych_client.pb.v1 import triptych_pb2 as pb

log = logging.getLogger(__name__)

DIRECT, BARE, GATEWAY, REST = "gRPC, direct", "gRPC, bare Envoy", "gRPC, gateway", "JSON, gateway"
_HTTP2: dict[str, Any] = {"explicit_http_config": {"http2_protocol_options": {}}}
_TYPES = "type.googleapis.com/envoy.extensions"


@dataclass(frozen=True)
class GatewayBenchOptions:
    """How to measure: `rounds` of `seconds` for each way by turns, by one caller and by `callers`.

    Attributes:
        processes: of the server.
        threads: of each Envoy.
    """

    rounds: int = 9
    seconds: float = 1.0
    callers: int = 16
    processes: int = 1
    threads: int = 2


def measure_gateway(home: Home, work: Work, folder: Path, options: GatewayBenchOptions) -> dict[str, Any]:
    """Return latency, throughput and processor time of each way to a server, and what each adds.

    Args:
        home: that is served.
        work: what is asked.
        folder: for logs.
        options: how to measure.

    Raises:
        CallFailedError: a call got an error.
        CommandFailedError, EnvoyNotInstalledError: a server or Envoy does not start.
    """
    loads: dict[str, list[Load]] = {name: [] for name in (DIRECT, BARE, GATEWAY, REST)}
    many: dict[str, list[Load]] = {name: [] for name in (DIRECT, BARE, GATEWAY)}
    with ExitStack() as stack:
        server = stack.enter_context(own_server(home, 8, options.processes))
        config = GatewayConfig((server.address,), port=0)
        ways = {DIRECT: server}
        for name, make in ((BARE, bare), (GATEWAY, bootstrap)):
            output = stack.enter_context((folder / f"{name}.log").open("wb"))
            envoy = stack.enter_context(
                running_gateway(config, threads=options.threads, output=output, make=make)
            )
            ways[name] = ServerUnderTest(name, envoy.url.partition("://")[2], (envoy.process.pid,))
        callers = stack.enter_context(Callers(2, 1))
        for way in ways.values():
            ask(way.address, work, len(work.requests))
        for turn in tqdm(range(options.rounds), desc="bench gateway", disable=None):
            for name in list(loads)[:: -1 if turn % 2 else 1]:
                if name == REST:
                    loads[name].append(_by_json(ways[GATEWAY], work, options.seconds))
                    continue
                way, one = ways[name], ClosedLoop(1, options.seconds)
                loads[name].append(callers.measure(way.address, work, one, way.cpu))
                loop = ClosedLoop(options.callers, options.seconds)
                many[name].append(callers.measure(way.address, work, loop, way.cpu))
    log.info("bench gateway: done")
    return {"results": [_row(name, loads, many.get(name)) for name in loads]}


def bare(config: GatewayConfig, _: str, folder: Path) -> dict[str, Any]:
    """Return an Envoy that passes every call of gRPC on to one server, and does nothing else."""
    host, _, port = config.addresses[0].rpartition(":")
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router"}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "server", "timeout": "0s"}}
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    listener = {
        "name": "bare",
        "address": _address(config.host, config.port),
        "filter_chains": [{"filters": [network]}],
    }
    protocol = {"@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions"} | _HTTP2
    endpoint = {"endpoint": {"address": _address(host, int(port))}}
    cluster = {
        "name": "server",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "server", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol
        },
    }
    return {
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
        "admin": {"address": {"pipe": {"path": str(folder / ADMIN)}}},
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _by_json(way: ServerUnderTest, work: Work, seconds: float) -> Load:
    """Ask for some seconds over one connection of HTTP/1.1, as JSON; replies are parsed as well."""
    bodies = [MessageToJson(pb.QueryRequest.FromString(one), indent=None) for one in work.requests]
    connection = http.client.HTTPConnection(way.address, timeout=60)
    headers = {"content-type": "application/json"}
    taken: list[float] = []
    before, start = way.cpu(), time.monotonic()
    while (began := time.monotonic()) - start < seconds:
        connection.request("POST", "/v1/query", bodies[len(taken) % len(bodies)], headers)
        reply = connection.getresponse()
        said = json.loads(reply.read())
        if reply.status != 200:
            raise CallFailedError(way.address, str(said))
        taken.append(1e3 * (time.monotonic() - began))
    connection.close()
    load = Load(time.monotonic() - start, np.array(taken))
    load.server_cpu = way.cpu() - before
    return load


def _row(name: str, loads: dict[str, list[Load]], many: list[Load] | None) -> dict[str, Any]:
    def median(of: Callable[[Load], float], some: list[Load]) -> float:
        return statistics.median(of(load) for load in some)

    mine, direct = loads[name], loads[DIRECT]
    added = [one.percentile(50) - other.percentile(50) for one, other in zip(mine, direct, strict=True)]
    envoy = None if name == DIRECT else median(lambda load: 1e6 * load.server_cpu / len(load.latencies), mine)
    return {
        "way": name,
        "p50_ms": median(lambda load: load.percentile(50), mine),
        "p95_ms": median(lambda load: load.percentile(95), mine),
        "added_p50_ms": statistics.median(added),
        "envoy_cpu_us": envoy,
        "per_second_of_many": None if many is None else median(lambda load: load.throughput, many),
    }
