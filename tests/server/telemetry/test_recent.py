"""The last hour: minutes of all processes, quantiles, and alerts that hold where those of Prometheus do."""

import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import ServerConfig
from server.telemetry import Figures, ProcessTelemetry, bounds_of, noting, quantile, series_of, summed
from server.telemetry.alerts import RULES
from server.telemetry.families import BY_NAME
from server.telemetry.recent import MINUTES, ProcessReading, RecentFigures, readings_of
from store.home import Home

FILES = Path(__file__).resolve().parents[3] / "deploy" / "observability"
NEVER_SEEN = "TriptychGone"  # a server that is gone tells nothing
SERIES = re.compile(r"triptych_(?P<name>\w+?)(?:_total|_bucket)?(?:\{(?P<labels>.*)\})?")
DRIFTED, AS_BEFORE = [1_000.0, *[0.0] * 9], [100.0] * 10


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FILES / "alerts.yml").read_text("utf-8"))["groups"]
    return [rule for rule in group["rules"] if rule["alert"] != NEVER_SEEN]


def seconds(written: str) -> int:
    return int(written[:-1]) * {"s": 1, "m": 60, "h": 3_600}[written[-1]]


def test_the_rules_are_those_of_the_file() -> None:
    assert {rule.name: (rule.severity, rule.held_seconds) for rule in RULES} == {
        rule["alert"]: (rule["labels"]["severity"], seconds(rule.get("for", "0s"))) for rule in rules()
    }
    for rule in rules():
        (ours,) = [one for one in RULES if one.name == rule["alert"]]
        for number in re.findall(r"(?:>|==) (?=[\d.])([\de.]+)", str(rule["expr"])):
            source = (Path(__file__).resolve().parents[3] / "server/telemetry/alerts.py").read_text("utf-8")
            plain = f"{float(number):g}" if "e" not in number else number
            written = re.sub(r"(?<=\d)_(?=\d)", "", source)
            assert plain in written or number in written, (ours.name, number)


class Replayed:
    """The processes of one server, whose numbers follow the series of a test of promtool's."""

    def __init__(self, series: Sequence[dict[str, str]]) -> None:
        self.minute = 0
        self.now = 0.0
        self._series = [(self._read(one["series"]), self._values(one["values"])) for one in series]

    def readings(self) -> list[ProcessReading]:
        homes: dict[str, Figures] = {}
        owns: dict[str, Figures] = {}
        below = 0.0  # of a histogram, whose buckets come one after another and are added up
        for (name, labels), values in self._series:
            value = values[min(self.minute, len(values) - 1)]
            family = BY_NAME.get(name)
            process = labels.get("process", "server")
            home = homes.setdefault(process, Figures(tenant=""))
            own = owns.setdefault(process, Figures())
            if name == "drift_psi":
                self._drift(home, labels["quantity"], value)
                continue
            assert family is not None
            figures = own if family.scope in ("process", "server") else home
            cells = figures.cells(name, *(labels[label] for label, _ in family.labels))
            if "le" in labels:
                bound = float(labels["le"].replace("+Inf", "inf"))
                cells[bisect_left(bounds_of(name), bound)] = value - below
                below = value
            else:
                cells[0] = value
        return [
            ProcessReading(10 + place, self._role(process), figures.tenant, figures.read())
            for sources in (homes, owns)
            for place, (process, figures) in enumerate(sources.items())
        ]

    @staticmethod
    def _role(process: str) -> str:
        return process.partition("-")[0]

    @staticmethod
    def _drift(home: Figures, quantity: str, value: float) -> None:
        weights, expected = (home.cells(name, quantity) for name in ("drift_weights", "drift_expected"))
        for place, weight in enumerate(DRIFTED if value > 0.25 else AS_BEFORE):
            weights[place], expected[place] = weight, AS_BEFORE[place]

    @staticmethod
    def _read(series: str) -> tuple[str, dict[str, str]]:
        read = SERIES.fullmatch(series)
        assert read is not None
        labels = dict(re.findall(r'(\w+)="([^"]*)"', read["labels"] or ""))
        name = read["name"]
        return name, labels

    @staticmethod
    def _values(written: str) -> list[float]:
        found: list[float] = []
        for part in written.split():
            read = re.fullmatch(r"([\d.e]+)(?:\+([\d.e]+))?x(\d+)", part)
            assert read is not None
            begin, step = float(read[1]), float(read[2] or 0)
            found += [begin + step * number for number in range(int(read[3]) + 1)]
        return found


def cases() -> Iterator[Any]:
    for case in yaml.safe_load((FILES / "alerts_test.yml").read_text("utf-8"))["tests"]:
        if not case["name"].startswith(NEVER_SEEN):
            yield pytest.param(case, id=case["name"])


