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
from triptych_client import CallError, Consent
from triptych_client.pb.v1 import triptych_pb2 as pb

_ROWS_SHOWN = 50
_LIKE = 10
_PAGE = "/people"
_MADE_OF_THEM = ("models", "indexes")  # may outlive what is stored

Stored = Mapping[str, list[Mapping[str, object]]]


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
    known = stored is None or any(rows for table, rows in stored.items() if table not in _MADE_OF_THEM)
    if not known:
        visit.note(say("Nothing is stored of {user}.", user=user_id))
    asked = urlencode({"user": user_id})
    ui.html(
        f'<p><a class="t-name" href="/try?{asked}">{escape(say("Their results"))}</a></p>', sanitize=False
    )
    with ui.element("div").classes("t-side"):
        _card(say("People like them"), like)
        _card(say("Interest profile"), profile)
        if stored and any(stored.values()):
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
        """Return what is stored, rows by table; None where that may not be read.  Raises: CallError."""
        if not self._visit.can.read_people:
            return None
        return await self._visit.backend.client.export_user(self._user_id)

    def draw_stored(self, stored: Stored) -> None:
        """Draw what is stored, and offer it as a file."""
        say = self._visit.say
        ui.html(f"<h2>{escape(say('What is stored'))}</h2>", sanitize=False)
        for table, rows in stored.items():
            if not rows:
                continue
            names = list(dict.fromkeys(name for row in rows[:_ROWS_SHOWN] for name in row))
            shown = [[_short(row.get(name)) for name in names] for row in rows[:_ROWS_SHOWN]]
            more = len(rows) - len(shown)
            rest = f'<p class="t-note">{escape(say("and {count} more", count=more))}</p>' if more else ""
            ui.html(
                f"<details><summary>{escape(say(table))}: {len(rows):,}</summary>"
                f"{rows_html(names, shown)}{rest}</details>",
                sanitize=False,
            )
        content = json.dumps(stored, ensure_ascii=False, indent=2).encode()
        ui.button(
            say("Save as a file"),
            on_click=lambda: ui.download.content(content, "export.json", "application/json"),
        ).props("flat dense no-caps")

    def draw_consents(self, stored: Stored) -> None:
        """Draw what the person allows, as switches that are written at once."""
        say = self._visit.say
        ui.html(f"<h2>{escape(say('Consent'))}</h2>", sanitize=False)
        known = {str(row["view"]): row for row in stored.get("consents", [])}
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
        goes = [f"{say(table)}: {len(rows):,}" for table, rows in stored.items() if rows]
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


def _short(value: object) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"
