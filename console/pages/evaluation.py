"""The page Evaluation: reports as charts, one alone or two over each other."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nicegui import ui

from charts import chart_html, report_charts
from console.forms import choice_form
from console.frame import Visit
from console.tables import compared_html, date_text, rows_html
from console.words import Words
from triptych_client.pb.v1 import triptych_pb2 as pb

_LISTED = 100
_SERIES = ("A", "B")


async def show_evaluation(visit: Visit) -> None:
    """Draw the page.  Raises: CallError."""
    say = visit.say
    ui.html(f"<h1>{escape(say('Evaluation'))}</h1>", sanitize=False)
    if not visit.can.read_people:
        visit.note(say("Reports are told to tokens with the scope admin."))
        return
    listed = await visit.backend.client.list_reports(_LISTED)
    if not listed:
        visit.note(
            say(
                "There is no report yet. Run triptych evaluate for the home: it keeps what it measures there."
            )
        )
        return
    report, other = visit.parameters.get("report", ""), visit.parameters.get("with", "")
    _draw_choice(listed, report, other, say)
    chosen = list(dict.fromkeys(one for one in (report, other) if one))
    if not chosen:
        _draw_list(listed, say)
        return
    found = [await visit.backend.client.get_report(one) for one in chosen]
    dates = {one.report_id: date_text(one) for one in listed}
    _draw_facts(chosen, [dates.get(one, "–") for one in chosen], found, say)
    names = _SERIES if len(found) > 1 else ("",)
    for chart in report_charts(found, say, names):
        ui.html(chart_html(chart, say), sanitize=False).classes("t-card q-mt-md")


def _draw_choice(listed: Sequence[pb.ReportSummary], report: str, other: str, say: Words) -> None:
    sound = {one.report_id: _name(one) for one in listed if not one.damaged}
    fields = {
        "report": (say("Report"), report, {"": say("none")} | sound),
        "with": (say("Beside it"), other, {"": say("none")} | sound),
    }
    choice_form("/evaluation", fields, say("Show"))


def _name(one: pb.ReportSummary) -> str:
    recall = f", recall@20 {one.recall:.3f}" if one.HasField("recall") else ""
    return f"{date_text(one)}, {one.split}{recall}"


def _draw_list(listed: Sequence[pb.ReportSummary], say: Words) -> None:
    names = [say("Report"), say("Date"), say("Split"), say("People"), "recall@20", "95 %", "NDCG@20"]
    names += [say("Model"), say("Index"), say("Beside others"), say("Robustness")]
    rows = [_row(one, say) for one in listed]
    links = {one.report_id: f"/evaluation?report={one.report_id}" for one in listed if not one.damaged}
    ui.html(rows_html(names, rows, links), sanitize=False)


def _row(one: pb.ReportSummary, say: Words) -> list[str]:
    if one.damaged:
        return [one.report_id, date_text(one), say("damaged"), *["–"] * 8]
    measured = one.HasField("recall")
    recall = f"{one.recall:.3f}" if measured else "–"
    interval = f"{one.recall_low:.3f}–{one.recall_high:.3f}" if measured else "–"
    ndcg = f"{one.ndcg:.3f}" if one.HasField("ndcg") else "–"
    figures = [one.split, f"{one.users:,}", recall, interval, ndcg]
    others = ", ".join(one.baselines) or "–"
    robustness = say("yes") if one.robustness else "–"
    return [one.report_id, date_text(one), *figures, one.model_id, one.index_id, others, robustness]


def _draw_facts(
    chosen: Sequence[str], dates: Sequence[str], found: Sequence[Mapping[str, Any]], say: Words
) -> None:
    """Draw what was measured, and where two reports are not of the same people, that."""
    with ui.element("section").classes("t-card"):
        facts = {say("Report"): chosen, say("Date"): dates} | {
            name: [_fact(report, key) for report in found]
            for name, key in {
                say("Home"): "dataset",
                say("Split"): "split",
                say("People"): "users",
                say("Views used"): "views",
                say("Model"): "model_id",
                say("Index"): "index_id",
            }.items()
        }
        facts[say("Agreement of a view with the whole")] = [_degrees(report) for report in found]
        facts[say("Seconds")] = [f"{sum(report['seconds'].values()):,.0f}" for report in found]
        names = _SERIES if len(found) > 1 else ("",)
        ui.html(compared_html(names, facts, say("differs")), sanitize=False)
        if len(found) > 1:
            alone = say(
                "Each interval is of one report alone: it does not tell whether a difference is chance."
            )
            ui.html(f'<p class="t-note">{escape(alone)}</p>', sanitize=False)
        if len({(report["dataset"], report["split"], report["users"]) for report in found}) > 1:
            warning = say(
                "These reports are not of the same rows and people, so a difference may come from that."
            )
            ui.html(f'<p class="t-failure" role="note">{escape(warning)}</p>', sanitize=False)


def _fact(report: Mapping[str, Any], key: str) -> str:
    value = report[key]
    return f"{value:,}" if isinstance(value, int) else str(value)


def _degrees(report: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{view} {one:.3f}" for view, one in report["matching_degree"].items() if one is not None
    )
