"""Settings of a server; read once, in `main`.

`ServerConfig` is the one place of an option: its line there says what it means, its bounds and its default.
`settings.py` reads it from triptych.toml and the environment, `__main__.py` makes its flag, and
docs/configuration.md lists it.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from store.home import Home
from store.masking import KINDS, Masking

if TYPE_CHECKING:
    from store.valkey import ClusterAddress

COUNTERS_BYTES = 16_384 * 24  # of rate limits: slots that processes share
TOKENS = "tokens.json"  # in the home, or in the folder of homes
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
MOST_PROCESSES = 256
MAX_GRACE = 3_600.0  # seconds; beyond them no service manager waits


@dataclass(frozen=True)
class Option:
    """What people are told of a setting, and which values it may have.

    Attributes:
        attribute: of ServerConfig.
        name: of the flag, with hyphens, and of the environment variable, in capitals behind TRIPTYCH_.
        table: of triptych.toml.
        key: in that table.
        kind: int, float, bool, str or Path.
        default: where nothing sets it; None for nothing.
        meaning: for people, a phrase.
        least, most: of a number.
        words: all that a text may be, or what a number may be besides.
        check: raises ValueError where a text is not written as it must be, and says why.
        reread: whether SIGHUP changes it in a running server.
    """

    attribute: str
    name: str
    table: str
    key: str
    kind: type
    default: Any
    meaning: str
    least: float | None
    most: float | None
    words: tuple[str, ...]
    check: Callable[[str], object]
    reread: bool


def option(
    table: str,
    meaning: str,
    default: Any = None,
    *,
    name: str = "",
    least: float | None = None,
    most: float | None = None,
    words: tuple[str, ...] = (),
    check: Callable[[str], object] = len,
    reread: bool = False,
) -> Any:
    """Declare an option; its name is that of the attribute, its key the same without the table's name."""
    said = {
        "table": table,
        "meaning": meaning,
        "name": name,
        "least": least,
        "most": most,
        "words": words,
        "check": check,
        "reread": reread,
    }
    return field(default=default, metadata=said)


class BadRateError(ValueError):
    """A rate limit is not written as one."""

    def __init__(self, written: str) -> None:
        super().__init__(f"{written!r} is no rate limit: write 100/second, 5000/hour or both with ; between")
        self.written = written


def checked_rates(written: str) -> str:
    """Check how rate limits are written, return them; "" is none.  Raises: BadRateError."""
    if written:
        import limits  # noqa: PLC0415  # takes a while, and few servers need it

        try:
            items = limits.parse_many(written)
        except ValueError as error:
            raise BadRateError(written) from error
        if not all(item.amount > 0 for item in items):
            raise BadRateError(written)
    return written


class BadUrlError(ValueError):
    """A home in object storage is not named by a URL."""

    def __init__(self, written: str) -> None:
        super().__init__(f"{written!r} is no URL of a home in object storage: write s3://bucket/home")
        self.written = written


def checked_url(written: str) -> str:
    """Check the URL of a home in object storage, return it; "" is none.  Raises: BadUrlError."""
    protocol, _, place = written.partition("://")
    if written and not (protocol and place.strip("/")):
        raise BadUrlError(written)
    return written


