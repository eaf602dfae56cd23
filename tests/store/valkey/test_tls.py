"""The state in a cluster with TLS: certificates are compared, of nodes and of ours; no password is told."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from store.valkey import ClusterAddress, ClusterTlsError, SharedState, StateUnreachableError, cluster_address
from tests.authority import Authority
from tests.engines.valkey import SPEAKS_NO_TLS, TlsNode, program_with_tls, tls_node
from tests.live_server import SOON, run_server
from tests.small_stores import ROWS, make_store
from tests.store.valkey.test_cluster import RIGHTS, Place

SECRET = "a-valkey-secret"  # noqa: S105
pytestmark = pytest.mark.skipif(program_with_tls() is None, reason=SPEAKS_NO_TLS)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="module")
def node(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsNode]:
    folder = tmp_path_factory.mktemp("node") / "data"
    with tls_node(folder, authority.issue("node"), authority.root) as node:
        rights = f"~triptych:* {RIGHTS} +@write"
        node.node.client().execute_command("ACL", "SETUSER", "owner", "on", f">{SECRET}", *rights.split())
        node.node.client().execute_command("ACL", "SETUSER", "default", "off")
        yield node


@pytest.fixture
def address(node: TlsNode, authority: Authority, tmp_path: Path) -> ClusterAddress:
    """The address of the node with all that it asks for."""
    (tmp_path / "password").write_text(f"{SECRET}\n")
    certificate, key = authority.issue("owner")
    return cluster_address(node.url, "owner", tmp_path / "password", authority.root, certificate, key)


def refused(address: ClusterAddress) -> str:
    """Why the state at an address is not read; never the password."""
    state = SharedState(address, lambda: None)
    with pytest.raises(StateUnreachableError) as caught:
        state.start()
    said = str(caught.value)
    assert f"the state of users in {address} cannot be reached" in said
    assert SECRET not in said
    return said


def test_a_state_is_written_and_read_with_tls(
    address: ClusterAddress, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), ExitStack() as stack:
        place = Place(tmp_path, stack)
        mirror = place.mirror(address)
        place.see("ann")
        mirror.step()
        state = SharedState(address, lambda: None)
        state.text_model_id = "model"
        state.start()
        with state as reader:
            assert reader.wait_for(place.state.commit, SOON)
            assert [len(one.history) for one in reader.users(["ann", "bob"])] == [1, 0]
            place.see("ann", ts=1)  # by connections that are there
            mirror.step()
            assert reader.wait_for(place.state.commit, SOON)
            assert len(reader.users(["ann"])[0].history) == 2
        mirror.stop()
    assert SECRET not in caplog.text


def test_what_is_not_vouched_for_is_refused_and_named(
    address: ClusterAddress, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "other")
    said = refused(replace(address, ca=other.root))
    assert f"the certificates of the nodes are not vouched for by --state-ca {other.root}" in said
    assert "by the machine: name their root by --state-ca" in refused(replace(address, ca=None))
    stranger = other.issue("stranger")
    for certificate, key in (stranger, (None, None)):
        refused(replace(address, certificate=certificate, key=key))
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    assert "username-password" in refused(replace(address, password_file=wrong))
    refused(replace(address, tls=False, ca=None, certificate=None, key=None))


def test_a_node_is_one_of_the_name_in_its_certificate(authority: Authority, tmp_path: Path) -> None:
    """Of one root there are many certificates; the one of another machine is none of this node."""
    elsewhere = authority.issue("elsewhere", of="DNS:valkey.example.org,IP:10.0.0.1")
    certificate, key = authority.issue("owner")
    with tls_node(tmp_path / "node", elsewhere, authority.root) as node:
        said = refused(cluster_address(node.url, "", None, authority.root, certificate, key))
        assert "nodes must tell clients the names in theirs" in said


def test_files_that_cannot_be_used_are_named_at_the_start(
    node: TlsNode, authority: Authority, tmp_path: Path
) -> None:
    plain = node.url.replace("valkeys:", "valkey:")
    with pytest.raises(ClusterTlsError, match=r"^valkey://.* are for TLS: write valkeys://"):
        cluster_address(plain, ca=authority.root)
    with pytest.raises(ClusterTlsError, match="belong together"):
        cluster_address(node.url, certificate=authority.root)
    home = make_store(tmp_path, ROWS)
    words = ("--state-url", node.url, "--state-ca", str(tmp_path / "missing.pem"))
    for more in ((), ("--read-only",)):
        done = run_server(home, *words, *more)
        assert done.returncode == 1
        assert f"{node.url}: state_ca {tmp_path / 'missing.pem'} cannot be used" in done.stderr
