"""The connection to a Valkey or Redis cluster, and what may be wrong with it."""

import logging
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_CONNECT_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_PORT = 6379
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_OTHER_NAME = (62, 64)  # of OpenSSL: the host, or the address, is not in the certificate
_PLAIN, _TLS = ("valkey", "redis"), ("valkeys", "rediss")
log = logging.getLogger(__name__)


class ValkeyNotInstalledError(RuntimeError):
    """The client library of Valkey is not installed."""

    def __init__(self) -> None:
        super().__init__("the state in Valkey needs the extra valkey: pip install 'triptych[valkey]'")


class BadClusterAddressError(ValueError):
    """The address of a cluster is not written as one."""

    def __init__(self, written: str) -> None:
        super().__init__(
            f"{written!r} is no address of a state: write valkey://host:port/name, or valkeys:// for TLS, "
            f"with further nodes behind commas, and a name of a-z, 0-9, -, _ and . that no other home there "
            f"has; user and password have options of their own"
        )
        self.written = written


class ClusterTlsError(ValueError):
    """TLS towards a cluster is not set up as it can be used; says what to change."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}")
        self.address, self.reason = address, reason


class StateUnreachableError(ConnectionError):
    """The state in the cluster cannot be read or written now."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"the state of users in {address} cannot be reached: {reason}")
        self.address, self.reason = address, reason


class AnotherOwnerError(RuntimeError):
    """The place of a home's state is that of another home, or another server writes there."""

    def __init__(self, address: str, owner: str) -> None:
        super().__init__(
            f"{address} is written by {owner}: a home, and a copy of a home too, needs a name of its own "
            f"there; this server writes there no more until it is restarted"
        )
        self.address, self.owner = address, owner


class EvictingClusterError(ValueError):
    """A node removes keys when its memory is full, and nobody could tell which."""

    def __init__(self, node: str, policy: str) -> None:
        super().__init__(f"node {node} has maxmemory-policy {policy}: set it to noeviction")
        self.node, self.policy = node, policy


@dataclass(frozen=True)
class ClusterAddress:
    """How a cluster is reached.

    Attributes:
        nodes: host and port of some nodes, of which one has to answer; these name the others.
        name: of the home in it; keys begin with it.
        tls: whether connections are encrypted.
        user: of the access control list, "" for the default one.
        password_file: file with the password; None for none.
        ca: file with the root certificate of the nodes'; None for those of the machine.
        certificate, key: files of one's own, which a Valkey with TLS asks for unless it is told not to.
    """

    nodes: tuple[tuple[str, int], ...]
    name: str
    tls: bool = False
    user: str = ""
    password_file: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __str__(self) -> str:
        scheme = "valkeys" if self.tls else "valkey"
        return f"{scheme}://" + ",".join(f"{host}:{port}" for host, port in self.nodes) + f"/{self.name}"

    def of_tenant(self, tenant: str) -> "ClusterAddress":
        """Return the address of the state of one of several homes; of the only one, "", it is the same."""
        return replace(self, name=f"{self.name}.{tenant}") if tenant else self

    def check_files(self) -> None:
        """Load the files of TLS, so that one that cannot be used is told at the start, by its name.

        Raises:
            ClusterTlsError: one cannot be used.
        """
        if not self.tls:
            return
        try:
            context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        except OSError as error:
            raise ClusterTlsError(str(self), f"state_ca {self.ca} cannot be used: {error}") from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except OSError as error:
                files = f"state_cert {self.certificate} and state_key {self.key}"
                raise ClusterTlsError(str(self), f"{files} cannot be used: {error}") from error