@pytest.mark.parametrize("case", cases())
def test_an_alert_holds_where_that_of_prometheus_does(case: dict[str, Any]) -> None:
    replayed = Replayed(case["input_series"])
    recent = RecentFigures(replayed.readings, lambda: replayed.now)
    (wanted,) = case["alert_rule_test"]
    end = seconds(wanted["eval_time"]) // 60
    step = 30 if end > 1_000 else 1  # four days need not be lived minute by minute
    for minute in range(0, end + 1, step):
        replayed.minute, replayed.now = minute, 60.0 * minute
        recent.look()
    found = [one for one in recent.alerts("") if one.rule.name == wanted["alertname"]]
    told = [{"severity": one.rule.severity, **one.labels} for one in found]
    expected = [
        {name: value for name, value in alert["exp_labels"].items() if name != "instance"}
        for alert in wanted["exp_alerts"]
    ]
    assert told == expected
    for one in found:
        assert "{" not in one.summary
        assert one.since <= replayed.now - one.rule.held_seconds


def calls(figures: Figures, count: float) -> None:
    figures.cells("calls", "Retrieval/Query", "OK")[0] += count


def of_queries(recent: RecentFigures, minutes: int = MINUTES) -> list[float]:
    return [
        count
        for one in recent.minutes("", minutes)
        for labels, (count,) in series_of(summed([one]), "calls")
        if labels == ("Retrieval/Query", "OK")
    ]


def test_minutes_hold_what_all_processes_counted_in_them() -> None:
    first, second, now = Figures(tenant=""), Figures(tenant=""), [600.0]
    running = {1: first}
    recent = RecentFigures(
        lambda: [ProcessReading(pid, "query", "", one.read()) for pid, one in running.items()], lambda: now[0]
    )
    calls(first, 5)  # before anybody looked
    recent.look()
    calls(first, 3)
    now[0] = 610.0
    recent.look()
    running[2] = second
    calls(second, 7)
    now[0] = 665.0
    recent.look()
    assert of_queries(recent) == [3, 7]
    del running[1]  # it has ended, and what it counted stays
    recent.look()
    running[1] = Figures(tenant="")  # another process has its id
    calls(running[1], 2)
    recent.look()
    assert of_queries(recent) == [3, 9]
    now[0] = 665.0 + 60 * MINUTES
    recent.look()
    assert of_queries(recent) == [0] * (MINUTES - 1) + [0]
    assert of_queries(recent, 2) == [0, 0]


def test_homes_of_tenants_are_told_apart() -> None:
    shop, own = Figures(tenant="shop"), Figures()
    recent = RecentFigures(
        lambda: [ProcessReading(1, "server", one.tenant, one.read()) for one in (shop, own)], lambda: 60.0
    )
    recent.look()
    own.cells("process_restarts", "query")[0] = 9
    recent.look()
    assert {one.rule.name for one in recent.alerts("shop")} == set()  # of the server: not theirs
    assert {one.rule.name for one in recent.alerts("")} == {"TriptychProcessesRestart"}
    assert recent.conditions("shop") < recent.conditions("") == len(RULES)
    assert recent.present("other") == []


def test_processes_are_read_from_their_files(tmp_path: Path) -> None:
    figures = Figures(tmp_path / f"{os.getpid()}-0", "")
    Figures(tmp_path / "7-0", "")
    Figures(tmp_path / "8-12")
    (tmp_path / "rates").write_bytes(b"")
    calls(figures, 4)
    found = {(one.pid, one.role, one.tenant) for one in readings_of(tmp_path, 8)}
    assert found == {(os.getpid(), "owner", ""), (7, "query", ""), (8, "parent", None)}


@pytest.mark.parametrize(
    ("counts", "wanted", "found"),
    [
        ([0, 0, 0], 0.5, None),
        ([10, 0, 0], 0.5, 0.5),
        ([50, 50, 0], 0.99, 1.98),
        ([0, 0, 4], 0.5, 2.0),  # beyond the last bound
        ([1, 3, 0], 0.25, 1.0),
    ],
)
def test_quantiles_are_estimated_as_prometheus_does(
    counts: list[float], wanted: float, found: float | None
) -> None:
    assert quantile([*counts, 123.0], [1.0, 2.0], wanted) == pytest.approx(found)


def test_a_server_counts_unless_that_is_switched_off(tmp_path: Path) -> None:
    def telemetry(**said: Any) -> ProcessTelemetry:
        with noting(ServerConfig(Home(tmp_path), **said)) as noted:
            return noted

    assert telemetry().recent is not None
    assert telemetry(figures=False).recent is None
    assert telemetry(figures=False).own is None
    assert telemetry(figures=False, metrics_port=0).recent is not None
