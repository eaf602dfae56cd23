"""The page Try: a subject, one setting or two, and their results side by side."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nicegui import ui

from console.controls import text_field
from console.frame import Visit
from console.question import SUBJECTS, PageQuestion, PageSetting
from console.results import legend_html, names_in, results_html, summary_of
from console.setting_form import Change, SettingForm
from triptych_client import CallError
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import triptych_pb2 as pb

_PAUSE_SECONDS = 0.15  # after the last keystroke


async def show_try(visit: Visit) -> None:
    """Draw the page of the address, and answer it."""
    catalog, index_ids = await asyncio.gather(_catalog(visit), _indexes(visit))
    page = _TryPage(visit, PageQuestion.of_address(visit.parameters), catalog, index_ids)
    page.draw()
    await page.answer()


async def _catalog(visit: Visit) -> ingest.ListAttributesResponse | None:
    """Return the attributes that there are; None where they are not told: lines are written by hand."""
    try:
        return await visit.backend.catalog()
    except CallError:
        return None


async def _indexes(visit: Visit) -> list[str]:
    """Return the ids of the indexes that may answer, the one that serves first; none where not told."""
    if not visit.can.read_people:
        return []
    try:
        indexes = await visit.backend.client.list_indexes()
    except CallError:
        return []
    serving = [one.index_id for one in indexes if one.serving]
    here = [one for one in indexes if one.location != pb.INDEX_LOCATION_BUCKET]
    return serving + [one.index_id for one in here if not (one.serving or one.damaged)] if serving else []


class _TryPage:
    """The page of one visitor: its question, and where the answers go."""

    def __init__(
        self,
        visit: Visit,
        question: PageQuestion,
        catalog: ingest.ListAttributesResponse | None,
        index_ids: list[str],
    ) -> None:
        self._visit, self._question, self._turn = visit, question, 0
        self._catalog, self._index_ids = catalog, index_ids

    def draw(self) -> None:
        say = self._visit.say
        ui.html(f"<h1>{say('Try a query')}</h1>", sanitize=False)
        with ui.element("div").classes("t-two"):
            self._form = ui.element("form").classes("t-card").props(f'aria-label="{say("Question")}"')
            self._form.on("submit.prevent", self._changed)
            self._answers = ui.element("section").props(
                'aria-live=polite aria-label="' + say("Results") + '"'
            )
        self._draw_form()

    def _draw_form(self) -> None:
        say = self._visit.say
        self._form.clear()
        with self._form:
            names = (say("Stored person"), say("Anonymous person"), say("Item"), say("Text"))
            ui.radio(
                dict(zip(SUBJECTS, names, strict=True)), value=self._question.subject.who, on_change=self._who
            ).props("dense")
            self._draw_subject()
            with ui.element("details").props("open").classes("t-settings"):
                ui.html(say("Setting"), sanitize=False, tag="summary")
                self._draw_settings()

    def _draw_settings(self) -> None:
        say = self._visit.say
        self._draw_setting(self._question.setting, self._set)
        ui.checkbox(
            say("Compare with a second setting"),
            value=self._question.other is not None,
            on_change=self._compare,
        ).props("dense").classes("q-mt-sm")
        if self._question.other is not None:
            ui.html(f"<h2>{say('Second setting')}</h2>", sanitize=False)
            self._draw_setting(self._question.other, self._set_other)

    def _draw_subject(self) -> None:
        say, subject = self._visit.say, self._question.subject
        fields = {
            "user": {"user": say("Person, by id")},
            "item": {"item": say("Item, by id")},
            "text": {"text": say("Text")},
            "anonymous": {
                "events": say("Items of the history, an id a line"),
                "texts": say("Texts that they wrote, one a line"),
                "friends": say("Friends, an id a line"),
            },
        }
        for name, label in fields[subject.who].items():
            several = subject.who in ("anonymous", "text")
            text_field(label, getattr(subject, name), self._setter_of_subject(name), several=several)

    def _setter_of_subject(self, name: str) -> Callable[[Any], Any]:
        async def changed(value: Any) -> None:
            new: dict[str, Any] = {name: str(value or "")}
            self._question = replace(self._question, subject=replace(self._question.subject, **new))
            await self._changed()

        return changed

    def _draw_setting(self, setting: PageSetting, change: Change) -> None:
        SettingForm(setting, change, self._visit.say, self._catalog, self._index_ids).draw()

    async def _who(self, event: Any) -> None:
        self._question = replace(self._question, subject=replace(self._question.subject, who=event.value))
        self._draw_form()
        await self._changed()

    async def _compare(self, event: Any) -> None:
        self._question = replace(self._question, other=self._question.setting if event.value else None)
        self._draw_form()
        await self._changed()

    async def _set(self, name: str, value: Any) -> None:
        self._question = replace(self._question, setting=_with(self._question.setting, name, value))
        await self._changed()

    async def _set_other(self, name: str, value: Any) -> None:
        if self._question.other is not None:
            self._question = replace(self._question, other=_with(self._question.other, name, value))
            await self._changed()

    async def _changed(self) -> None:
        """Answer the question as it is now, unless it changes again at once."""
        self._turn += 1
        turn = self._turn
        await asyncio.sleep(_PAUSE_SECONDS)
        if turn == self._turn:
            with self._answers:  # the control that has changed may be gone: the form is drawn anew
                ui.navigate.history.replace(self._question.address())
                await self.answer()

    async def answer(self) -> None:
        """Ask the server, and show the answers; those of a question that has changed are dropped."""
        turn, say = self._turn, self._visit.say
        settings = [one for one in (self._question.setting, self._question.other) if one is not None]
        shown: list[tuple[str, str] | CallError | ValueError] = []
        if not self._question.subject.is_empty:
            shown = await asyncio.gather(*(self._ask(setting) for setting in settings))
        if turn != self._turn:
            return
        self._answers.clear()
        with self._answers:
            if not shown:
                self._visit.note(
                    say("Name a person, an item or a text on the form: the answer follows at once.")
                )
                return
            ui.html(legend_html(say), sanitize=False)
            with ui.element("div").classes("t-side" + (" t-single" if len(shown) == 1 else "")):
                for place, one in enumerate(shown):
                    with ui.element("div").classes("t-card").props(f"data-setting={place + 1}"):
                        if len(shown) == 2:
                            ui.html(
                                f"<h2>{(say('First setting'), say('Second setting'))[place]}</h2>",
                                sanitize=False,
                            )
                        if isinstance(one, CallError | ValueError):
                            self._visit.failure(one)
                        else:
                            summary, listed = one
                            self._visit.note(summary)
                            ui.html(listed, sanitize=False)

    async def _ask(self, setting: PageSetting) -> tuple[str, str] | CallError | ValueError:
        """Return a summary of the answer and its results, or why there is none."""
        visit, backend = self._visit, self._visit.backend
        try:
            fields = setting.query_fields(backend.config.read_filter)
            fields.update(self._question.subject.query_fields())
            if setting.index and setting.index != next(iter(self._index_ids), ""):
                reply = await backend.client.query_index(setting.index, **fields)
            else:
                reply = await backend.client.query(**fields)
            titles = await backend.titles(names_in(reply))
        except (CallError, ValueError) as error:
            return error
        summary = summary_of(reply, visit.say)
        if len(self._index_ids) > 1:
            summary += " " + visit.say("Index {index}.", index=reply.index_id)
        return summary, results_html(reply, titles, visit.say)


def _with(setting: PageSetting, name: str, value: Any) -> PageSetting:
    """Return a setting with another value of one field; an emptied one is as by default."""
    kind = type(getattr(setting, name))
    new: dict[str, Any] = {name: getattr(PageSetting(), name) if value is None else kind(value)}
    return replace(setting, **new).within_bounds()