class BadTenantError(ValueError):
    """A tenant cannot have a name, which is that of the folder with its home."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} is no name of a tenant: it has 1 to 63 of a-z, 0-9, - and _, and begins with a letter "
            f"or digit"
        )
        self.name = name


def checked_tenant(name: str) -> str:
    """Check the name of a tenant, return it.  Raises: BadTenantError."""
    if not _TENANT.fullmatch(name):
        raise BadTenantError(name)
    return name


def checked_state(written: str) -> str:
    """Check the address of a state, return it; "" is none.  Raises: BadClusterAddressError."""
    if written:
        from store.valkey import cluster_address  # noqa: PLC0415  # loads what reads the state

        cluster_address(written)
    return written


@dataclass(frozen=True)
class ServerConfig:
    """Settings of one server process; each with a `table` is an option of `triptych serve`.

    Attributes:
        home: the home directory, or the folder of the homes of tenants; the process owns their stores.
        tenants: names of the folders with a home in it; none where it is a home itself.
        tenant: whose home it is; "" where there are no tenants.
    """

    home: Home
    tenants: tuple[str, ...] = ()
    tenant: str = ""
    host: str = option(
        "server",
        "name, IPv4 or IPv6 address, or unix:/path; 0.0.0.0 lets other machines in",
        "127.0.0.1",
    )
    port: int = option("server", "port; 0 takes a free one", 50051, least=0, most=65_535)
    processes: int = option(
        "server",
        "query processes on the port, beside one that owns the home; auto: as many as processors; "
        "1: one process does all",
        1,
        least=1,
        most=MOST_PROCESSES,
        words=("auto",),
    )
    spare: bool = option(
        "server", "with several processes: keep one more loaded, that takes the place of one that dies", True
    )
    workers: int = option("server", "calls of a kind answered at once", 8, least=1, most=256)
    queue: int = option(
        "server",
        "calls of a kind that wait beyond these; further ones get RESOURCE_EXHAUSTED",
        256,
        least=0,
        most=100_000,
    )
    encode_threads: int = option("server", "threads of the language model per call", 1, least=1, most=64)
    user_cache_mb: int = option(
        "server", "megabytes of user vectors kept by a process", 128, least=0, most=1_000_000
    )
    state_url: str = option(
        "state",
        "where the owner copies the state of users to, for read replicas, and where these read it: "
        "valkey://host:port/name in a Valkey or Redis cluster, valkeys:// with TLS; empty for nowhere",
        "",
        check=checked_state,
    )
    state_user: str = option(
        "state", "user of the cluster's access control list; empty for the default one", ""
    )
    state_password_file: Path | None = option("state", "file with the password of that user")
    state_ca: Path | None = option("state", "PEM root certificates of the cluster's nodes")
    state_cert: Path | None = option(
        "state", "PEM certificate of one's own, where the nodes ask for one; needs a key"
    )
    state_key: Path | None = option("state", "PEM private key of that")
    read_only: bool = option(
        "replica",
        "answer queries of a home that a server on another machine owns: index and models from --home, users "
        "from --state-url",
        False,
    )
    cache: Path | None = option(
        "replica",
        "folder where a read replica keeps what it has fetched and encoded; by default a temporary one",
    )
    owner: str = option(
        "replica",
        "host:port of the owner: a read replica passes writes and admin calls on to it, and asks it for rows "
        "of the store; empty: it refuses these",
        "",
    )
    owner_ca: Path | None = option("replica", "PEM root certificates of the owner, where it has TLS")
    owner_token_file: Path | None = option(
        "replica", "file with a token of scope admin, with which a read replica asks the owner for rows"
    )
    drain_seconds: float = option(
        "server",
        "seconds in which a server that was told to stop still answers, while its health says NOT_SERVING "
        "and balancers look elsewhere",
        0.0,
        name="drain",
        least=0,
        most=MAX_GRACE,
        reread=True,
    )
    grace_seconds: float = option(
        "server",
        "seconds for running calls at shutdown",
        10.0,
        name="grace",
        least=0,
        most=MAX_GRACE,
        reread=True,
    )
    index_engine: str = option(
        "index",
        "where the candidates of searches for items come from: faiss, in the process, or milvus, into which "
        "an index is moved when it begins to serve",
        "faiss",
        words=("faiss", "milvus"),
    )
    milvus: str = option("index", "URI of Milvus, such as http://127.0.0.1:19530", "")
    milvus_token: Path | None = option(
        "index", "file with the token, or user:password, for Milvus", name="milvus_token_file"
    )
    tls_cert: Path | None = option(
        "tls", "PEM certificate chain; needs a key; both are read again when they change"
    )
    tls_key: Path | None = option("tls", "PEM private key; needs a certificate")
    tls_client_ca: Path | None = option(
        "tls", "PEM root certificates: a client needs a certificate that one of these vouches for"
    )
    insecure: bool = option(
        "access", "listen beyond this machine without TLS or without tokens, which else is refused", False
    )
    rate_limit: str = option(
        "access",
        "rate limit of tokens that have none of their own, such as 100/second;5000/hour; empty for none",
        "",
        check=checked_rates,
        reread=True,
    )
    mask: str = option(
        "privacy",
        f"what is masked in texts of people before it is written: all, or some of {', '.join(KINDS)}, "
        "with commas",
        "",
    )
    mask_regions: str = option(
        "privacy",
        "countries whose telephone numbers are found without their code",
        "CN,US,GB",
    )
    audience_floor: int = option(
        "privacy",
        "answers that name people (similar users, audiences) name them in groups of so many, without scores; "
        "0: one by one, with scores",
        0,
        least=0,
        most=1_000,
    )
    forget_hours: float = option(
        "privacy",
        "hours from an erasure until no file of an index holds the person's vector; 0: whenever a command "
        "makes a new index and prunes the old ones",
        24.0,
        least=0,
        most=8_760,
    )
    artifacts: str = option(
        "storage",
        "home in object storage, such as s3://bucket/home, that exports, models and indexes belong in; the "
        "live store stays in the home directory; with tenants, each has a folder there",
        "",
        check=checked_url,
    )
    log_level: str = option(
        "log",
        "what is logged: this and what is worse",
        "info",
        words=("debug", "info", "warning", "error"),
        reread=True,
    )
    log_format: str = option("log", "what a line of the log is", "text", words=("text", "json"))
    figures: bool = option(
        "metrics",
        "whether calls and answers are counted, for `triptych console` and Prometheus; costs some 3 % of the "
        "processor time of a query",
        True,
    )
    metrics_port: int | None = option(
        "metrics", "port where Prometheus finds metrics by HTTP; 0 takes a free one", least=0, most=65_535
    )
    metrics_host: str = option("metrics", "name or IP address that the metrics port listens on", "127.0.0.1")
    traces_endpoint: str = option(
        "traces", "host:port or URL of an OpenTelemetry collector that takes traces (OTLP, gRPC)", ""
    )
    traces_ratio: float = option(
        "traces", "share of the calls that are traced, where the caller does not say", 0.01, least=0, most=1
    )

    @property
    def stop_seconds(self) -> float:
        """Seconds that a server may take to stop answering."""
        return self.drain_seconds + self.grace_seconds

    @property
    def counts(self) -> bool:
        """Whether calls and answers are counted."""
        return self.figures or self.metrics_port is not None

    @property
    def user_cache_bytes(self) -> int:
        """Bytes of user vectors that a process keeps, at most."""
        return self.user_cache_mb << 20

    @property
    def masking(self) -> Masking:
        """What is masked in texts of people.  Raises: UnknownMaskingError."""
        return Masking.named(self.mask, self.mask_regions)

    @property
    def state(self) -> "ClusterAddress | None":
        """Where the state of users lies for other machines; None for nowhere."""
        if not self.state_url:
            return None
        from store.valkey import cluster_address  # noqa: PLC0415

        address = cluster_address(
            self.state_url,
            self.state_user,
            self.state_password_file,
            self.state_ca,
            self.state_cert,
            self.state_key,
        )
        return address.of_tenant(self.tenant)

    @property
    def tokens(self) -> Path:
        """The file of tokens."""
        return self.home.path / TOKENS

    @property
    def tls(self) -> bool:
        """Whether the address wants TLS."""
        return self.tls_cert is not None

    def each_home(self) -> "list[ServerConfig]":
        """Return the settings for each home."""
        if not self.tenants:
            return [self]
        folder = self.home.path
        return [
            replace(
                self,
                home=Home(folder / name),
                tenants=(),
                tenant=name,
                artifacts=self.artifacts and f"{self.artifacts.rstrip('/')}/{name}",
            )
            for name in self.tenants
        ]

    def on_port(self, port: int) -> "ServerConfig":
        """Return the settings with another port."""
        return replace(self, port=port)

    def to_json(self) -> str:
        """Return the text that `from_json` reads, in one line."""
        content = asdict(self) | {"home": str(self.home.path)}
        return json.dumps({name: _plain(value) for name, value in content.items()})

    @classmethod
    def from_json(cls, text: str) -> "ServerConfig":
        """Read what `to_json` wrote."""
        content = json.loads(text)
        for one in options():
            if one.kind is Path and content[one.attribute] is not None:
                content[one.attribute] = Path(content[one.attribute])
        content["tenants"] = tuple(content["tenants"])
        return cls(**(content | {"home": Home(Path(content["home"]))}))


@cache
def options() -> tuple[Option, ...]:
    """Return all options, in their order in ServerConfig."""
    hints = get_type_hints(ServerConfig)
    return tuple(
        _option(one.name, hints[one.name], one.default, **one.metadata)
        for one in fields(ServerConfig)
        if one.metadata
    )


def _option(attribute: str, hint: Any, default: Any, table: str, name: str, **said: Any) -> Option:
    name = name or attribute
    kind: type = get_args(hint)[0] if isinstance(hint, UnionType) else hint
    return Option(attribute, name, table, name.removeprefix(f"{table}_"), kind, default, **said)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
