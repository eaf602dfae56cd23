"""The page Models: which there are, and what training chose and measured, side by side."""

from collections.abc import Mapping, Sequence
from html import escape

from nicegui import ui

from charts import FigureTable, Interval, IntervalChart, Row, chart_html, interval_text, views_text
from console.frame import Visit
from console.tables import compared_html, date_text
from console.words import Words
from triptych_client.pb.v1 import triptych_pb2 as pb

_LISTED = 100
MOST_COMPARED = 4


async def show_models(visit: Visit) -> None:
    """Draw the page.  Raises: CallError."""
    say = visit.say
    ui.html(f"<h1>{escape(say('Models'))}</h1>", sanitize=False)
    if not visit.can.read_people:
        visit.note(say("What serves is told to tokens with the scope admin."))
        return
    models = await visit.backend.client.list_models(_LISTED)
    if not models:
        visit.note(say("There is no model yet. Run triptych train for the home."))
        return
    wanted = list(dict.fromkeys(visit.repeated.get("model", ())))
    known = {one.model_id: one for one in models if not one.damaged}
    ui.html(_list_html(models, wanted, say), sanitize=False)
    if unknown := [one for one in wanted if one not in known]:
        visit.note(say("There is no such model: {models}.", models=", ".join(unknown[:MOST_COMPARED])))
    chosen = [known[one] for one in wanted if one in known]
    if len(chosen) > MOST_COMPARED:
        visit.note(say("The first {count} are shown beside each other.", count=MOST_COMPARED))
    if chosen:
        _draw_compared(chosen[:MOST_COMPARED], visit)


def _list_html(models: Sequence[pb.ModelSummary], wanted: Sequence[str], say: Words) -> str:
    """Return the models as a form: those that are ticked come side by side."""
    names = ["", say("Model"), say("Date"), say("Serves"), say("People"), say("Items"), say("Embedding dim")]
    names += [say("Language model"), say("recall@20 when trained"), "95 %", "NDCG@20", say("Size")]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = "".join(_row_html(one, one.model_id in wanted, say) for one in models)
    table = f'<table class="t-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    button = f'<button class="t-switch q-mt-sm">{escape(say("Compare the ticked ones"))}</button>'
    scrolled = f'<div class="t-scroll" tabindex="0" role="group">{table}</div>'
    return f'<form class="t-choose" method="get" action="/models">{scrolled}{button}</form>'


