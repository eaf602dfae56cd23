"""The servers that are compared: one with what is embedded, others with users or the index elsewhere."""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from indexer.building import MilvusRecallError, move_to_milvus, recall_asked_of, users_to_tune_with
from indexer.index import Index
from indexer.milvus import (
    MilvusAddress,
    MilvusConnection,
    MilvusUnreachableError,
    MissingMilvusError,
    OldMilvusError,
    drop_collection,
    read_facts,
)
from indexer.publish import current_index
from scripts.bench.engines.milvus_server import has_standalone, milvus_lite, milvus_standalone
from scripts.bench.engines.program import EngineNotStartedError, free_port, running_program
from scripts.bench.engines.valkey_cluster import valkey_cluster
from scripts.bench.serve.servers import ServerUnderTest, own_server
from scripts.bench.small_home import CommandFailedError, command
from server.probe import problem_at
from store.home import Home
from store.valkey import (
    Cluster,
    EvictingClusterError,
    Keys,
    StateUnreachableError,
    ValkeyNotInstalledError,
    cluster_address,
)

log = logging.getLogger(__name__)

EMBEDDED, VALKEY, MILVUS, BOTH = "embedded", "valkey", "milvus", "valkey+milvus"
PEERS = (VALKEY, MILVUS, BOTH)
_WORKERS = 8
_FILL_SECONDS = 600.0  # until a replica answers, which waits for all users to be in the cluster
_NOT_STARTED = (
    EngineNotStartedError,
    CommandFailedError,
    ValkeyNotInstalledError,
    StateUnreachableError,
    EvictingClusterError,
    MissingMilvusError,
    MilvusUnreachableError,
    OldMilvusError,
    MilvusRecallError,
)


@dataclass(frozen=True)
class EngineAddresses:
    """Engines that run already, on this machine or another; "" has one started here.

    Attributes:
        state: of a Valkey or Redis cluster, with a name that no home has there, as `--state-url` takes it.
        milvus: the URI of a Milvus.
    """

    state: str = ""
    milvus: str = ""


@dataclass(frozen=True)
class EngineUnderTest:
    """A server, and the engine that it needs.

    Attributes:
        name: of `EMBEDDED` and `PEERS`.
        about: versions and settings.
        server: which is asked.
        pids: of the engine's processes where it was started here; () where these are not known.
        traffic: returns the bytes that the engine has sent and received so far; None where it does not say.
    """

    name: str
    about: str
    server: ServerUnderTest
    pids: tuple[int, ...] = ()
    traffic: Callable[[], int] | None = None

    def cpu(self) -> float | None:
        """Return the processor seconds of the engine's own processes so far; None of unknown ones."""
        return ServerUnderTest(self.name, "", self.pids).cpu() if self.pids else None


@dataclass
class StartedEngines:
    """What was started, the embedded one first, and why others were not, by name."""

    found: list[EngineUnderTest] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


@contextmanager
def started_engines(
    kept: Home,
    folder: Path,
    addresses: EngineAddresses,
    wanted: Sequence[str] = PEERS,
    *,
    required: bool = False,
) -> Iterator[StartedEngines]:
    """Yield servers on copies of a home while the block runs.

    What they wrote into engines that ran already is removed afterwards.

    Args:
        kept: the home, with a published index.
        folder: for the copies, and what engines keep.
        addresses: of engines that run already.
        wanted: of `PEERS`.
        required: raise where one of these does not start, instead of noting why.

    Raises:
        EngineNotStartedError, CommandFailedError, …: one that is required, or the embedded one, does not
            start.
    """
    with ExitStack() as stack:
        starter, started = _Starter(kept, folder, addresses, stack), StartedEngines()
        makers = {VALKEY: starter.valkey, MILVUS: starter.milvus, BOTH: starter.both}
        for name in wanted:
            try:
                started.found.append(makers[name]())
            except _NOT_STARTED as error:
                if required:
                    raise
                log.warning("bench engines: %s is left out: %s", name, error)
                started.missing[name] = str(error)
        started.found.insert(0, starter.embedded())
        yield started


class _State(NamedTuple):
    """Users in a cluster, and the home whose server has copied them there."""

    home: Home
    url: str
    about: str
    pids: tuple[int, ...]
    traffic: Callable[[], int]


class _Candidates(NamedTuple):
    """The index in a Milvus."""

    uri: str
    about: str
    pids: tuple[int, ...]