def cluster_address(
    written: str,
    user: str = "",
    password_file: Path | None = None,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> ClusterAddress:
    """Read the address of the state of a home.

    Raises:
        BadClusterAddressError: it is not written as one.
        ClusterTlsError: files of TLS are given for connections without it, or a certificate without its key.
    """
    scheme, separator, rest = written.partition("://")
    listed, _, name = rest.partition("/")
    if not separator or scheme not in (*_PLAIN, *_TLS) or "@" in listed or not _NAME.fullmatch(name):
        raise BadClusterAddressError(written)
    nodes = []
    for one in listed.split(","):
        try:
            parts = urlsplit(f"//{one}")
            host, port = parts.hostname, parts.port or _PORT
        except ValueError as error:
            raise BadClusterAddressError(written) from error
        if not host or parts.path or parts.query:
            raise BadClusterAddressError(written)
        nodes.append((host, port))
    address = ClusterAddress(tuple(nodes), name, scheme in _TLS, user, password_file, ca, certificate, key)
    if not address.tls and (ca or certificate or key):
        reason = "state_ca, state_cert and state_key are for TLS: write valkeys://, or leave them out"
        raise ClusterTlsError(str(address), reason)
    if (certificate is None) != (key is None):
        raise ClusterTlsError(str(address), "state_cert and state_key belong together: give both")
    return address


class Cluster:
    """A connection to a cluster; threads may share it.

    It is made when it is first used, and again after it broke. Commands that fail because a node is gone are
    not repeated: who asks decides.
    """

    def __init__(self, address: ClusterAddress) -> None:
        """Prepare to connect.

        Raises:
            ValkeyNotInstalledError: the client library is missing.
            ClusterTlsError: a file of TLS cannot be used.
        """
        try:
            import valkey  # noqa: F401, PLC0415
        except ImportError as error:
            raise ValkeyNotInstalledError from error
        address.check_files()
        self.address = address
        self._client: Any = None
        self._connecting = threading.Lock()
        self._trusted: Callable[[], frozenset[str] | None] = lambda: None

    def trust(self, nodes: Callable[[], frozenset[str] | None]) -> None:
        """Take the function that returns which processes of nodes may be read from, None for any.

        A process that is not among them, because it was started since, may have lost what it had.
        """
        self._trusted = nodes

    def close(self) -> None:
        """Close all connections."""
        with self._connecting:
            client, self._client = self._client, None
        if client is not None:
            client.disconnect_connection_pools()
            client.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise StateUnreachableError in the place of the client library's errors."""
        from valkey.exceptions import SlotNotCoveredError, ValkeyClusterException, ValkeyError  # noqa: PLC0415

        broken = (ValkeyError, ValkeyClusterException, SlotNotCoveredError, OSError, ValueError)

        try:
            yield
        except (StateUnreachableError, EvictingClusterError):
            raise
        except broken as error:  # a ValueError where a connection breaks amid an answer
            with self._connecting:
                self._client = None  # nodes may have moved: the next call asks who is there
            raise StateUnreachableError(str(self.address), _reason(error, self.address)) from error

    @property
    def client(self) -> Any:
        """The client of the library.  Raises: as the library."""
        with self._connecting:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def pipeline(self) -> Any:
        """Return a pipeline: commands that are sent to all nodes at once."""
        client = self.client
        pipeline = _pipeline_class()(
            nodes_manager=client.nodes_manager,
            commands_parser=client.commands_parser,
            startup_nodes=client.nodes_manager.startup_nodes,
            result_callbacks=client.result_callbacks,
            cluster_response_callbacks=client.cluster_response_callbacks,
            cluster_error_retry_attempts=client.cluster_error_retry_attempts,
            read_from_replicas=False,
            reinitialize_steps=client.reinitialize_steps,
            lock=client._lock,
        )
        pipeline.made_by = client  # which closes its connections when nobody has it any more
        return pipeline

    def primaries(self) -> "list[NodeFacts]":
        """Ask each primary what it is.  Raises: EvictingClusterError, and the library's."""
        client = self.client
        return [_facts_of(client, node) for node in client.get_primaries()]

    def _connect(self) -> Any:
        from valkey.cluster import ClusterNode, ValkeyCluster  # noqa: PLC0415

        address = self.address
        options: dict[str, Any] = {}
        nodes = [ClusterNode(*node) for node in address.nodes]  # type: ignore[no-untyped-call]
        if address.tls:  # with a URL, as only then a cluster makes connections of the class that it is given
            host, port = address.nodes[0]
            options = {"url": f"valkey://{_host_in_url(host)}:{port}"} | _tls_options(address)
            nodes = nodes[1:]
        if address.user:
            options["username"] = address.user
        if address.password_file is not None:
            options["password"] = address.password_file.read_text("utf-8").strip()
        return ValkeyCluster(
            startup_nodes=nodes,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            socket_keepalive=True,
            cluster_error_retry_attempts=1,
            require_full_coverage=True,
            valkey_connect_func=self._check,
            **options,
        )

    def _check(self, connection: Any) -> None:
        """Refuse a new connection to a process of a node that may have lost what it had."""
        from valkey.exceptions import ConnectionError as LostError  # noqa: PLC0415

        trusted = self._trusted()
        if trusted is None:
            return
        connection.send_command("INFO", "server")
        run_id = _fields(connection.read_response()).get("run_id", "")
        if run_id not in trusted:
            raise LostError("a node was started since the owner wrote to it, and is filled again")


@dataclass(frozen=True)
class NodeFacts:
    """What a primary is.

    Attributes:
        name: host and port.
        run_id: of its process.
    """

    name: str
    run_id: str


def _facts_of(client: Any, node: Any) -> NodeFacts:
    direct = client.get_valkey_connection(node)
    facts = direct.info("server") | direct.info("memory")
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise EvictingClusterError(node.name, policy)
    return NodeFacts(node.name, str(facts.get("run_id", "")))


def _fields(said: Any) -> dict[str, str]:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in pairs}


