"""The conditions of deploy/observability/alerts.yml, looked at by the server itself.

A test has Prometheus' own rules and these decide on the same series.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from encoder.drift.stability import BINS, QUANTITIES, stability_index
from server.telemetry.drift_metrics import LEAST_SAMPLES
from server.telemetry.families import BY_NAME
from server.telemetry.figures import Reading, quantile

FAILED = ("UNKNOWN", "INTERNAL", "DATA_LOSS", "UNAVAILABLE", "DEADLINE_EXCEEDED")  # by the server's fault
_SLOW_SECONDS = 0.25
Labels = Mapping[str, str]
Found = Iterator[tuple[Labels, float]]


@dataclass(frozen=True)
class MemoryOf:
    """Resident memory of a process, now and as far back as it is remembered, six hours at most."""

    role: str
    now: float
    before: float


@dataclass(frozen=True)
class HomeFigures:
    """The numbers about one home, or about the processes themselves, at one moment.

    Attributes:
        now: seconds since 1970.
        increase: returns what a metric counted in so many minutes, cell by cell.
        present: role and numbers of each process.
        memory: of each process; none where this is about a home.
    """

    now: float
    increase: Callable[[str, int], Sequence[float]]
    present: Sequence[tuple[str, Reading]]
    memory: Sequence[MemoryOf] = ()

    def counted(self, name: str, minutes: int) -> Iterator[tuple[tuple[str, ...], Sequence[float]]]:
        """Yield labels and increase of each series of a counter or a histogram."""
        return _by_series(name, self.increase(name, minutes))

    def gauge(self, name: str) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield labels and value of each series of a gauge, added up over the processes."""
        cells = [sum(some) for some in zip(*(one.of(name) for _, one in self.present), strict=True)]
        return ((labels, value[0]) for labels, value in _by_series(name, cells) if value)

    def each(self, name: str, roles: Sequence[str] = ()) -> list[float]:
        """Return a gauge without labels of each process, or of those with some roles."""
        return [one.of(name)[0] for role, one in self.present if not roles or role in roles]


@dataclass(frozen=True)
class AlertRule:
    """A condition that somebody has to know of.

    Attributes:
        name: as in alerts.yml.
        severity: critical or warning.
        held_seconds: how long it has to hold before it is told.
        find: yields labels and value of each thing for which it holds.
        summary: what is wrong, with places for labels and for the value.
        advice: what to do.
        about: a home, or the processes of the server.
        value: writes the value.
    """

    name: str
    severity: Literal["critical", "warning"]
    held_seconds: float
    find: Callable[[HomeFigures], Found]
    summary: str
    advice: str
    about: Literal["home", "server"] = "home"
    value: Callable[[float], str] = "{:g}".format


@dataclass(frozen=True)
class HeldAlert:
    """A rule whose condition holds: about what, with which value, and since when (seconds since 1970)."""

    rule: AlertRule
    labels: Labels
    value: float
    since: float

    @property
    def summary(self) -> str:
        """What is wrong, as a sentence."""
        return self.rule.summary.format(**self.labels, value=self.rule.value(self.value))


def alerts_that_hold(figures: HomeFigures, rules: Sequence[AlertRule]) -> Iterator[HeldAlert]:
    """Yield what some rules find at one moment."""
    if figures.present:
        for rule in rules:
            for labels, value in rule.find(figures):
                yield HeldAlert(rule, labels, value, figures.now)


def rules_of(tenant: str | None) -> list[AlertRule]:
    """Return the rules about a home, or, for None, about the processes of the server."""
    about = "server" if tenant is None else "home"
    return [rule for rule in RULES if rule.about == about]


def _by_series(name: str, cells: Sequence[float]) -> Iterator[tuple[tuple[str, ...], Sequence[float]]]:
    family = BY_NAME[name]
    for place, labels in enumerate(family.series()):
        yield labels, cells[place * family.width : (place + 1) * family.width]


def _not_serving(figures: HomeFigures) -> Found:
    if not max(figures.each("process_serving")):
        yield {}, 0.0


