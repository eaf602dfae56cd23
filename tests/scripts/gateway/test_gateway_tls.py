"""TLS on both sides of the gateway, and what it takes for other machines to be let in."""

import http.client
import shutil
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scripts.gateway.config import GatewayConfig
from scripts.gateway.exposure import GatewayExposedError, check_gateway
from server.access import TokenFile
from store.home import Home
from tests.authority import Authority
from tests.engines.gateway import JSON
from tests.live_server import SOON, copy_home, server, soon
from tests.scripts.gateway.conftest import Open
from triptych_client import Client as ApiClient
from triptych_client import Tls

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
USER = "u00001"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


def not_after(address: str, authority: Authority) -> str:
    """Return until when the certificate that the gateway shows is good."""
    context = ssl.create_default_context(cafile=str(authority.root))
    connection = http.client.HTTPSConnection(address, timeout=SOON, context=context)
    try:
        connection.request("POST", "/v1/query", '{"user_id": "u00001", "k": 2}', JSON)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        return str(connection.sock.getpeercert()["notAfter"])
    finally:
        connection.close()


def test_tls_on_both_sides_and_a_certificate_that_is_renewed(
    small_home: Home, ours: Authority, tmp_path: Path, open_gateway: Open
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    certificate, key = ours.issue("server")
    mine, my_key = ours.issue("gateway-as-client")
    shown, shown_key = ours.issue("gateway", days=100)
    files = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(ours.root))
    with server(home, *files) as behind:
        tls = Tls(ours.root, mine, my_key)
        with open_gateway(behind.address, tls_cert=shown, tls_key=shown_key, server_tls=tls) as gateway:
            before = not_after(gateway.address, ours)
            with ApiClient(gateway.address, tls_ca=ours.root) as client:
                assert client.query(user_id=USER, k=2).item_ids
            ours.issue("gateway", days=200)
            soon(lambda: not_after(gateway.address, ours) != before)


def test_a_server_that_is_not_vouched_for_is_not_asked(
    small_home: Home, ours: Authority, tmp_path: Path, open_gateway: Open
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    certificate, key = ours.issue("server")
    theirs = Authority(tmp_path / "theirs", "theirs")
    with (
        server(home, "--tls-cert", str(certificate), "--tls-key", str(key)) as behind,
        open_gateway(behind.address, server_tls=Tls(theirs.root)) as gateway,
    ):
        reply = gateway.ask("/v1/query", {"user_id": USER})
        assert (reply.status, reply.reason) == (503, "SERVER_UNREACHABLE")


def test_others_are_let_in_to_servers_that_ask_for_tokens(
    small_home: Home, ours: Authority, tmp_path: Path
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    certificate, key = ours.issue("open")
    everybody = {"host": "0.0.0.0", "tls_cert": certificate, "tls_key": key}  # noqa: S104
    with server(home) as behind:
        config = GatewayConfig((behind.address,), **everybody)  # type: ignore[arg-type]
        with pytest.raises(GatewayExposedError, match="asks for no token"):
            check_gateway(config, insecure=False)
        TokenFile(home.path / "tokens.json").create(("query",), datetime.now(UTC))
        check_gateway(config, insecure=False)
