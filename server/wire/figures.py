"""The last hour of a server as a message."""

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from server.status import InvalidRequestError
from server.telemetry import (
    FAILED,
    MINUTES,
    WORKERS,
    HeldAlert,
    HomeMinute,
    RecentFigures,
    bounds_of,
    code_of,
    quantile,
    series_of,
    summed,
)
from triptych_client.pb.v1 import triptych_pb2 as pb

_QUERY = "Retrieval/Query"
_UNCOUNTED = "Health/Check"
_FAILED = frozenset(map(code_of, FAILED))
_SEVERITIES = ("critical", "warning")


def figures_reply(request: pb.GetFiguresRequest, recent: RecentFigures, tenant: str) -> pb.GetFiguresResponse:
    """Tell the last minutes of a home, and of the server where it has this one alone.

    Raises:
        InvalidRequestError: more minutes are wanted than are kept.
    """
    if request.minutes > MINUTES:
        raise InvalidRequestError(f"minutes is {request.minutes}, more than {MINUTES}", "minutes")
    minutes = recent.minutes(tenant, request.minutes or MINUTES)
    alerts = sorted(
        recent.alerts(tenant),
        key=lambda one: (_SEVERITIES.index(one.rule.severity), one.rule.name, one.summary),
    )
    reply = pb.GetFiguresResponse(
        since=_moment(recent.since),
        minutes=map(_minute, minutes),
        methods=_methods(minutes),
        alerts=map(_alert, alerts),
        conditions=recent.conditions(tenant),
    )
    present = [one.reading for one in recent.present(tenant)]
    for place, worker in enumerate(WORKERS):
        waiting, lag = (sum(one.of(name)[place] for one in present) for name in ("waiting", "lag_seconds"))
        reply.pending.add(worker=worker, waiting=int(waiting), lag_seconds=lag)
    built = max((one.of("index_built_timestamp_seconds")[0] for one in present), default=0.0)
    if built:
        reply.index_built.CopyFrom(_moment(built))
    if not tenant:
        serving = {one.pid: bool(one.reading.of("process_serving")[0]) for one in recent.present(tenant)}
        for one in recent.present(None):
            memory = int(one.reading.of("process_resident_memory_bytes")[0])
            if memory:  # the parent's, which answers nobody, is read at a scrape alone
                reply.processes.add(
                    pid=one.pid, role=one.role, resident_bytes=memory, serving=serving.get(one.pid, False)
                )
    return reply


def _minute(minute: HomeMinute) -> pb.MinuteFigures:
    total = summed([minute])
    told = pb.MinuteFigures(begin=_moment(minute.begin))
    for (method, code), (count,) in series_of(total, "calls"):
        if method != _UNCOUNTED:
            told.calls += int(count)
            told.failed += int(count) * (code_of(code) in _FAILED)
    told.refused = int(sum(count for _, (count,) in series_of(total, "calls_refused")))
    told.queries = int(sum(count for _, (count,) in series_of(total, "queries")))
    (seconds,) = [cells for (method,), cells in series_of(total, "call_seconds") if method == _QUERY]
    _set_quantiles(told, seconds)
    return told


def _methods(minutes: Sequence[HomeMinute]) -> list[pb.MethodFigures]:
    total, found = summed(minutes), dict[str, pb.MethodFigures]()
    for (method, code), (count,) in series_of(total, "calls"):
        if count and method != _UNCOUNTED:
            told = found.setdefault(method, pb.MethodFigures(method=method))
            told.calls += int(count)
            told.failed += int(count) * (code_of(code) in _FAILED)
    for (method,), seconds in series_of(total, "call_seconds"):
        if method in found:
            _set_quantiles(found[method], seconds)
    return sorted(found.values(), key=lambda told: (-told.calls, told.method))


def _set_quantiles(told: pb.MinuteFigures | pb.MethodFigures, seconds: Sequence[float]) -> None:
    bounds = bounds_of("call_seconds")
    p50, p99 = (quantile(seconds, bounds, wanted) for wanted in (0.5, 0.99))
    if p50 is not None and p99 is not None:
        told.p50_ms, told.p99_ms = 1e3 * p50, 1e3 * p99


def _alert(alert: HeldAlert) -> pb.Alert:
    rule = alert.rule
    return pb.Alert(
        name=rule.name,
        severity=rule.severity,
        since=_moment(alert.since),
        labels=alert.labels,
        value=alert.value,
        summary=alert.summary,
        advice=rule.advice,
    )


def _moment(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e3) * 1_000_000)
    return stamp
