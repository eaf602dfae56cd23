"""The form of one setting of the page Try: weights, a search text, and a filter made of what items have."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from nicegui import ui

from console.conditions import (
    end_of,
    has_kind,
    has_value,
    may_be_asked,
    may_be_named,
    with_end,
    with_kind,
    with_value,
)
from console.controls import check_boxes, number_slider, range_fields, text_field
from console.question import MOST_RESULTS, PageSetting
from console.words import Words
from triptych_client.pb.v1 import ingest_pb2 as ingest

_MOST_BOXES, _MOST_ATTRIBUTES = 8, 12
Change = Callable[[str, Any], Any]


class SettingForm:
    """The controls of one setting.

    Check boxes and ranges write lines into the field of conditions, which says all that is asked.
    """

    def __init__(
        self,
        setting: PageSetting,
        change: Change,
        say: Words,
        catalog: ingest.ListAttributesResponse | None,
        index_ids: Sequence[str],
    ) -> None:
        """Take what is drawn.

        Args:
            setting: as it is.
            change: called with the name of a field of the setting and its new value.
            say: the words.
            catalog: kinds and attributes that there are; None where they are not told.
            index_ids: of indexes that may answer, the one that serves first.
        """
        self._kinds, self._where, self._setting = setting.kinds, setting.where, setting
        self._change, self._say = change, say
        self._catalog, self._index_ids = catalog, index_ids

    def draw(self) -> None:
        """Draw the controls."""
        say, setting = self._say, self._setting
        if len(self._index_ids) > 1:
            self._draw_index()
        number_slider(say("How many"), setting.k, (1, MOST_RESULTS, 1), self._to("k"))
        number_slider(say("Weight of history"), setting.history, (0, 2, 0.1), self._to("history"))
        number_slider(say("Weight of texts"), setting.words, (0, 2, 0.1), self._to("words"))
        number_slider(say("Weight of friends"), setting.social, (0, 2, 0.1), self._to("social"))
        number_slider(
            say("Relevance against variety (1: by score)"),
            setting.diversity,
            (0, 1, 0.05),
            self._to("diversity"),
        )
        text_field(say("Also search for this text"), setting.search, self._to("search"))
        number_slider(
            say("Weight of the search text"), setting.search_weight, (0, 1, 0.05), self._to("search_weight")
        )
        self._draw_filter()
        for name, label in {
            "seen": say("Also what they have had"),
            "why": say("Say why"),
            "exact": say("Compare every item"),
        }.items():
            ui.checkbox(
                label,
                value=getattr(setting, name),
                on_change=lambda event, name=name: self._change(name, event.value),
            ).props("dense").classes("q-mr-md")

    def _to(self, name: str) -> Callable[[Any], Any]:
        async def changed(value: Any) -> None:
            await self._change(name, value)

        return changed

    def _draw_index(self) -> None:
        """Draw the choice of the index that answers."""
        say, (serving, *others) = self._say, self._index_ids
        names = {"": say("{index} (serves)", index=serving)} | {one: one for one in others}
        chosen = self._setting.index if self._setting.index in names else ""
        select = ui.select(
            names,
            value=chosen,
            label=say("Index"),
            on_change=lambda event: self._change("index", event.value),
        )
        select.props("dense outlined options-dense").classes("w-full q-mb-sm")

    def _draw_filter(self) -> None:
        say = self._say
        with ui.element("details").props("open" if self._kinds or self._where else "").classes("t-filter"):
            ui.html(say("Filter"), sanitize=False, tag="summary")
            if self._catalog is not None:
                self._draw_kinds(self._catalog)
                for one in self._attributes(self._catalog):
                    self._draw_attribute(one)
                if self._catalog.looked_at < self._catalog.items:
                    said = say("Counted in {count} of the items.", count=f"{self._catalog.looked_at:,}")
                    ui.html(f'<p class="t-note">{escape(said)}</p>', sanitize=False)
            self._kinds_field = text_field(
                say("Kinds, with commas between"), self._kinds, self._written("kinds")
            )
            self._where_field = text_field(
                say("Conditions, one a line: year>=1999"), self._where, self._written("where"), several=True
            )

    @staticmethod
    def _attributes(catalog: ingest.ListAttributesResponse) -> list[ingest.AttributeSummary]:
        """Return the attributes that are worth a control, those that most items have first."""
        many = ingest.ATTRIBUTE_TYPE_TEXT

        def tells(one: ingest.AttributeSummary) -> bool:
            if one.type == many:  # of a name or an id each item has its own
                return any(value.items > 1 for value in one.frequent)
            return True

        return [one for one in catalog.attributes if may_be_named(one.name) and tells(one)][:_MOST_ATTRIBUTES]

    def _draw_kinds(self, catalog: ingest.ListAttributesResponse) -> None:
        kinds = [one for one in catalog.kinds if "," not in one.value and one.value.strip() == one.value]
        kinds = kinds[:_MOST_BOXES]
        if not kinds:
            return

        async def changed(kind: str, chosen: bool) -> None:
            self._kinds_field.value = with_kind(self._kinds, kind, chosen=chosen)

        check_boxes(
            self._say("Kind"),
            {one.value: has_kind(self._kinds, one.value) for one in kinds},
            changed,
            small={one.value: f"{one.items:,}" for one in kinds},
        )

    def _draw_attribute(self, one: ingest.AttributeSummary) -> None:
        if one.type in (ingest.ATTRIBUTE_TYPE_NUMBER, ingest.ATTRIBUTE_TYPE_TIME):
            self._draw_range(one)
        else:
            self._draw_values(one)

    def _draw_range(self, one: ingest.AttributeSummary) -> None:
        say, signs = self._say, (">=", "<=")
        if one.type == ingest.ATTRIBUTE_TYPE_NUMBER:
            kind, least, greatest = "number", f"{one.least:g}", f"{one.greatest:g}"
            if one.whole:
                least, greatest = f"{one.least:.0f}", f"{one.greatest:.0f}"
        else:
            kind = "date"
            least, greatest = (f"{moment.ToDatetime():%Y-%m-%d}" for moment in (one.first, one.last))

        async def changed(place: int, end: str) -> None:
            self._where_field.value = with_end(self._where, one.name, signs[place], end)

        names = (
            say("{name} from ({end})", name=one.name, end=least),
            say("{name} to ({end})", name=one.name, end=greatest),
        )
        ends = (end_of(self._where, one.name, signs[0]), end_of(self._where, one.name, signs[1]))
        range_fields(names, ends, kind, changed)

    def _draw_values(self, one: ingest.AttributeSummary) -> None:
        truth = one.type == ingest.ATTRIBUTE_TYPE_TRUTH
        values = [value for value in one.frequent if may_be_asked(value.value)][:_MOST_BOXES]

        async def changed(value: str, chosen: bool) -> None:
            self._where_field.value = with_value(self._where, one.name, value, chosen=chosen, truth=truth)

        check_boxes(
            one.name,
            {value.value: has_value(self._where, one.name, value.value, truth=truth) for value in values},
            changed,
            small={value.value: f"{value.items:,}" for value in values},
        )

    def _written(self, name: str) -> Callable[[Any], Any]:
        """Return what is called when a line changes, by hand or by a control."""

        async def changed(value: Any) -> None:
            setattr(self, f"_{name}", str(value or ""))
            await self._change(name, value)

        return changed
