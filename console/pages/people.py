"""The page People: what is stored of a person, who is like them, what they allow, and their erasure."""

import asyncio
import json
from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from console.forms import confirmed, look_up_form
from console.frame import Visit
from console.results import results_html
from console.tables import rows_html
from triptych_client import CallError, Consent, UserRows
from triptych_client.pb.v1 import triptych_pb2 as pb

_ROWS_SHOWN = 50
_LIKE = 10
_PAGE = "/people"
_MADE_OF_THEM = ("models", "indexes")  # may outlive what is stored

Stored = Mapping[str, UserRows]


async def show_people(visit: Visit) -> None:
    """Draw the page.  Raises: CallError."""
    say, user_id = visit.say, visit.parameters.get("user", "").strip()
    ui.html(f"<h1>{say('People')}</h1>", sanitize=False)
    look_up_form(_PAGE, {"user": (say("Person, by id"), user_id)}, say("Look"))
    if not user_id:
        visit.note(say("Name a person by id."))
        return
    page = _Person(visit, user_id)
    like, profile, stored = await asyncio.gather(page.like(), page.profile(), page.stored())
    known = stored is None or any(part.total for table, part in stored.items() if table not in _MADE_OF_THEM)
    if not known:
        visit.note(say("Nothing is stored of {user}.", user=user_id))
    asked = urlencode({"user": user_id})
    links = [f'<a class="t-name" href="/try?{asked}">{escape(say("Their results"))}</a>']
    if visit.can.read_people:
        links.append(f'<a class="t-name" href="/map?{asked}">{escape(say("On the map"))}</a>')
    ui.html(f"<p>{' · '.join(links)}</p>", sanitize=False)
    with ui.element("div").classes("t-side"):
        _card(say("People like them"), like)
        _card(say("Interest profile"), profile)
        if stored:
            with ui.element("section").classes("t-card"):
                page.draw_stored(stored)
        if visit.can.write:
            with ui.element("section").classes("t-card"):
                page.draw_consents(stored or {})
        if visit.can.govern and stored is not None and known:
            with ui.element("section").classes("t-card"):
                page.draw_erasure(stored)


def _card(heading: str, body: str) -> None:
    with ui.element("section").classes("t-card"):
        ui.html(f"<h2>{escape(heading)}</h2>{body}", sanitize=False)


