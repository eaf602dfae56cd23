"""Where a server listens, how it is reached, and what is said of wrong addresses and TLS files."""

import json
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from scripts.home_access import fresh_export, server_of
from server.addresses import CannotListenError, Listening
from server.tls import server_credentials
from store.home import Home
from tests.command_line import Run
from tests.live_server import copy_home, run_server, server
from triptych_client import BadAddressError, CallError, Client, Tls, TlsFilesError, connect, target_of

EVERYWHERE = "0.0.0.0"  # noqa: S104
HAS_IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("host", "bound", "reached"),
    [
        ("127.0.0.1", "127.0.0.1:7", "127.0.0.1:7"),
        ("localhost", "localhost:7", "localhost:7"),
        (EVERYWHERE, "0.0.0.0:7", "127.0.0.1:7"),
        ("::1", "[::1]:7", "[::1]:7"),
        ("[::1]", "[::1]:7", "[::1]:7"),
        ("::", "[::]:7", "[::1]:7"),
        ("[::]", "[::]:7", "[::1]:7"),
        ("fe80::1%eth0", "[fe80::1%eth0]:7", "[fe80::1%eth0]:7"),
        ("unix:/run/x.sock", "unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_a_place_is_bound_and_reached_by_its_address(host: str, bound: str, reached: str) -> None:
    place = Listening.on(host, 7)
    assert (place.bound, place.reached) == (bound, reached)
    assert target_of(place.reached) == reached


def test_a_relative_socket_is_reached_from_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Listening.on("unix:x.sock", 0).reached == f"unix:{tmp_path}/x.sock" == target_of("unix:x.sock")


@pytest.mark.parametrize(
    "host", ["", "[]", "unix:", "unix:/", "a b", "http://x", "localhost:80", "1:2", "a\nb"]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(BadAddressError, match="address"):
        Listening.on(host, 7)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:50051", "this is a URL: write host:port alone"),
        ("https://x", "this is a URL"),
        ("nonsense", "write host:port"),
        ("127.0.0.1:", "write host:port"),
        (":50051", "write host:port"),
        ("127.0.0.1:0", "write host:port"),
        ("127.0.0.1:80000", "write host:port"),
        ("127.0.0.1:port", "write host:port"),
        ("::1", "stands in brackets before its port"),
        ("[::1]", "write host:port"),
        ("::1:50051", "stands in brackets before its port"),
        ("", "write host:port"),
    ],
)
def test_what_is_no_address_is_refused_at_once(address: str, said: str, run: Run) -> None:
    with pytest.raises(BadAddressError, match=said):
        connect(address)
    code, _, err = run("query", "alice", "--address", address)
    assert code == 1
    assert said in err


@pytest.mark.parametrize(
    "address", ["dns:///a.example:1", "ipv4:127.0.0.1:1", "xds:///x", "[::1]:1", "a-b.c:1"]
)
def test_what_grpc_can_reach_is_left_to_it(address: str) -> None:
    assert target_of(address) == address


def test_it_is_said_why_nothing_can_listen(tmp_path: Path) -> None:
    for host in ("nosuchhost.invalid", "256.1.1.1"):
        error = Listening.on(host, 7).error()
        assert isinstance(error, CannotListenError)
        assert "is no address and no name that is known" in str(error)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "Address already in use" in str(Listening.on("127.0.0.1", port).error())
    assert Listening.on("127.0.0.1", port).error() is None
    assert "Cannot assign requested address" in str(Listening.on("192.0.2.1", 7).error())
    (tmp_path / "file").write_text("mine")
    assert "no socket lies there" in str(Listening.on(f"unix:{tmp_path}/file", 0).error())
    assert "there is no directory" in str(Listening.on(f"unix:{tmp_path}/none/x", 0).error())
    assert "too long" in str(Listening.on(f"unix:{tmp_path}/{'x' * 100}", 0).error())
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        assert "another server listens there" in str(Listening.on(f"unix:{tmp_path}/s", 0).error())
    assert Listening.on(f"unix:{tmp_path}/s", 0).error() is None  # left behind by a killed server


@pytest.mark.parametrize(
    "host", [pytest.param("::1", marks=needs_ipv6), pytest.param("::", marks=needs_ipv6), EVERYWHERE, "unix"]
)
def test_a_server_is_announced_as_commands_reach_it(
    small_home: Home, tmp_path: Path, run: Run, host: str
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    where = ("--host", f"unix:{tmp_path}/s" if host == "unix" else host, "--insecure")
    with server(home, *where) as live:
        said = json.loads(home.server_file.read_text())
        assert said["address"] == live.address
        assert said["local"] == server_of(home)
        socket_file = Path(said["local"].removeprefix("unix:"))
        assert stat.S_IMODE(socket_file.stat().st_mode) == 0o600
        assert stat.S_IMODE(socket_file.parent.stat().st_mode) == 0o700
        assert run("query", "u00001", "--address", live.address)[0] == 0
        with fresh_export(home) as export:  # through the server
            assert export.manifest["kind"] == "export"
        if host == "unix":
            assert live.address == f"unix:{tmp_path}/s"
            (tmp_path / "other").mkdir()
            other = run_server(Home(tmp_path / "other"), "--host", live.address)
            assert other.returncode == 1
            assert "another server listens there" in other.stderr
            assert live.query(user_id="u00001").item_ids


def said_by(ended: "subprocess.CompletedProcess[str]") -> str:
    """The last line of a server, which is its reason."""
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("server: ")
    return last


@pytest.mark.parametrize("host", ["", "nosuchhost.invalid", "256.1.1.1"])
def test_a_server_that_cannot_listen_says_why(tmp_path: Path, host: str) -> None:
    ended = run_server(Home(tmp_path), "--host", host)
    assert ended.returncode == 1
    assert ("a host is a name" if not host else f"{host!r} is no address") in said_by(ended)


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two certificates for 127.0.0.1 and their keys, an encrypted key and junk."""
    folder = tmp_path_factory.mktemp("pems")
    for name in ("a", "b"):
        options = ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", "/CN=localhost"]
        options += ["-addext", "subjectAltName=IP:127.0.0.1"]
        _openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", *options)
    _openssl(folder, "pkey", "-in", "a.key", "-aes256", "-passout", "pass:secret", "-out", "secret.key")
    (folder / "junk.pem").write_text("junk")
    (folder / "cut.pem").write_text((folder / "a.crt").read_text()[:300])
    (folder / "binary.pem").write_bytes(bytes(range(256)))
    return folder


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)


@needs_openssl
@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("a.crt", "b.key", "the key .*b.key does not belong to the certificate .*a.crt"),
        ("junk.pem", "a.key", "junk.pem is no PEM certificate"),
        ("cut.pem", "a.key", "cut.pem is no PEM certificate"),
        ("binary.pem", "a.key", "binary.pem is no PEM certificate"),
        ("a.crt", "junk.pem", "junk.pem is no PEM private key"),
        ("a.crt", "a.crt", "a.crt is no PEM private key"),
        ("a.key", "a.crt", "a.key is no PEM certificate"),
        ("a.crt", "secret.key", "secret.key is encrypted"),
    ],
)
def test_tls_files_that_cannot_be_used_are_named(pems: Path, certificate: str, key: str, said: str) -> None:
    with pytest.raises(TlsFilesError, match=said):
        server_credentials(pems / certificate, pems / key)
    server_credentials(pems / "a.crt", pems / "a.key")


@needs_openssl
def test_a_server_names_the_tls_file_at_fault(pems: Path, tmp_path: Path) -> None:
    for certificate, key, said in (
        (pems / "a.crt", pems / "b.key", "b.key does not belong to the certificate"),
        (pems / "none.pem", pems / "a.key", "none.pem"),
        (pems, pems / "a.key", f"Is a directory: '{pems}'"),
    ):
        ended = run_server(
            Home(tmp_path), "--port", "0", "--tls-cert", str(certificate), "--tls-key", str(key)
        )
        assert ended.returncode == 1
        assert said in said_by(ended)


@needs_openssl
@pytest.mark.parametrize("name", ["junk.pem", "cut.pem", "binary.pem", "a.key"])
def test_a_root_certificate_that_is_none_is_named(pems: Path, name: str, run: Run) -> None:
    with pytest.raises(TlsFilesError, match=f"{name} is no PEM certificate"):
        Tls(pems / name).credentials()
    code, _, err = run("query", "alice", "--address", "127.0.0.1:1", "--tls-ca", pems / name)
    assert (code, f"{name} is no PEM certificate" in err) == (1, True)


@needs_openssl
def test_clients_say_what_tls_lacks(small_home: Home, tmp_path: Path, pems: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with server(home, "--tls-cert", str(pems / "a.crt"), "--tls-key", str(pems / "a.key")) as live:
        local = json.loads(home.server_file.read_text())["local"]
        for address, authority, said in (
            (live.address, pems / "b.crt", "not vouched for by the root certificate"),
            (local, pems / "a.crt", "it speaks without TLS there"),
        ):
            with (
                Client(address, tls_ca=authority, timeout=60) as client,
                pytest.raises(CallError, match=said),
            ):
                client.query(user_id="u00001")  # at once: repeating it does not help
        with Client(live.address, timeout=1) as client, pytest.raises(CallError, match="does it want TLS"):
            client.query(user_id="u00001")
        with Client(live.address, tls_ca=pems / "a.crt") as client:
            assert client.query(user_id="u00001").item_ids