def _errors(figures: HomeFigures) -> Found:
    calls: dict[str, float] = {}
    failed: dict[str, float] = {}
    for (method, code), (count,) in figures.counted("calls", 5):
        calls[method] = calls.get(method, 0.0) + count
        failed[method] = failed.get(method, 0.0) + count * (code in FAILED)
    for method, count in failed.items():
        if count and count / calls[method] > 0.01:
            yield {"method": method}, count / calls[method]


def _slow_queries(figures: HomeFigures) -> Found:
    for (method,), cells in figures.counted("call_seconds", 5):
        if method == "Retrieval/Query":
            p99 = quantile(cells, BY_NAME["call_seconds"].bounds, 0.99)
            if p99 is not None and p99 > _SLOW_SECONDS:
                yield {}, p99


def _refuses(figures: HomeFigures) -> Found:
    for (kind,), (count,) in figures.counted("calls_refused", 5):
        if count:
            yield {"kind": kind}, count / 300


def _denies(figures: HomeFigures) -> Found:
    for (code,), (count,) in figures.counted("calls_denied", 5):
        if count / 300 > 1:
            yield {"code": code}, count / 300


def _nearly_full(figures: HomeFigures) -> Found:
    most = dict(figures.gauge("calls_admitted_most"))
    for labels, value in figures.gauge("calls_admitted"):
        if most[labels] and value / most[labels] > 0.8:
            yield {"kind": labels[0]}, value / most[labels]


def _writer_fails(figures: HomeFigures) -> Found:
    for (worker,), failing in figures.gauge("worker_failing"):
        if worker == "writer" and failing:
            yield {"worker": worker}, failing


def _worker_fails(figures: HomeFigures) -> Found:
    for (worker,), failing in figures.gauge("worker_failing"):
        if worker != "writer" and failing:
            yield {"worker": worker}, failing


def _lags(figures: HomeFigures) -> Found:
    for (worker,), seconds in figures.gauge("lag_seconds"):
        if seconds > 300:
            yield {"worker": worker}, seconds


def _behind_the_log(figures: HomeFigures) -> Found:
    owner, followers = (figures.each("process_log_entries", [role]) for role in ("owner", "query"))
    if owner and followers and max(owner) - min(followers) > 1_000:
        yield {}, max(owner) - min(followers)


def _disagree(figures: HomeFigures) -> Found:
    built = figures.each("process_index_built_timestamp_seconds")
    if max(built) != min(built):
        yield {}, max(built) - min(built)


def _restarts(figures: HomeFigures) -> Found:
    for (role,), (count,) in figures.counted("process_restarts", 15):
        if count > 3:
            yield {"role": role}, count


def _old_index(figures: HomeFigures) -> Found:
    for _, built in figures.gauge("index_built_timestamp_seconds"):
        if built and figures.now - built > 259_200:
            yield {}, figures.now - built


def _popularity(figures: HomeFigures) -> Found:
    answers = {labels[0]: count for labels, (count,) in figures.counted("queries", 30)}
    if answers["popularity"] and answers["popularity"] / sum(answers.values()) > 0.5:
        yield {}, answers["popularity"] / sum(answers.values())


def _drift(figures: HomeFigures) -> Found:
    readings = [one for _, one in figures.present]
    for place, quantity in enumerate(QUANTITIES):
        bins = slice(place * BINS, (place + 1) * BINS)
        weights, expected = (
            [sum(some) for some in zip(*(one.of(name)[bins] for one in readings), strict=True)]
            for name in ("drift_weights", "drift_expected")
        )
        if sum(weights) >= LEAST_SAMPLES and any(expected):
            index = stability_index(weights, expected)
            if index > 0.25:
                yield {"quantity": quantity}, index


def _memory_grows(figures: HomeFigures) -> Found:
    for one in figures.memory:
        if one.now - one.before > 2e9:
            yield {"process": one.role}, one.now - one.before


def _share(value: float) -> str:
    return f"{value:.0%}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{1e3 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"