class _Person:
    """One person of one visit."""

    def __init__(self, visit: Visit, user_id: str) -> None:
        self._visit, self._user_id = visit, user_id

    async def like(self) -> str:
        """Return similar people as HTML, or why there are none."""
        try:
            reply = await self._visit.backend.client.query(
                user_id=self._user_id, k=_LIKE, target=pb.TARGET_USERS
            )
        except CallError as error:
            return self._visit.failure_html(error)
        return results_html(reply, {}, self._visit.say)

    async def profile(self) -> str:
        """Return interest categories as HTML, or why there are none."""
        say = self._visit.say
        try:
            reply = await self._visit.backend.client.predict(self._user_id)
        except CallError as error:
            if error.reason == "HEAD_NOT_FITTED":
                without = say("The model has no head for this. Train with --task.")
                return f'<p class="t-note">{escape(without)}</p>'
            return self._visit.failure_html(error)
        rows = [[name, f"{value:.1%}"] for name, value in zip(reply.categories, reply.values, strict=False)]
        return rows_html([reply.label or say("category"), say("probability")], rows)

    async def stored(self) -> Stored | None:
        """Return the first rows of what is stored, or a page of one table; None where that may not be read.

        Raises:
            CallError: the server fails.
        """
        if not self._visit.can.read_people:
            return None
        client, given = self._visit.backend.client, self._visit.parameters
        found = await client.user_rows(self._user_id, limit=_ROWS_SHOWN)
        table, offset = given.get("table", ""), _number(given.get("from", ""))
        if table in found and 0 < offset < found[table].total:
            found |= await client.user_rows(self._user_id, limit=_ROWS_SHOWN, table=table, offset=offset)
        return found

    def draw_stored(self, stored: Stored) -> None:
        """Draw what is stored, and offer it as a file."""
        say = self._visit.say
        ui.html(f"<h2>{escape(say('What is stored'))}</h2>", sanitize=False)
        given = self._visit.parameters
        for table, part in stored.items():
            asked = table == given.get("table", "")
            offset = _number(given.get("from", "")) if asked else 0
            offset = offset if offset < part.total else 0
            names = list(dict.fromkeys(name for row in part.rows for name in row))
            shown = [[_short(row.get(name)) for name in names] for row in part.rows]
            ui.html(
                f"<details{' open' if asked else ''}><summary>{escape(say(table))}: {part.total:,}</summary>"
                f"{rows_html(names, shown)}{self._pages(table, offset, part)}</details>",
                sanitize=False,
            )
        ui.button(say("Save as a file"), on_click=self._save).props("flat dense no-caps")

    def _pages(self, table: str, offset: int, part: UserRows) -> str:
        """Return which rows of a table are shown, and links to those before and after."""
        say, end = self._visit.say, offset + len(part.rows)
        if not offset and end >= part.total:
            return ""

        def link(start: int, name: str) -> str:
            asked = urlencode({"user": self._user_id, "table": table, "from": start})
            return f'<a class="t-name" href="{_PAGE}?{escape(asked)}">{escape(name)}</a>'

        rows = say("Rows {first} to {last}", first=f"{min(offset + 1, end):,}", last=f"{end:,}")
        links = [link(max(0, offset - _ROWS_SHOWN), say("Previous page"))] if offset else []
        links += [link(end, say("Next page"))] if end < part.total else []
        return f'<p class="t-note">{escape(rows)} · {" · ".join(links)}</p>'

    async def _save(self) -> None:
        """Read all that is stored, and give it to the browser as a file."""
        try:
            whole = await self._visit.backend.client.export_user(self._user_id)
        except CallError as error:
            self._visit.tell(error)
            return
        content = json.dumps(whole, ensure_ascii=False, indent=2).encode()
        ui.download.content(content, "export.json", "application/json")

    def draw_consents(self, stored: Stored) -> None:
        """Draw what the person allows, as switches that are written at once."""
        say = self._visit.say
        ui.html(f"<h2>{escape(say('Consent'))}</h2>", sanitize=False)
        known = {str(row["view"]): row for row in stored["consents"].rows} if "consents" in stored else {}
        names = {"H": say("history"), "T": say("text"), "S": say("friends")}
        for view, name in names.items():
            for field, label in (
                ("use", say("Use for their own results: {view}", view=name)),
                ("share", say("Let others' results show it: {view}", view=name)),
            ):
                value = bool(known.get(view, {}).get(field, True))
                ui.switch(label, value=value, on_change=self._consenting(view, field)).props("dense").classes(
                    "flex"
                )

    def _consenting(self, view: str, field: str) -> Any:
        async def changed(event: Any) -> None:
            said: dict[str, Any] = {field: event.value}
            try:
                await self._visit.backend.client.set_consent([Consent(self._user_id, view, **said)])
            except CallError as error:
                self._visit.tell(error)
            else:
                ui.notify(self._visit.say("Written. The next query follows it."))

        return changed

    def draw_erasure(self, stored: Stored) -> None:
        """Draw the button that erases, which asks first and names what goes."""
        say = self._visit.say
        ui.html(f"<h2>{escape(say('Erase'))}</h2>", sanitize=False)
        goes = [f"{say(table)}: {part.total:,}" for table, part in stored.items()]
        question = say("Erase all that is stored of {user}? This cannot be undone.", user=self._user_id)

        async def erase() -> None:
            try:
                done = await self._visit.backend.client.erase_user(self._user_id)
            except CallError as error:
                self._visit.tell(error)
                return
            gone = ", ".join(f"{say(name)} {count:,}" for name, count in sorted(done.removed.items()))
            models = ", ".join(done.models) or say("none")
            ui.notify(
                say("Erased: {gone}. Models trained on them: {models}.", gone=gone, models=models),
                timeout=0,
                close_button=True,
            )

        ui.button(
            say("Erase this person"), color="negative", on_click=lambda: confirmed(question, goes, erase, say)
        ).props("no-caps")


def _number(written: str) -> int:
    """Return the number that a parameter says; 0 where it says none."""
    return int(written) if written.isascii() and written.isdigit() and len(written) < 10 else 0


def _short(value: object) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"
