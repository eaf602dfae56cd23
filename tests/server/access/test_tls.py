"""Real TLS: who is refused at the handshake, and certificates that are renewed while the server runs."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from server.access import TokenFile
from server.app import running
from server.config import ServerConfig
from server.probe import problem_at
from store.home import Home
from tests.authority import Authority
from tests.live_server import SOON, copy_home, run_server, server, soon
from triptych_client import CallError, Client

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
USER = "u00001"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"), "theirs")


def asks(address: str, **how: object) -> bool:
    """Whether a query is answered over a new connection."""
    with Client(address, connections=1, timeout=SOON, **how) as client:  # type: ignore[arg-type]
        return bool(client.query(user_id=USER).item_ids)


def refused(address: str, timeout: float = SOON, **how: object) -> CallError:
    with Client(address, connections=1, timeout=timeout, **how) as client, pytest.raises(CallError) as caught:  # type: ignore[arg-type]
        client.query(user_id=USER)
    return caught.value


@pytest.fixture(scope="module")
def served(small_home: Home, ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = copy_home(small_home, tmp_path_factory.mktemp("tls") / "home")
    certificate, key = ours.issue("server")
    with running(ServerConfig(home, port=0, tls_cert=certificate, tls_key=key)) as address:
        yield address


def test_a_client_that_trusts_the_wrong_authority_is_not_connected(
    served: str, ours: Authority, theirs: Authority
) -> None:
    assert asks(served, tls_ca=ours.root)
    assert "not vouched for by the root certificate" in str(refused(served, tls_ca=theirs.root))


def test_a_probe_at_an_address_trusts_whom_it_is_told_to(
    served: str, ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    assert problem_at(served, ours.root) == ""
    assert problem_at(served, ours.root, "localhost") == ""
    assert problem_at(served, ours.root, "another") == "no answer: UNAVAILABLE"
    assert problem_at(served, theirs.root, alive=True) == "no answer: UNAVAILABLE"
    assert problem_at(served) == "no answer: UNAVAILABLE"
    assert "missing.pem cannot be read" in problem_at(served, tmp_path / "missing.pem")


def test_plaintext_to_a_tls_port_is_not_answered(served: str) -> None:
    assert "does it want TLS?" in str(refused(served, timeout=1.0))


def test_an_expired_certificate_is_refused_and_a_renewed_one_taken_without_a_restart(
    small_home: Home, ours: Authority, tmp_path: Path
) -> None:
    copy = copy_home(small_home, tmp_path / "home")
    certificate, key = ours.issue("short", days=-1)
    with server(copy, "--tls-cert", str(certificate), "--tls-key", str(key)) as live:
        said = refused(live.address, tls_ca=ours.root)
        assert said.about_tls
        assert "its certificate is past its time" in str(said)
        ours.issue("short")
        assert asks(live.address, tls_ca=ours.root)
        certificate.write_text("junk")  # the one before goes on, and the log says so
        assert asks(live.address, tls_ca=ours.root)
        soon(lambda: "the certificate stays as it is" in live.log.read_text())
        assert "short.crt is no PEM certificate" in live.log.read_text()
        ours.issue("short", days=-1)
        assert "is past its time" in str(refused(live.address, tls_ca=ours.root))


@pytest.mark.parametrize("processes", [(), ("--processes", "2", "--no-spare")])
def test_mutual_tls_wants_a_certificate_of_its_own_authority(
    small_home: Home, ours: Authority, theirs: Authority, tmp_path: Path, processes: tuple[str, ...]
) -> None:
    copy = copy_home(small_home, tmp_path / "home")
    certificate, key = ours.issue("mutual")
    mine, my_key = theirs.issue("client")
    foreign, foreign_key = ours.issue("foreign")
    old, old_key = theirs.issue("old", days=-1)
    files = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(theirs.root))
    with server(copy, *files, *processes) as live:
        assert asks(live.address, tls_ca=ours.root, tls_cert=mine, tls_key=my_key)
        for own in ({}, {"tls_cert": foreign, "tls_key": foreign_key}, {"tls_cert": old, "tls_key": old_key}):
            said = refused(live.address, timeout=2.0, tls_ca=ours.root, **own)
            assert said.code is grpc.StatusCode.UNAVAILABLE, said


def test_tls_and_tokens_together(small_home: Home, ours: Authority, tmp_path: Path) -> None:
    copy = copy_home(small_home, tmp_path / "home")
    certificate, key = ours.issue("both")
    _, secret = TokenFile(copy.path / "tokens.json").create(("query",), datetime.now(UTC))
    config = ServerConfig(copy, host="0.0.0.0", port=0, tls_cert=certificate, tls_key=key)  # noqa: S104
    with running(config) as address:
        assert asks(address, tls_ca=ours.root, token=secret)
        assert refused(address, tls_ca=ours.root).reason == "TOKEN_MISSING"


def test_a_certificate_of_ones_own_needs_its_key_and_the_servers_root(ours: Authority) -> None:
    mine, key = ours.issue("alone")
    for files in ({"tls_cert": mine, "tls_key": key}, {"tls_ca": ours.root, "tls_cert": mine}):
        with pytest.raises(ValueError, match=r"root certificate|both a certificate and a key"):
            Client("127.0.0.1:9", **files)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("with_tls", "with_token", "lacks"),
    [(False, False, "no TLS and no token"), (True, False, "no token"), (False, True, "no TLS")],
)
@pytest.mark.parametrize("processes", [(), ("--processes", "2")])
def test_other_machines_get_in_by_tls_and_tokens_alone(
    ours: Authority, tmp_path: Path, with_tls: bool, with_token: bool, lacks: str, processes: tuple[str, ...]
) -> None:
    if with_token:
        TokenFile(tmp_path / "tokens.json").create(("query",), datetime.now(UTC))
    certificate, key = ours.issue("open")
    files = ("--tls-cert", str(certificate), "--tls-key", str(key)) if with_tls else ()
    ended = run_server(Home(tmp_path), "--host", "0.0.0.0", "--port", "0", *files, *processes)  # noqa: S104
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert f"0.0.0.0 lets other machines in, and there is {lacks}." in last
    for way in ("--host 127.0.0.1", "--tls-cert and --tls-key", "`triptych token create`", "--insecure"):
        assert way in last
