"""The page Overview: what serves, how much is stored, and how the background work goes."""

from nicegui import ui

from console.frame import Visit
from console.tables import facts_html
from triptych_client.pb.v1 import triptych_pb2 as pb


async def show_overview(visit: Visit) -> None:
    """Draw the page.  Raises: CallError."""
    say = visit.say
    ui.html(f"<h1>{say('Overview')}</h1>", sanitize=False)
    if not visit.can.read_people:
        visit.note(say("What serves is told to tokens with the scope admin."))
        return
    status = await visit.backend.client.status()
    if not status.index_id:
        visit.note(say("Nothing is published yet. Run triptych train and triptych reindex for the home."))
    with ui.element("div").classes("t-side"):
        with ui.element("section").classes("t-card"):
            ui.html(f"<h2>{say('What serves')}</h2>{facts_html(_serving(status, visit))}", sanitize=False)
        with ui.element("section").classes("t-card"):
            rows = {say(table): f"{count:,}" for table, count in sorted(status.rows.items())}
            ui.html(f"<h2>{say('What is stored')}</h2>{facts_html(rows)}", sanitize=False)
        with ui.element("section").classes("t-card"):
            ui.html(f"<h2>{say('Background work')}</h2>{facts_html(_workers(status, visit))}", sanitize=False)


def _serving(status: pb.StatusResponse, visit: Visit) -> dict[str, str]:
    say, process = visit.say, status.process
    asked = process.user_vector_hits + process.user_vector_misses
    return {
        say("Server"): visit.backend.config.address,
        say("Serves"): say("yes") if status.serving else say("no"),
        say("Version"): status.version,
        say("Up for"): _duration(status.uptime_seconds),
        say("Index"): status.index_id or "–",
        say("Model"): status.model_id or "–",
        say("Language model"): status.text_model_id or "–",
        say("Items in the index"): f"{status.indexed_items:,}",
        say("Items without a vector"): f"{status.items_without_vector:,}",
        say("Embedding dim"): str(status.dim),
        say("User vectors kept"): f"{process.user_vectors:,} ({process.user_vector_bytes / 1e6:,.1f} MB)",
        say("Queries whose vector was kept"): f"{process.user_vector_hits / asked:.0%}" if asked else "–",
    }


def _workers(status: pb.StatusResponse, visit: Visit) -> dict[str, str]:
    say = visit.say
    return {
        worker.name: say("fails: {error}", error=worker.error)
        if worker.failing
        else say("goes well; {count} failures since the start", count=worker.failures)
        for worker in status.workers
    }


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours // 24} d {hours % 24} h" if hours > 23 else f"{hours} h {minutes % 60} min"