class _Starter:
    """Starts servers and engines, each engine once, until a stack ends."""

    def __init__(self, kept: Home, folder: Path, addresses: EngineAddresses, stack: ExitStack) -> None:
        self._kept, self._folder, self._addresses, self._stack = kept, folder, addresses, stack
        self._index = Index.load(current_index(kept))
        self._made: dict[str, Any] = {}

    def embedded(self) -> EngineUnderTest:
        """Start a server with users in LMDB and FAISS in its process."""
        server = self._stack.enter_context(own_server(self._copy(EMBEDDED), _WORKERS))
        return EngineUnderTest(EMBEDDED, f"users in LMDB, {self._faiss()}", server)

    def valkey(self) -> EngineUnderTest:
        """Start a read replica with users in a cluster and FAISS in its process."""
        state = self._once(VALKEY, self._start_state)
        about = f"{state.about}, {self._faiss()}"
        return EngineUnderTest(VALKEY, about, self._replica(VALKEY, state), state.pids, state.traffic)

    def milvus(self) -> EngineUnderTest:
        """Start a server with users in LMDB and the index in Milvus."""
        candidates = self._once(MILVUS, self._start_milvus)
        options = _asking(candidates)
        server = self._stack.enter_context(own_server(self._copy(MILVUS), _WORKERS, options=options))
        return EngineUnderTest(MILVUS, f"users in LMDB, {candidates.about}", server, candidates.pids)

    def both(self) -> EngineUnderTest:
        """Start a read replica with users in a cluster and the index in Milvus."""
        state = self._once(VALKEY, self._start_state)
        candidates = self._once(MILVUS, self._start_milvus)
        replica = self._replica(BOTH, state, _asking(candidates))
        pids = state.pids + candidates.pids if state.pids and candidates.pids else ()
        return EngineUnderTest(BOTH, f"{state.about}, {candidates.about}", replica, pids, state.traffic)

    def _once(self, name: str, start: Callable[[], Any]) -> Any:
        """Start an engine the first time; raise again what it raised then."""
        if name not in self._made:
            try:
                self._made[name] = start()
            except _NOT_STARTED as error:
                self._made[name] = error
        if isinstance(self._made[name], Exception):
            raise self._made[name]
        return self._made[name]

    def _start_state(self) -> _State:
        with ExitStack() as own:
            url, where = self._addresses.state, "that ran already"
            pids: tuple[int, ...] = ()
            if not url:
                nodes = own.enter_context(valkey_cluster(self._folder / "valkey-nodes"))
                url, pids, where = nodes.url, nodes.pids, "started here"
            cluster = own.enter_context(closing(Cluster(cluster_address(url))))
            with cluster.errors():
                told = list(cluster.client.info("server", target_nodes="primaries").values())
                if cluster.client.exists(Keys(cluster.address.name).head):
                    raise EngineNotStartedError(
                        VALKEY, f"{url} holds the state of a home already: write another name behind the host"
                    )
            own.callback(_remove_state, cluster)
            home = self._copy(VALKEY)
            own.enter_context(own_server(home, _WORKERS, options=("--state-url", url)))
            self._stack.enter_context(own.pop_all())
        about = f"users in {_version(told[0])}, {len(told)} nodes {where}"
        return _State(home, url, about, pids, lambda: _traffic(cluster))

    def _start_milvus(self) -> _Candidates:
        index = self._index
        with ExitStack() as own:
            uri, where = self._addresses.milvus, "that ran already"
            pids: tuple[int, ...] = ()
            if not uri:
                start = milvus_standalone if has_standalone() else milvus_lite
                running = own.enter_context(start(self._folder / "milvus-data"))
                uri, pids, where = running.uri, running.pids, "started here"
            connection = MilvusConnection(MilvusAddress(uri))
            own.callback(connection.close)
            facts = read_facts(connection, index.index_id)
            if facts is None:
                own.callback(drop_collection, connection, index.index_id)
                users = users_to_tune_with(self._kept.indexes, index)
                facts = move_to_milvus(index, connection, users, recall_asked_of(index))
            version = connection.client.get_server_version()
            self._stack.enter_context(own.pop_all())
        tuned = f"{facts.tuned_to}, ANN recall@100 {facts.recall:.4f}"
        return _Candidates(uri, f"index in Milvus {version} {where}: {tuned}", pids)

    def _replica(self, name: str, state: _State, options: Sequence[str] = ()) -> ServerUnderTest:
        port = free_port()
        address = f"127.0.0.1:{port}"
        where = ("--read-only", "--home", str(state.home.path), "--state-url", state.url, "--no-spare")
        arguments = command("serve", *where, "--port", str(port), "--workers", str(_WORKERS), *options)
        log_file = self._folder / f"{name}.log"
        process = self._stack.enter_context(
            running_program(
                "a read replica",
                arguments,
                log_file,
                lambda: not problem_at(address),
                seconds=_FILL_SECONDS,
            )
        )
        return ServerUnderTest(name, address, (process.pid,))

    def _copy(self, name: str) -> Home:
        home = Home(self._folder / name)
        shutil.copytree(self._kept.path, home.path)
        return home

    def _faiss(self) -> str:
        return f"index in FAISS: {self._index.manifest['factory']}"


def _asking(candidates: _Candidates) -> tuple[str, ...]:
    return "--index-engine", "milvus", "--milvus", candidates.uri


def _version(told: dict[str, Any]) -> str:
    """Return name and version of a node, by its INFO."""
    if "valkey_version" in told:
        return f"Valkey {told['valkey_version']}"
    return f"Redis {told.get('redis_version', 'of an unknown version')}"


def _traffic(cluster: Cluster) -> int:
    """Return the bytes that primaries have received and sent since they began."""
    with cluster.errors():
        told = cluster.client.info("stats", target_nodes="primaries")
    return sum(int(one["total_net_input_bytes"] + one["total_net_output_bytes"]) for one in told.values())


def _remove_state(cluster: Cluster) -> None:
    """Remove all keys of the home that was copied to a cluster for this."""
    with cluster.errors():
        pattern = Keys(cluster.address.name).pattern
        for key in cluster.client.scan_iter(match=pattern, count=1_000, target_nodes="primaries"):
            cluster.client.unlink(key)
