"""`triptych consume` and who NATS and we are to each other: TLS, passwords, tokens, keys, on real servers.

A consumer that was let in says that there is no stream.
"""

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nkeys
import psutil
import pytest

from scripts.bench.faults.nats_server import nats_server
from tests.authority import Authority
from tests.command_line import Run
from tests.live_server import SOON, Client, server, soon
from tests.small_stores import ROWS, make_store

LET_IN = "NATS has no stream EVENTS"
SECRET = "a-nats-secret"  # noqa: S105


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with server(make_store(tmp_path_factory.mktemp("home"), ROWS)) as live:
        yield live


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


def said(run: Run, live: Client, url: str, *options: object) -> str:
    """What a consumer says that cannot go on; never a secret."""
    code, _, err = run("consume", "--from", f"{url}/EVENTS", "--address", live.address, *options)
    assert (code, SECRET in err) == (1, False), err
    return err


def tls(certificate: tuple[Path, Path], *more: str) -> list[str]:
    return ["--tls", "--tlscert", str(certificate[0]), "--tlskey", str(certificate[1]), *more]


def secret(folder: Path, content: str = SECRET) -> Path:
    file = folder / "secret"
    file.write_text(f"{content}\n")
    return file


def test_a_server_with_tls_is_known_by_its_root_and_its_name(
    run: Run, live: Client, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "other")
    with nats_server(tmp_path / "nats", tls(authority.issue("nats"))) as broker:
        url = broker.url.replace("nats:", "tls:")
        for scheme in (url, broker.url):  # the server says by itself that it speaks TLS
            assert LET_IN in said(run, live, scheme, "--nats-tls-ca", authority.root)
        for options, root in (
            (("--nats-tls-ca", other.root), f"--nats-tls-ca {other.root}"),
            ((), "this machine: name its root by --nats-tls-ca"),
        ):
            err = said(run, live, url, *options)
            assert f"the certificate of {url} is not one of it, or not vouched for by {root}" in err
        missing = said(run, live, url, "--nats-tls-ca", tmp_path / "missing.pem")
        assert f"--nats-tls-ca {tmp_path / 'missing.pem'} cannot be used" in missing
    elsewhere = authority.issue("elsewhere", of="DNS:nats.example.org,IP:10.0.0.1")
    with nats_server(tmp_path / "elsewhere", tls(elsewhere)) as broker:
        err = said(run, live, broker.url, "--nats-tls-ca", authority.root)
        assert "is not one of it" in err
        assert "IP address mismatch" in err


def test_a_server_may_ask_for_a_certificate(
    run: Run, live: Client, authority: Authority, tmp_path: Path
) -> None:
    verify = ("--tlsverify", "--tlscacert", str(authority.root))
    with nats_server(tmp_path / "nats", tls(authority.issue("nats"), *verify)) as broker:
        certificate, key = authority.issue("consumer")
        with_ca = ("--nats-tls-ca", authority.root)
        own = ("--nats-tls-cert", certificate, "--nats-tls-key", key)
        assert LET_IN in said(run, live, broker.url, *with_ca, *own)
        assert "belong together" in said(run, live, broker.url, *with_ca, "--nats-tls-cert", certificate)
        without = [sys.executable, "-m", "scripts.cli", "consume", "--from", f"{broker.url}/EVENTS"]
        without += ["--address", live.address, *map(str, with_ca)]
        log = tmp_path / "log"
        with log.open("wb") as output, subprocess.Popen(without, stderr=output) as running:
            try:
                soon(lambda: running.poll() is not None or "interrupted" in log.read_text())
                assert LET_IN not in log.read_text()
            finally:
                running.kill()


def test_where_tls_is_meant_nothing_is_said_without(run: Run, live: Client, tmp_path: Path) -> None:
    """A server, or whoever stands in between, that offers no TLS is not told the password."""
    log = tmp_path / "nats" / "log"
    with nats_server(tmp_path / "nats", ["-DV", "--user", "app", "--pass", SECRET]) as broker:
        user = ("--nats-user", "app", "--nats-password-file", secret(tmp_path))
        url = broker.url.replace("nats:", "tls:")
        assert "does not speak TLS" in said(run, live, url, *user)
        assert "CONNECT" not in log.read_text()
        assert LET_IN in said(run, live, broker.url, *user)
        assert "CONNECT" in log.read_text()


