"""Every metric of the server, in one table: its name, its labels, and where its numbers lie.

All labels have a fixed set of values, so that a process' numbers are one row of cells, which other processes
can map and add up (`figures.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from google.rpc import code_pb2

from encoder.drift.stability import BINS, QUANTITIES
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2

CODES = tuple(sorted(code_pb2.Code.keys(), key=code_pb2.Code.Value))  # of gRPC, 0 to 16
METHODS = (
    *(
        f"{service.name}/{method.name}"
        for file in (triptych_pb2, ingest_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ),
    "Health/Check",
)
KINDS = (  # of calls, each with a room of its own
    "queries",
    "query streams",
    "writes",
    "write streams",
    "imports and erasures",
    "exports of people",
    "reads of items",
    "admin calls",
    "maps and comparisons",
    "status calls",
    "reads for query processes",
    "query processes",
    "health checks",
    "health watches",
    "reflection streams",
)
STAGES = ("views", "encode", "search", "page", "reply")
VIEWS = ("H", "T", "S")
WORKERS = ("writer", "texts", "items", "users", "forgetting", "artifacts", "state")
ROLES = ("owner", "query")
DENIALS = ("UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED")
_CALL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_STAGE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

_DRIFT_LABELS = (("quantity", QUANTITIES), ("bin", tuple(map(str, range(BINS)))))

Kind = Literal["counter", "gauge", "histogram"]
Scope = Literal["home", "home and process", "process", "server"]


@dataclass(frozen=True)
class Family:
    """One metric and all its series.

    Attributes:
        name: without the prefix `triptych_`, and without the `_total` of a counter.
        kind: what Prometheus calls its type.
        help: what it tells, in one line.
        labels: names, and the values that each may have.
        bounds: of a histogram, upper ones, in increasing order; an infinite one is added.
        scope: whose series there are. home: those of each home, of all processes added up; home and process:
            of each home in each process; process: of each process; server: of all processes added up.
        hidden: whether it is not told itself, because others are made of it.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    bounds: tuple[float, ...] = ()
    scope: Scope = "home"
    hidden: bool = False

    @property
    def each_process(self) -> bool:
        """Whether each process has series of its own."""
        return self.scope in ("process", "home and process")

    @property
    def width(self) -> int:
        """The number of cells of one series: of a histogram one for each bound, the infinite one, the sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1

    @property
    def size(self) -> int:
        """The number of cells of all series."""
        return self.width * len(list(self.series()))

    def series(self) -> Iterator[tuple[str, ...]]:
        """Yield the values of the labels of each series, in the order of the cells."""
        return product(*(values for _, values in self.labels))


FAMILIES = (
    Family(
        "calls",
        "counter",
        "Calls that have ended, by method and gRPC code; refused ones among them.",
        (("method", METHODS), ("code", CODES)),
    ),
    Family(
        "call_seconds",
        "histogram",
        "Time from when a call was handed over until its reply was made; refused ones left out.",
        (("method", METHODS),),
        _CALL_SECONDS,
    ),
    Family(
        "calls_refused",
        "counter",
        "Calls refused because the room of their kind is full.",
        (("kind", KINDS),),
    ),
    Family(
        "calls_denied",
        "counter",
        "Calls denied before they reached a home: no token, not its scope, above its rate.",
        (("code", DENIALS),),
        scope="server",
    ),
    Family("calls_admitted", "gauge", "Calls that run or wait now.", (("kind", KINDS),)),
    Family("calls_admitted_most", "gauge", "Calls that may run and wait at once.", (("kind", KINDS),)),
    Family(
        "queries", "counter", "Queries answered, by what with.", (("answer", ("personal", "popularity")),)
    ),
    Family("views_used", "counter", "Queries answered with a part of this view.", (("view", VIEWS),)),
    Family(
        "stage_seconds",
        "histogram",
        "Time of one stage of the queries that were answered together.",
        (("stage", STAGES),),
        _STAGE_SECONDS,
    ),
    Family(
        "micro_batch_calls",
        "histogram",
        "Calls of Query that were answered together.",
        bounds=(1.0, 2.0, 4.0, 8.0, 12.0),
    ),
    Family(
        "user_vector_lookups",
        "counter",
        "Stored users asked for, by whether a finished vector was kept.",
        (("kept", ("yes", "no")),),
    ),
    Family("user_vectors", "gauge", "Finished user vectors that are kept."),
    Family("user_vector_bytes", "gauge", "Memory of the finished user vectors that are kept."),
    Family("rows_written", "counter", "Rows that writes have inserted or updated, imports left out."),
    Family(
        "transaction_requests",
        "histogram",
        "Writes that shared a transaction.",
        bounds=(1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0),
    ),
    Family(
        "waiting",
        "gauge",
        "What waits for a background worker: writes, texts to encode, items to encode, users to encode.",
        (("worker", WORKERS),),
    ),
    Family(
        "lag_seconds",
        "gauge",
        "How long the oldest of what waits for a background worker has waited.",
        (("worker", WORKERS),),
    ),
    Family(
        "worker_failing", "gauge", "Whether a background worker fails at present.", (("worker", WORKERS),)
    ),
    Family("worker_failures", "counter", "Failures of a background worker.", (("worker", WORKERS),)),
    Family("index_items", "gauge", "Items that the serving index finds."),
    Family("index_items_changed", "gauge", "Items put into the serving index since it was built."),
    Family("index_items_without_vector", "gauge", "Items that searches by vector do not find."),
    Family("index_users", "gauge", "Users that the serving index finds."),
    Family("index_bytes", "gauge", "Size of the serving index's files."),
    Family("index_built_timestamp_seconds", "gauge", "When the serving index was built."),
    Family("index_generation", "gauge", "Indexes that have served since the owner started."),
    Family(
        "process_serving",
        "gauge",
        "Whether the process has an index to answer from.",
        scope="home and process",
    ),
    Family(
        "process_index_built_timestamp_seconds",
        "gauge",
        "When the index was built that the process answers from.",
        scope="home and process",
    ),
    Family(
        "process_log_entries",
        "gauge",
        "How far the process has followed the change log.",
        scope="home and process",
    ),
    Family("process_resident_memory_bytes", "gauge", "Resident memory of the process.", scope="process"),
    Family("process_cpu_seconds", "counter", "Processor time of the process.", scope="process"),
    Family("process_open_files", "gauge", "File descriptors that the process has open.", scope="process"),
    Family("process_start_timestamp_seconds", "gauge", "When the process was started.", scope="process"),
    Family("drift_weights", "gauge", "Of those who ask now, by bin.", _DRIFT_LABELS, hidden=True),
    Family("drift_expected", "gauge", "Of those whom the model was trained on.", _DRIFT_LABELS, hidden=True),
    Family(
        "process_restarts",
        "counter",
        "Processes that were replaced since they died.",
        (("role", ROLES),),
        scope="server",
    ),
)


def _offsets() -> dict[str, int]:
    offsets, end = {}, 0
    for family in FAMILIES:
        offsets[family.name] = end
        end += family.size
    return offsets


BY_NAME = {family.name: family for family in FAMILIES}
OFFSETS = _offsets()
CELLS = sum(family.size for family in FAMILIES)


def bounds_of(name: str) -> tuple[float, ...]:
    """Return the upper bounds of a histogram."""
    return BY_NAME[name].bounds


def code_of(name: str) -> int:
    """Return the number of a gRPC code."""
    return int(code_pb2.Code.Value(name))