def _row_html(one: pb.ModelSummary, ticked: bool, say: Words) -> str:
    name, size = escape(one.model_id), f"{one.bytes / 1e6:,.1f} MB"
    if one.damaged:
        cells = ["", name, date_text(one), say("damaged"), *["–"] * 7, size]
        return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    ticking = " checked" if ticked else ""
    box = f'<input type="checkbox" name="model" value="{name}" aria-label="{name}"{ticking}>'
    whole = _whole(one)
    cells = [
        box,
        f'<a class="t-name" href="/models?model={name}">{name}</a>',
        date_text(one),
        escape(say("yes")) if one.serving else "",
        f"{one.users:,}",
        f"{one.items:,}",
        str(one.dim),
        escape(one.text_model_id),
        f"{whole.recall:.3f}" if whole else "–",
        interval_text(_interval(whole)),
        f"{whole.ndcg:.3f}" if whole else "–",
        size,
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _draw_compared(models: Sequence[pb.ModelSummary], visit: Visit) -> None:
    """Draw facts, figures and settings of models, a column or a colour each."""
    say = visit.say
    names = [chr(ord("A") + place) for place in range(len(models))] if len(models) > 1 else [""]
    facts = _facts(models, say)
    with ui.element("section").classes("t-card q-mt-md"):
        ui.html(f"<h2>{escape(say('What they are'))}</h2>", sanitize=False)
        ui.html(compared_html(names, facts, say("differs")), sanitize=False)
    measured = [one for one in models if one.HasField("held_out")]
    with ui.element("section").classes("t-card q-mt-md"):
        if bare := ", ".join(one.model_id for one in models if not one.HasField("held_out")):
            visit.note(
                say(
                    "Training kept no figures of {models}: too little was held out, "
                    "or an earlier version made it.",
                    models=bare,
                )
            )
        if measured:
            ui.html(chart_html(_chart(models, names, say), say), sanitize=False)
            if len({(one.held_out.rows, one.held_out.users, one.export_id) for one in measured}) > 1:
                visit.note(
                    say("They were not measured on the same rows, so a difference may come from that.")
                )
    if any(one.heads for one in models):
        with ui.element("section").classes("t-card q-mt-md"):
            ui.html(f"<h2>{escape(say('Heads, measured on valid'))}</h2>", sanitize=False)
            ui.html(compared_html(names, _heads(models), say("differs")), sanitize=False)
    _draw_settings(models, names, say)


def _draw_settings(models: Sequence[pb.ModelSummary], names: Sequence[str], say: Words) -> None:
    settings = {
        name: [one.settings.get(name, "–") for one in models]
        for name in sorted({name for one in models for name in one.settings})
    }
    apart = {name: values for name, values in settings.items() if len(set(values)) > 1}
    same = {name: values for name, values in settings.items() if name not in apart}
    with ui.element("section").classes("t-card q-mt-md"):
        ui.html(f"<h2>{escape(say('Settings'))}</h2>", sanitize=False)
        if apart:
            ui.html(compared_html(names, apart, say("differs")), sanitize=False)
        elif len(models) > 1:
            ui.html(f'<p class="t-note">{escape(say("They are the same."))}</p>', sanitize=False)
        if same:
            summary = say("{count} that are the same", count=len(same)) if len(models) > 1 else say("Show")
            with ui.element("details"):
                ui.html(escape(summary), sanitize=False, tag="summary")
                ui.html(compared_html(names, same, say("differs")), sanitize=False)


def _facts(models: Sequence[pb.ModelSummary], say: Words) -> Mapping[str, Sequence[str]]:
    return {
        say("Model"): [one.model_id for one in models],
        say("Date"): [date_text(one) for one in models],
        say("Serves"): [say("yes") if one.serving else say("no") for one in models],
        say("Trained on from"): [one.started_from or "–" for one in models],
        say("Export"): [one.export_id for one in models],
        say("People"): [f"{one.users:,}" for one in models],
        say("Items"): [f"{one.items:,}" for one in models],
        say("Language model"): [one.text_model_id for one in models],
        say("Embedding dim"): [str(one.dim) for one in models],
        say("Seconds of training"): [f"{one.training_seconds:,.0f}" for one in models],
        say("Measured on"): [_measured_on(one, say) for one in models],
    }


def _measured_on(one: pb.ModelSummary, say: Words) -> str:
    if not one.HasField("held_out"):
        return "–"
    rows = {"a tenth of train": say("a tenth of train")}.get(one.held_out.rows, one.held_out.rows)
    return say("{rows}, {count} people", rows=rows, count=f"{one.held_out.users:,}")


def _chart(models: Sequence[pb.ModelSummary], names: Sequence[str], say: Words) -> IntervalChart:
    """Return recall by view on held-out rows, a colour for each model, with NDCG in the table."""
    by_view = [{one.views: one for one in model.held_out.by_view} for model in models]
    views = list(dict.fromkeys(views for each in by_view for views in each))
    rows = tuple(
        Row(views_text(one, say), tuple(_interval(each.get(one)) for each in by_view), one == "HTS")
        for one in views
    )
    columns = [f"{name} {what}".strip() for name in names for what in ("recall@20", "95 %", "NDCG@20")]
    cells = tuple((views_text(one, say), *_cells([each.get(one) for each in by_view])) for one in views)
    note = say("Recall@20 on the rows that training held out, with the 95 % interval over people.")
    heading = say("By view, when trained")
    return IntervalChart("held-out", heading, note, tuple(names), rows, (FigureTable(("", *columns), cells),))


def _cells(figures: Sequence[pb.ViewFigures | None]) -> list[str]:
    return [
        cell
        for one in figures
        for cell in (
            ("–", "–", "–")
            if one is None
            else (f"{one.recall:.3f}", interval_text(_interval(one)), f"{one.ndcg:.3f}")
        )
    ]


def _heads(models: Sequence[pb.ModelSummary]) -> dict[str, list[str]]:
    found = [
        {
            f"{head.task} {metric}": f"{value:.4f}"
            for head in one.heads
            for metric, value in head.metrics.items()
        }
        for one in models
    ]
    names = sorted({name for each in found for name in each})
    return {name: [each.get(name, "–") for each in found] for name in names}


def recall_text(one: pb.ModelSummary) -> str:
    """Return the recall of all views that training measured, with its interval."""
    whole = _whole(one)
    return f"{whole.recall:.3f} ({interval_text(_interval(whole))})" if whole else "–"


def _whole(one: pb.ModelSummary) -> pb.ViewFigures | None:
    return next((figures for figures in one.held_out.by_view if figures.views == "HTS"), None)


def _interval(figures: pb.ViewFigures | None) -> Interval | None:
    return None if figures is None else Interval(figures.recall, figures.recall_low, figures.recall_high)