def test_a_user_a_token_and_a_key_are_taken_from_files(
    run: Run, live: Client, authority: Authority, tmp_path: Path
) -> None:
    refused = "NATS refuses this user: see --nats-credentials"
    seed = bytes(nkeys.encode_seed(hashlib.sha256(b"consumer").digest(), nkeys.PREFIX_BYTE_USER))
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    (tmp_path / "nkey.conf").write_text(f'authorization {{ users = [ {{ nkey: "{public}" }} ] }}\n')
    ways: dict[str, tuple[list[str], tuple[object, ...]]] = {
        "user": (
            ["--user", "app", "--pass", SECRET],
            ("--nats-user", "app", "--nats-password-file", secret(tmp_path)),
        ),
        "token": (["--auth", SECRET], ("--nats-token-file", secret(tmp_path))),
        "nkey": (["-c", str(tmp_path / "nkey.conf")], ("--nats-nkey", tmp_path / "seed")),
        "credentials": (operated(tmp_path), ("--nats-credentials", tmp_path / "user.creds")),
    }
    (tmp_path / "seed").write_bytes(seed)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    for name, (options, given) in ways.items():
        encrypted = tls(authority.issue("nats")) if name in ("user", "token") else []
        with_ca = ("--nats-tls-ca", authority.root) if encrypted else ()
        with nats_server(tmp_path / name, [*options, *encrypted]) as broker:
            assert refused in said(run, live, broker.url, *with_ca), name
            assert LET_IN in said(run, live, broker.url, *with_ca, *given), name
            if name == "user":
                not_his = ("--nats-user", "app", "--nats-password-file", wrong)
                assert refused in said(run, live, broker.url, *with_ca, *not_his)
    url = "nats://127.0.0.1:9"
    assert "exclude each other" in said(run, live, url, *ways["nkey"][1], *ways["token"][1])
    assert "belong together" in said(run, live, url, "--nats-user", "app")
    assert "missing cannot be read" in said(run, live, url, "--nats-token-file", tmp_path / "missing")


def test_no_secret_is_seen_among_the_processes(live: Client, tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats", ["--auth", SECRET]) as broker:
        words = ["consume", "--from", f"{broker.url}/EVENTS", "--address", live.address]
        words += ["--nats-token-file", str(secret(tmp_path))]
        done = subprocess.Popen(
            [sys.executable, "-m", "scripts.cli", *words], stderr=subprocess.PIPE, text=True
        )
        command = psutil.Process(done.pid).cmdline()
        _, err = done.communicate(timeout=SOON)
        assert LET_IN in err
        assert SECRET not in " ".join(command) + err


def operated(folder: Path) -> list[str]:
    """Make an operator, an account with JetStream, and a user, whose credentials go to user.creds."""

    def pair(prefix: int, name: str) -> Any:
        seed = nkeys.encode_seed(hashlib.sha256(name.encode()).digest(), prefix)
        return nkeys.from_seed(bytearray(seed))

    def token(signer: Any, subject: Any, name: str, facts: dict[str, Any]) -> str:
        def packed(raw: bytes) -> str:
            return base64.urlsafe_b64encode(raw).decode().rstrip("=")

        claims = {
            "jti": name,
            "iat": 1_700_000_000,
            "iss": signer.public_key.decode(),
            "name": name,
            "sub": subject.public_key.decode(),
            "nats": facts | {"version": 2},
        }
        head = packed(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
        signed = f"{head}.{packed(json.dumps(claims).encode())}"
        return f"{signed}.{packed(signer.sign(signed.encode()))}"

    operator = pair(nkeys.PREFIX_BYTE_OPERATOR, "operator")
    account = pair(nkeys.PREFIX_BYTE_ACCOUNT, "account")
    user = pair(nkeys.PREFIX_BYTE_USER, "user")
    everything = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    everything |= dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    of_account = token(operator, account, "account", {"type": "account", "limits": everything})
    of_user = token(account, user, "user", {"type": "user", "subs": -1, "data": -1, "payload": -1})
    of_operator = token(operator, operator, "operator", {"type": "operator"})
    (folder / "user.creds").write_text(
        f"-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    system = pair(nkeys.PREFIX_BYTE_ACCOUNT, "system")
    accounts = {account: of_account, system: token(operator, system, "system", {"type": "account"})}
    known = ", ".join(f"{one.public_key.decode()}: {facts}" for one, facts in accounts.items())
    (folder / "operator.conf").write_text(
        f"operator: {of_operator}\nsystem_account: {system.public_key.decode()}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {known} }}\n"
    )
    return ["-c", str(folder / "operator.conf")]
