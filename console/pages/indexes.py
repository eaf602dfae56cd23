"""The page Indexes: which there are, from which models, and which serves; publishing one and rolling back."""

from collections.abc import Mapping, Sequence
from html import escape

from nicegui import ui

from console.forms import confirmed
from console.frame import Visit
from console.pages.models import recall_text
from console.tables import rows_html
from console.words import Words
from triptych_client import CallError
from triptych_client.pb.v1 import triptych_pb2 as pb

_MODELS = 1_000  # whose figures are looked for


async def show_indexes(visit: Visit) -> None:
    """Draw the page.  Raises: CallError."""
    say = visit.say
    ui.html(f"<h1>{escape(say('Indexes and models'))}</h1>", sanitize=False)
    if not visit.can.read_people:
        visit.note(say("What serves is told to tokens with the scope admin."))
        return
    indexes = await visit.backend.client.list_indexes()
    if not indexes:
        visit.note(say("There is no index yet. Run triptych train and triptych reindex for the home."))
        return
    if any(one.location == pb.INDEX_LOCATION_UNKNOWN for one in indexes):
        visit.note(say("The bucket cannot be reached: these are on the disk of the server."))
    ui.html(index_table(indexes, say), sanitize=False)
    if visit.can.govern:
        models = {one.model_id: one for one in await visit.backend.client.list_models(_MODELS)}
        _draw_changes(visit, indexes, models)


def index_table(indexes: Sequence[pb.IndexSummary], say: Words) -> str:
    """Return the indexes as a table; where artifacts belong in a bucket, with the place of each."""
    names = [say("Index"), say("Serves"), say("Model"), say("Factory"), say("Items"), say("Changes")]
    names += [say("Embedding dim"), say("ANN recall"), say("Size")]
    if any(one.location != pb.INDEX_LOCATION_DISK for one in indexes):
        names.append(say("Where"))
    return rows_html(names, [_row(one, say)[: len(names)] for one in indexes])


def _row(one: pb.IndexSummary, say: Words) -> list[str]:
    if one.damaged:
        return [one.index_id, say("damaged"), *["–"] * 6, f"{one.bytes / 1e6:,.1f} MB", _where(one, say)]
    recall = f"{one.ann_recall:.3f}" if one.HasField("ann_recall") else "–"
    counts = [f"{one.items:,}", f"{one.changes:,}", str(one.dim), recall, f"{one.bytes / 1e6:,.1f} MB"]
    serves = say("yes") if one.serving else ""
    return [one.index_id, serves, one.model_id, one.factory, *counts, _where(one, say)]


def _where(one: pb.IndexSummary, say: Words) -> str:
    """Return where the files of an index are."""
    return {
        pb.INDEX_LOCATION_DISK: say("server"),
        pb.INDEX_LOCATION_BUCKET: say("bucket"),
        pb.INDEX_LOCATION_BOTH: say("server and bucket"),
        pb.INDEX_LOCATION_UNKNOWN: say("server"),
    }.get(one.location, "")


def changes_of(
    now: pb.IndexSummary, to: pb.IndexSummary, models: Mapping[str, pb.ModelSummary], say: Words
) -> list[str]:
    """Return what changes where one index serves in place of another, with the figures of other models."""
    facts = {
        say("Index"): (now.index_id or "–", to.index_id),
        say("Model"): (now.model_id or "–", to.model_id),
        say("Items"): (f"{now.items:,}", f"{to.items:,}"),
    }
    if now.model_id != to.model_id:
        of_now, of_to = (models.get(one.model_id, pb.ModelSummary()) for one in (now, to))
        facts[say("recall@20 when trained")] = (recall_text(of_now), recall_text(of_to))
        facts[say("Language model")] = (of_now.text_model_id or "–", of_to.text_model_id or "–")
    if now.dim != to.dim:
        facts[say("Embedding dim")] = (f"{now.dim}", f"{to.dim}")
    return [f"{name}: {before} → {after}" for name, (before, after) in facts.items()]


def _draw_changes(
    visit: Visit, indexes: list[pb.IndexSummary], models: Mapping[str, pb.ModelSummary]
) -> None:
    """Draw a choice of the index to publish, and the way back; each asks first and says what changes."""
    say = visit.say
    serving = next((one for one in indexes if one.serving), pb.IndexSummary())
    others = {one.index_id: one for one in indexes if not (one.serving or one.damaged)}
    shared = any(one.location in (pb.INDEX_LOCATION_BUCKET, pb.INDEX_LOCATION_BOTH) for one in indexes)
    there = [one for one in others.values() if not shared or one.location != pb.INDEX_LOCATION_DISK]
    older = [one.index_id for one in there if serving.index_id and one.index_id < serving.index_id]

    async def publish(index_id: str) -> None:
        try:
            await visit.backend.client.publish_index(index_id)
        except CallError as error:
            visit.tell(error)
            return
        ui.navigate.to("/indexes")

    async def roll_back() -> None:
        try:
            await visit.backend.client.rollback_index()
        except CallError as error:
            visit.tell(error)
            return
        ui.navigate.to("/indexes")

    if not others:
        visit.note(say("There is no other index to publish."))
        return
    with ui.element("section").classes("t-card q-mt-md"):
        choice = ui.select(list(others), value=next(iter(others)), label=say("Index to publish"))
        choice.props("dense outlined").classes("w-full q-mb-sm")

        async def ask_to_publish() -> None:
            index_id = str(choice.value)
            goes = changes_of(serving, others[index_id], models, say)
            await confirmed(say("Publish this index?"), goes, lambda: publish(index_id), say)

        ui.button(say("Publish"), on_click=ask_to_publish).props("no-caps")
        if older:
            goes = changes_of(serving, others[max(older)], models, say)
            ui.button(
                say("Roll back"),
                on_click=lambda: confirmed(say("Go back to the index before?"), goes, roll_back, say),
            ).props("no-caps outline").classes("q-ml-sm")
