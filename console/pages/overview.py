"""The page Overview: alerts, the last hour, what serves, how much is stored, how the background work goes."""

import asyncio
from datetime import UTC, datetime
from html import escape

from nicegui import ui

from console.alerts import alerts_html
from console.frame import Visit
from console.minutes import MinuteSeries, minutes_html
from console.tables import facts_html, rows_html
from triptych_client import AsyncClient, CallError
from triptych_client.pb.v1 import triptych_pb2 as pb

_EVERY_SECONDS = 10.0


async def show_overview(visit: Visit) -> None:
    """Draw the page, and draw it again every ten seconds.  Raises: CallError."""
    say = visit.say
    ui.html(f"<h1>{say('Overview')}</h1>", sanitize=False)
    if not visit.can.read_people:
        visit.note(say("What serves is told to tokens with the scope admin."))
        return
    page = _Overview(visit)
    await page.draw()
    ui.timer(_EVERY_SECONDS, page.draw, immediate=False)


class _Overview:
    """The page of one visitor."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._place = ui.element("div")

    async def draw(self) -> None:
        """Ask the server and show what it says, or why it says nothing, in the place of what was there."""
        visit, client = self._visit, self._visit.backend.client
        try:
            status, figures = await asyncio.gather(client.status(), _figures(client))
        except CallError as error:
            self._place.clear()
            with self._place:
                visit.failure(error)
            return
        self._place.clear()
        with self._place:
            _draw(status, figures, visit)


async def _figures(client: AsyncClient) -> pb.GetFiguresResponse | CallError:
    """Return the last hour, or why there is none: that the server counts nothing hides nothing else."""
    try:
        return await client.get_figures()
    except CallError as error:
        if error.reason != "NOTHING_COUNTED":
            raise
        return error


def _draw(status: pb.StatusResponse, figures: pb.GetFiguresResponse | CallError, visit: Visit) -> None:
    say = visit.say
    if not status.index_id:
        visit.note(say("Nothing is published yet. Run triptych train and triptych reindex for the home."))
    if isinstance(figures, CallError):
        visit.failure(figures)
        figures = pb.GetFiguresResponse()
    else:
        _card(say("Alerts"), alerts_html(figures.alerts, figures.conditions, say, datetime.now(UTC)))
        _card(say("The last hour"), _hour(figures, visit))
    with ui.element("div").classes("t-side q-mt-md"):
        _card(say("What serves"), facts_html(_serving(status, figures, visit)))
        _card(
            say("What is stored"),
            facts_html({say(table): f"{count:,}" for table, count in sorted(status.rows.items())}),
        )
        _card(say("Background work"), _workers(status, figures, visit))
        if figures.processes:
            _card(say("Processes"), _processes(figures, visit))


def _card(heading: str, body: str) -> None:
    with ui.element("section").classes("t-card q-mb-md"):
        ui.html(f"<h2>{escape(heading)}</h2>{body}", sanitize=False)


def _hour(figures: pb.GetFiguresResponse, visit: Visit) -> str:
    """Return charts of the minutes, and a table of the methods."""
    say, minutes = visit.say, figures.minutes
    calls = [
        MinuteSeries(say("calls"), "t-history", [one.calls for one in minutes]),
        MinuteSeries(say("failed or refused"), "t-bad", [one.failed + one.refused for one in minutes]),
    ]
    latency = [
        MinuteSeries("p50", "t-social", [_or_none(one, "p50_ms") for one in minutes]),
        MinuteSeries("p99", "t-text", [_or_none(one, "p99_ms") for one in minutes]),
    ]
    charts = minutes_html(say("Calls a minute"), calls, "", bars=True)
    charts += minutes_html(say("Latency of Query"), latency, "ms")
    names = [say("Method"), say("Calls"), say("Failed"), "p50 ms", "p99 ms"]
    rows = [
        [one.method, f"{one.calls:,}", f"{one.failed:,}", *(_ms(one, name) for name in ("p50_ms", "p99_ms"))]
        for one in figures.methods
    ]
    since = say("Counted since {time} UTC.", time=f"{figures.since.ToDatetime():%Y-%m-%d %H:%M}")
    table = rows_html(names, rows) if rows else ""
    return f'<div class="t-charts">{charts}</div>{table}<p class="t-note">{escape(since)}</p>'


def _or_none(one: pb.MinuteFigures, name: str) -> float | None:
    return getattr(one, name) if one.HasField(name) else None  # type: ignore[arg-type]


def _ms(one: pb.MethodFigures, name: str) -> str:
    return f"{getattr(one, name):.3g}" if one.HasField(name) else "–"  # type: ignore[arg-type]


def _processes(figures: pb.GetFiguresResponse, visit: Visit) -> str:
    say = visit.say
    rows = [
        [
            str(one.pid),
            one.role,
            f"{one.resident_bytes / 1e6:,.0f} MB",
            say("yes") if one.serving else say("no"),
        ]
        for one in figures.processes
    ]
    return rows_html([say("Process"), say("Role"), say("Memory"), say("Serves")], rows)


def _serving(status: pb.StatusResponse, figures: pb.GetFiguresResponse, visit: Visit) -> dict[str, str]:
    say, process = visit.say, status.process
    asked = process.user_vector_hits + process.user_vector_misses
    return {
        say("Server"): visit.backend.config.address,
        say("Serves"): say("yes") if status.serving else say("no"),
        say("Version"): status.version,
        say("Up for"): _duration(status.uptime_seconds),
        say("Index"): status.index_id or "–",
        say("Age of the index"): _age(figures),
        say("Model"): status.model_id or "–",
        say("Language model"): status.text_model_id or "–",
        say("Items in the index"): f"{status.indexed_items:,}",
        say("Items without a vector"): f"{status.items_without_vector:,}",
        say("Embedding dim"): str(status.dim),
        say("User vectors kept"): f"{process.user_vectors:,} ({process.user_vector_bytes / 1e6:,.1f} MB)",
        say("Queries whose vector was kept"): f"{process.user_vector_hits / asked:.0%}" if asked else "–",
    }


def _age(figures: pb.GetFiguresResponse) -> str:
    if not figures.HasField("index_built"):
        return "–"
    return _duration((datetime.now(UTC) - figures.index_built.ToDatetime(UTC)).total_seconds())


def _workers(status: pb.StatusResponse, figures: pb.GetFiguresResponse, visit: Visit) -> str:
    """Return a table of the background workers: what waits for each, and whether it fails."""
    say = visit.say
    pending = {one.worker: one for one in figures.pending}
    rows = [
        [
            worker.name,
            f"{pending[worker.name].waiting:,}" if worker.name in pending else "–",
            f"{pending[worker.name].lag_seconds:.1f} s" if worker.name in pending else "–",
            say("fails: {error}", error=worker.error)
            if worker.failing
            else say("goes well; {count} failures since the start", count=worker.failures),
        ]
        for worker in status.workers
    ]
    return rows_html([say("Worker"), say("Waiting"), say("For"), say("State")], rows)


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours // 24} d {hours % 24} h" if hours > 23 else f"{hours} h {minutes % 60} min"
