"""The copy of the state in a cluster: who may write it, what is gone on with, and what is removed."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from store.state import UserState, bring_up_to_date
from store.store import Store
from store.valkey import (
    AnotherOwnerError,
    Cluster,
    ClusterAddress,
    EvictingClusterError,
    SharedState,
    StateMirror,
    StateUnreachableError,
    cluster_address,
)
from store.valkey import mirror as mirrors
from store.valkey.connection import BadClusterAddressError
from store.writes import BehaviorRow, Behaviors, Content, ItemRow, Items, Request, TextRow, Texts, Writer
from tests.engines.valkey import ValkeyCluster, valkey_cluster
from tests.live_server import SOON

RIGHTS = "+@read +@connection +info +cluster|slots +cluster|shards +cluster|nodes +command"


class Place:
    """A store, its state, and texts that are encoded once they are in `encoded`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.store = stack.enter_context(Store.open(folder / "views.duckdb"))
        self.state = stack.enter_context(UserState.open(folder / "state"))
        bring_up_to_date(self.store, self.state)
        self.writer = Writer(self.store, self.state)
        self.encoded: dict[tuple[str, bytes], bytes] = {}
        self.text_model_id = "model"
        self.write(Items([ItemRow("film", None, "film", "thing", "{}", True, 0, None)]))

    def write(self, *contents: Content) -> None:
        self.writer.write([Request(one) for one in contents])

    def see(self, user_id: str, ts: int = 0) -> None:
        self.write(Behaviors([BehaviorRow(user_id, "film", "view", 1.0, ts)]))

    def mirror(self, address: ClusterAddress) -> StateMirror:
        def vectors(text_model_id: str, digests: Sequence[bytes]) -> dict[bytes, bytes]:
            found = {one: self.encoded.get((text_model_id, one)) for one in digests}
            return {one: vector for one, vector in found.items() if vector is not None}

        return StateMirror(
            self.state, Cluster(address), self.store.home_id, vectors, lambda _: self.text_model_id
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    with valkey_cluster(tmp_path_factory.mktemp("valkey")) as cluster:
        yield cluster


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


@pytest.fixture
def address(cluster: ValkeyCluster, request: pytest.FixtureRequest) -> ClusterAddress:
    """A place of its own for each test."""
    return cluster_address(cluster.url.replace("/home", f"/{abs(hash(request.node.name))}"))


def reader_of(address: ClusterAddress) -> SharedState:
    state = SharedState(address, lambda: None)
    state.text_model_id = "model"
    state.start()
    return state


def keys_of(cluster: ValkeyCluster, address: ClusterAddress) -> list[bytes]:
    found = (key for node in cluster.nodes for key in node.client().scan_iter(count=1_000))
    return [key for key in found if key.startswith(f"triptych:{{{address.name}/".encode())]


@pytest.mark.parametrize(
    "written",
    [
        "localhost:6379/a",
        "http://a/b",
        "valkey://a",
        "valkey:///a",
        "valkey://user@a/b",
        "valkey://a:x/b",
        "valkey://a/B",
    ],
)
def test_an_address_is_written_as_one(written: str) -> None:
    with pytest.raises(BadClusterAddressError, match="valkey://host:port/name"):
        cluster_address(written)


def test_an_address_may_name_several_nodes_and_ports() -> None:
    found = cluster_address("valkeys://one:7001,[::1],two/shop.eu", "reader")
    assert found.nodes == (("one", 7001), ("::1", 6379), ("two", 6379))
    assert (found.tls, found.name, found.user) == (True, "shop.eu", "reader")
    assert str(found.of_tenant("a")) == "valkeys://one:7001,::1:6379,two:6379/shop.eu.a"


def test_an_owner_goes_on_where_one_before_it_was(place: Place, address: ClusterAddress) -> None:
    first = place.mirror(address)
    place.see("ann")
    first.step()
    first.stop()
    place.see("bob")  # which nobody copies
    second = place.mirror(address)
    place.see("cleo")
    second.step()
    second.step()
    assert second.generation == first.generation
    with reader_of(address) as reader:
        assert [len(one.history) for one in reader.users(["ann", "bob", "cleo"])] == [1, 1, 1]
        assert reader.wait_for(place.state.commit, SOON)


def test_the_place_of_another_home_is_left_alone(
    place: Place, address: ClusterAddress, tmp_path: Path
) -> None:
    first = place.mirror(address)
    first.step()
    with ExitStack() as stack:
        other = Place(tmp_path / "other", stack).mirror(address)
        for _ in range(2):
            with pytest.raises(AnotherOwnerError, match=place.store.home_id):
                other.step()
    place.see("ann")
    first.step()
    first.rest()


def test_of_two_owners_the_one_that_came_first_stops(place: Place, address: ClusterAddress) -> None:
    first, second = place.mirror(address), place.mirror(address)
    first.step()
    second.step()
    with pytest.raises(AnotherOwnerError):
        first.rest()
    with pytest.raises(AnotherOwnerError):
        first.step()
    second.rest()


def test_a_node_that_removes_keys_by_itself_is_refused(
    place: Place, cluster: ValkeyCluster, address: ClusterAddress
) -> None:
    client = cluster.nodes[1].client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(EvictingClusterError, match="allkeys-lru"):
            place.mirror(address).step()
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def test_the_rights_in_the_document_are_enough(
    place: Place, cluster: ValkeyCluster, address: ClusterAddress, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("a-secret\n")
    for node in cluster.nodes:
        keys = f"triptych:{{{address.name}/*"
        for user, rule in (("owner", f"~{keys} +@write {RIGHTS}"), ("replica", f"%R~{keys} {RIGHTS}")):
            node.client().execute_command("ACL", "SETUSER", user, "reset", "on", ">a-secret", *rule.split())
    owner, replica = (
        ClusterAddress(address.nodes, address.name, user=user, password_file=tmp_path / "password")
        for user in ("owner", "replica")
    )
    mirror = place.mirror(owner)
    mirror.step()
    with reader_of(replica) as reader:
        place.see("ann")
        mirror.step()
        mirror.rest()
        assert reader.wait_for(place.state.commit, SOON)
        assert len(reader.users(["ann"])[0].history) == 1
    with pytest.raises(StateUnreachableError):
        place.mirror(replica).step()  # which may not write
    (tmp_path / "password").write_text("wrong")
    with pytest.raises(StateUnreachableError, match="invalid username-password"):
        reader_of(replica)


def test_vectors_of_texts_come_with_their_person_once_they_are_there(
    place: Place, address: ClusterAddress
) -> None:
    mirror = place.mirror(address)
    mirror.step()
    place.write(Texts([TextRow("ann", "one", "", 1), TextRow("ann", "two", "", 2)]))
    mirror.step()
    with reader_of(address) as reader:
        (record,) = reader.users(["ann"])
        assert len(record.texts) == 2
        assert record.vectors is not None
        assert not record.vectors.by_digest
        assert mirror.has_idle_work
        vectors = [np.full(3, number, "<f4").tobytes() for number in (1.0, 2.0)]
        for digest, vector in zip(record.texts, vectors, strict=True):
            place.encoded["model", digest] = vector
        mirror.rest()
        assert not mirror.has_idle_work
        (record,) = reader.users(["ann"])
        assert record.vectors is not None
        assert [record.vectors.by_digest[one] for one in record.texts] == vectors


def test_before_an_index_of_another_text_model_serves_its_vectors_are_there(
    place: Place, address: ClusterAddress
) -> None:
    place.write(Texts([TextRow("ann", "one", "", 1)]))
    (digest,) = place.state.users(["ann"])[0].texts
    for name, number in (("model", 1.0), ("other", 2.0)):
        place.encoded[name, digest] = np.full(3, number, "<f4").tobytes()
    mirror = place.mirror(address)
    mirror.step()
    place.text_model_id = "other"
    with place.state.writing() as draft:
        draft.serve("index-of-other")
    mirror.step()
    with reader_of(address) as reader:
        for name in ("model", "other"):
            reader.text_model_id = name
            (record,) = reader.users(["ann"])
            assert record.vectors is not None
            assert record.vectors.by_digest == {digest: place.encoded[name, digest]}


def test_a_filling_leaves_nothing_of_the_one_before(
    place: Place, cluster: ValkeyCluster, address: ClusterAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "_SWEEP_SECONDS", 0.0)
    mirror = place.mirror(address)
    place.see("ann")
    mirror.step()
    before = mirror.generation
    with place.state.writing() as draft:
        draft.change_all()
    mirror.step()
    assert mirror.generation != before
    for _ in range(20):
        mirror.rest()
    assert not [key for key in keys_of(cluster, address) if f":{before}:".encode() in key]
    with reader_of(address) as reader:
        assert len(reader.users(["ann"])[0].history) == 1


def test_a_filling_leaves_the_home_of_a_tenant_alone(
    place: Place, cluster: ValkeyCluster, address: ClusterAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "_SWEEP_SECONDS", 0.0)
    place.see("ann")
    of_tenant = address.of_tenant("eu")
    place.mirror(of_tenant).step()
    kept = set(keys_of(cluster, of_tenant))
    mirror = place.mirror(address)
    mirror.step()
    for _ in range(20):
        mirror.rest()
    assert set(keys_of(cluster, of_tenant)) == kept


def test_a_reader_that_missed_entries_forgets_all_it_has_kept(
    place: Place, cluster: ValkeyCluster, address: ClusterAddress
) -> None:
    mirror = place.mirror(address)
    mirror.step()
    reader = reader_of(address)
    seen: list[object] = []
    commit = reader.commit
    for number in range(3):
        place.see("ann", number)
        mirror.step()
    reader.follow_with(lambda reading: seen.append(reading.entries(commit)))
    for node in cluster.nodes:  # as if the stream had been cut
        client = node.client()
        for key in client.scan_iter(match=f"triptych:{{{address.name}/head}}:log"):
            client.xtrim(key, maxlen=1, approximate=False)
    with reader:
        assert reader.wait_for(place.state.commit, SOON)
    assert seen[-1] is None