_MORE_ROOM = (
    "More calls of this kind come than are answered. Add processes (--processes); more workers (--workers) "
    "help kinds that wait for the disk."
)
_NOT_FOLLOWING = (
    "A query process does not follow. It ends by itself where it cannot read the log; kill it, and another "
    "one takes its place."
)
RULES = (
    AlertRule(
        "TriptychNotServing",
        "critical",
        120,
        _not_serving,
        "No index to answer from.",
        "Nothing is published, or it could not be loaded; the log says which. Look with triptych index list, "
        "go back with triptych index rollback.",
    ),
    AlertRule(
        "TriptychErrors",
        "critical",
        300,
        _errors,
        "{value} of {method} fail.",
        "UNAVAILABLE: a process is being replaced. DEADLINE_EXCEEDED: it is too slow. INTERNAL: the log has "
        "the error under the query id that the caller got. DATA_LOSS: a file is damaged; it says which.",
        value=_share,
    ),
    AlertRule(
        "TriptychSlowQueries",
        "warning",
        600,
        _slow_queries,
        "One query in a hundred takes longer than {value}.",
        "Many items changed since the index was built: triptych reindex. Few vectors of people are kept: "
        "--user-cache-mb. Queries wait for a thread: --processes, or replicas.",
        value=_duration,
    ),
    AlertRule(
        "TriptychRefusesCalls",
        "warning",
        300,
        _refuses,
        "Calls are refused, as the room for {kind} is full.",
        _MORE_ROOM,
    ),
    AlertRule(
        "TriptychDeniesCalls",
        "warning",
        600,
        _denies,
        "{value} calls a second are denied: {code}.",
        "Callers come without a token, with one of another scope, or above its rate. One app with an expired "
        "token is enough.",
        about="server",
    ),
    AlertRule(
        "TriptychRoomNearlyFull",
        "warning",
        120,
        _nearly_full,
        "{value} of the room for {kind} are taken.",
        _MORE_ROOM,
        value=_share,
    ),
    AlertRule(
        "TriptychWriterFails",
        "critical",
        60,
        _writer_fails,
        "Nothing can be written.",
        "The log says why, most often a full disk. Writes go on by themselves once it is mended.",
    ),
    AlertRule(
        "TriptychWorkerFails",
        "warning",
        900,
        _worker_fails,
        "The worker of {worker} fails, and is repeated.",
        "The log says why. Queries go on with what was there before.",
    ),
    AlertRule(
        "TriptychLagsBehind",
        "warning",
        600,
        _lags,
        "The {worker} are {value} behind.",
        "More is written than can be encoded. Import large amounts with triptych import, and reindex.",
        value=_duration,
    ),
    AlertRule(
        "TriptychProcessBehindTheLog",
        "critical",
        120,
        _behind_the_log,
        "A query process is {value} entries behind its owner.",
        _NOT_FOLLOWING,
    ),
    AlertRule(
        "TriptychProcessesDisagree",
        "critical",
        300,
        _disagree,
        "The processes answer from different indexes.",
        _NOT_FOLLOWING,
    ),
    AlertRule(
        "TriptychProcessesRestart",
        "critical",
        0,
        _restarts,
        "Processes ({role}) die again and again.",
        "The log has the exit code and the reason of each. Code -9 without a reason: the machine has too "
        "little memory; take fewer processes, or a smaller --user-cache-mb.",
        about="server",
    ),
    AlertRule(
        "TriptychOldIndex",
        "warning",
        3_600,
        _old_index,
        "The index was built {value} ago.",
        "Was the nightly triptych train and triptych reindex run?",
        value=_duration,
    ),
    AlertRule(
        "TriptychPopularityFallback",
        "warning",
        1_800,
        _popularity,
        "{value} of the queries are answered with what is popular.",
        "Most people who ask are unknown. Does the app send the ids that were imported?",
        value=_share,
    ),
    AlertRule(
        "TriptychDrift",
        "warning",
        3_600,
        _drift,
        "Those who ask differ in {quantity} from those whom the model was trained on.",
        "Train anew on a fresh export: triptych train --from LATEST.",
    ),
    AlertRule(
        "TriptychMemoryGrows",
        "warning",
        3_600,
        _memory_grows,
        "The process {process} takes {value} GB more than six hours ago.",
        "Items that changed since the last reindex lie in memory: triptych reindex.",
        about="server",
        value=lambda value: f"{value / 1e9:.1f}",
    ),
)
