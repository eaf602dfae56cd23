"""The page Items: found by id, title or kind; one as it is stored, what is like it, and who should see it."""

import asyncio
import json
from html import escape
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from console.forms import confirmed, look_up_form
from console.frame import Visit
from console.results import names_in, results_html
from console.tables import facts_html, rows_html
from triptych_client import CallError, Item
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import triptych_pb2 as pb

_PAGE_ROWS = 50
_LIKE = 10
_PAGE = "/items"


async def show_items(visit: Visit) -> None:
    """Draw the page.  Raises: CallError."""
    say, given = visit.say, visit.parameters
    ui.html(f"<h1>{say('Items')}</h1>", sanitize=False)
    item_id = given.get("item", "").strip()
    if not visit.can.query:
        visit.note(say("Items are told to tokens with the scope query."))
        return
    look_up_form(
        _PAGE,
        {
            "contains": (say("Id or title contains"), given.get("contains", "")),
            "kind": (say("Kind"), given.get("kind", "")),
        },
        say("Find"),
    )
    if visit.can.write and not item_id:
        ui.html(
            f'<p><a class="t-name" href="{_PAGE}?new=1">{escape(say("Put a new item"))}</a></p>',
            sanitize=False,
        )
    if given.get("new") == "1" and visit.can.write:
        _draw_form(visit, ingest.ItemRow())
    elif item_id:
        await _show_one(visit, item_id)
    else:
        await _show_list(visit)


async def _show_list(visit: Visit) -> None:
    """Draw a page of items, and the way to the next one."""
    say, given = visit.say, visit.parameters
    kind = given.get("kind", "").strip()
    found = await visit.backend.client.find_items(
        contains=given.get("contains", "").strip(),
        kinds=[kind] if kind else [],
        after=given.get("after", ""),
        limit=_PAGE_ROWS,
        brief=True,
    )
    if not found.items:
        visit.note(say("No item is found."))
        return
    rows = [[row.item_id, row.title, row.kind, _availability(row, visit)] for row in found.items]
    links = {row.item_id: f"{_PAGE}?{urlencode({'item': row.item_id})}" for row in found.items}
    ui.html(rows_html([say("Id"), say("Title"), say("Kind"), say("Available")], rows, links), sanitize=False)
    if found.more:
        asked = {name: given[name] for name in ("contains", "kind") if given.get(name)}
        next_page = urlencode(asked | {"after": found.items[-1].item_id})
        ui.html(
            f'<p><a class="t-name" href="{_PAGE}?{escape(next_page)}">{escape(say("Next page"))}</a></p>',
            sanitize=False,
        )


async def _show_one(visit: Visit, item_id: str) -> None:
    """Draw one item, what is like it and its audience."""
    say = visit.say
    found, like, audience = await asyncio.gather(
        visit.backend.client.find_items([item_id]),
        _results(visit, item_id, pb.TARGET_ITEMS),
        _results(visit, item_id, pb.TARGET_USERS),
    )
    if not found.items:
        visit.note(say("There is no item {item}.", item=item_id))
        return
    row = found.items[0]
    with ui.element("div").classes("t-side"):
        with ui.element("section").classes("t-card"):
            facts = {
                say("Id"): row.item_id,
                say("Title"): row.title or "–",
                say("Kind"): row.kind or "–",
                say("Available"): _availability(row, visit),
                say("Written"): row.updated_at.ToJsonString() if row.HasField("updated_at") else "–",
                **_attributes(row),
            }
            text = f'<p class="t-long">{escape(row.text)}</p>' if row.text else ""
            ui.html(f"<h2>{escape(row.title or row.item_id)}</h2>{facts_html(facts)}{text}", sanitize=False)
        for heading, body in ((say("Items like it"), like), (say("Its audience"), audience)):
            with ui.element("section").classes("t-card"):
                ui.html(f"<h2>{escape(heading)}</h2>{body}", sanitize=False)
    if visit.can.write:
        _draw_form(visit, row)


async def _results(visit: Visit, item_id: str, target: "pb.Target.ValueType") -> str:
    """Return what is nearest to an item as HTML, or why there is nothing."""
    try:
        reply = await visit.backend.client.query(item_id=item_id, k=_LIKE, target=target)
        titles = await visit.backend.titles(names_in(reply))
    except CallError as error:
        return visit.failure_html(error)
    return results_html(reply, titles, visit.say)


def _draw_form(visit: Visit, row: ingest.ItemRow) -> None:
    """Draw the form that puts an item, and the button that deletes it."""
    say, known = visit.say, bool(row.item_id)
    with ui.element("section").classes("t-card q-mt-md"):
        ui.html(f"<h2>{escape(say('Change it') if known else say('A new item'))}</h2>", sanitize=False)
        fields = {
            "item_id": ui.input(say("Id"), value=row.item_id).props("dense outlined maxlength=256"),
            "title": ui.input(say("Title"), value=row.title).props("dense outlined maxlength=10000"),
            "kind": ui.input(say("Kind"), value=row.kind).props("dense outlined maxlength=1000"),
            "text": ui.textarea(say("Text"), value=row.text).props(
                "dense outlined autogrow maxlength=100000"
            ),
            "attributes": ui.textarea(say("Attributes, a JSON object"), value=row.attributes or "{}").props(
                "dense outlined autogrow"
            ),
        }
        for field in fields.values():
            field.classes("w-full q-mb-sm")
        fields["item_id"].set_enabled(not known)
        visit.note(say("The item is replaced whole; a vector that was brought with it is lost."))

        async def put() -> None:
            try:
                await visit.backend.client.put_items(
                    [_item({name: one.value for name, one in fields.items()})]
                )
            except (CallError, ValueError) as error:
                visit.tell(error)
                return
            ui.navigate.to(f"{_PAGE}?{urlencode({'item': fields['item_id'].value})}")

        async def delete() -> None:
            try:
                await visit.backend.client.delete_items([row.item_id])
            except CallError as error:
                visit.tell(error)
                return
            ui.navigate.to(_PAGE)

        ui.button(say("Put"), on_click=put).props("no-caps")
        if known:
            question = say("Delete this item? It is emptied and found by nobody.")
            goes = [row.item_id, *([row.title] if row.title else [])]
            ui.button(
                say("Delete"), color="negative", on_click=lambda: confirmed(question, goes, delete, say)
            ).props("no-caps").classes("q-ml-sm")


def _item(written: dict[str, Any]) -> Item:
    """Return the item that a form names.  Raises: ValueError."""
    attributes = json.loads(written["attributes"] or "{}")
    if not isinstance(attributes, dict):
        raise ValueError('the attributes are no JSON object, such as {"year": 1999}')
    return Item(
        written["item_id"].strip(),
        title=written["title"] or None,
        text=written["text"] or None,
        kind=written["kind"] or None,
        attributes=attributes,
    )


def _attributes(row: ingest.ItemRow) -> dict[str, str]:
    """Return the attributes of an item as texts; as they are written where they are no JSON object."""
    try:
        attributes = json.loads(row.attributes or "{}")
        return {str(name): json.dumps(value, ensure_ascii=False) for name, value in attributes.items()}
    except (ValueError, AttributeError):
        return {"attributes": row.attributes}


def _availability(row: ingest.ItemRow, visit: Visit) -> str:
    return visit.say("yes") if row.available else visit.say("no")