def _said(error: BaseException) -> str:
    """Return what is wrong, without the command, which names people."""
    return " ".join(str(error).rpartition("caused error: ")[2].split()) or type(error).__name__


def _tls_options(address: ClusterAddress) -> dict[str, Any]:
    """Return how connections encrypt, and by what they know a node."""
    options: dict[str, Any] = {"connection_class": _connection_class(), "ssl_cert_reqs": "required"}
    files = {"ssl_ca_certs": address.ca, "ssl_certfile": address.certificate, "ssl_keyfile": address.key}
    return options | {name: str(file) for name, file in files.items() if file is not None}


def _host_in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reason(error: BaseException, address: ClusterAddress) -> str:
    """Return what is wrong, and what to do where a certificate is."""
    said, cause = _said(error), _certificate_error(error)
    if cause is None:
        return said
    if cause.verify_code in _OTHER_NAME:
        return f"{said}: the certificate is of another name: nodes must tell clients the names in theirs"
    trusted = f"--state-ca {address.ca}" if address.ca else "the machine: name their root by --state-ca"
    return f"{said}: the certificates of the nodes are not vouched for by {trusted}"


def _certificate_error(error: BaseException | None) -> "ssl.SSLCertVerificationError | None":
    """Return what is wrong with a node's certificate, by the errors that an error was raised for."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None


_made: dict[str, type] = {}


def _connection_class() -> type:
    """Return the library's connection with TLS, which compares the name in a certificate with the node's.

    The library leaves that out, so that any certificate of the same root would do, and a cluster passes no
    option on.
    """
    if "connection" not in _made:
        from valkey.connection import SSLConnection  # noqa: PLC0415

        class VerifiedConnection(SSLConnection):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options | {"ssl_check_hostname": True})  # type: ignore[no-untyped-call]

        _made["connection"] = VerifiedConnection
    return _made["connection"]


def _pipeline_class() -> type:
    """Return the library's pipeline, which repeats a command where its slot has moved, and in no other case.

    It would repeat each of hundreds of commands by itself where a node is gone, one after another.
    """
    if "pipeline" not in _made:
        from valkey.cluster import ClusterPipeline  # noqa: PLC0415
        from valkey.exceptions import AskError, MovedError, TryAgainError  # noqa: PLC0415

        class Pipeline(ClusterPipeline):
            ERRORS_ALLOW_RETRY = (MovedError, AskError, TryAgainError)  # type: ignore[assignment]

        _made["pipeline"] = Pipeline
    return _made["pipeline"]


def in_parts(names: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Yield a sequence in parts of at most so many."""
    for start in range(0, len(names), most):
        yield names[start : start + most]
