"""Controls of forms: each has a name that is read aloud, and tells what it became."""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from nicegui import ui

_LONGEST = 10_000


def text_field(
    label: str, value: str, changed: Callable[[Any], Any], *, several: bool = False
) -> "ui.input | ui.textarea":
    """Draw a field of one line or of several; `changed` is called with its text."""
    kind = ui.textarea if several else ui.input
    field = kind(label, value=value, on_change=lambda event: changed(event.value))
    field.props(
        f"dense outlined maxlength={_LONGEST} autogrow" if several else f"dense outlined maxlength={_LONGEST}"
    )
    return field.classes("w-full q-mb-sm")


def check_boxes(
    legend: str, boxes: Mapping[str, bool], changed: Callable[[str, bool], Any], *, small: Mapping[str, str]
) -> None:
    """Draw a group of check boxes.

    Args:
        legend: the name of the group.
        boxes: whether each is checked, by its label.
        changed: called with the label and whether it is checked now.
        small: what stands behind a label.
    """
    with ui.element("fieldset").classes("t-boxes"):
        ui.html(escape(legend), sanitize=False, tag="legend")
        for label, checked in boxes.items():
            said = f"{label} ({small[label]})" if label in small else label
            ui.checkbox(
                said, value=checked, on_change=lambda event, label=label: changed(label, event.value)
            ).props("dense")


def range_fields(
    names: tuple[str, str], ends: tuple[str, str], kind: str, changed: Callable[[int, str], Any]
) -> None:
    """Draw two fields for the ends of a range.

    Args:
        names: of the fields.
        ends: what stands in them.
        kind: of the fields, number or date.
        changed: called with the number of the field and what stands in it now.
    """
    with ui.element("div").classes("t-range"):
        for place, (name, end) in enumerate(zip(names, ends, strict=True)):
            field = ui.input(
                name, value=end, on_change=lambda event, place=place: changed(place, str(event.value or ""))
            )
            field.props(f"type={kind} step=any dense outlined stack-label")


def number_slider(
    label: str, value: float, span: tuple[float, float, float], changed: Callable[[Any], Any]
) -> ui.slider:
    """Draw a slider of a span (least, greatest, step) with its value beside its name."""
    least, greatest, step = span
    head = ui.html("", sanitize=False)

    def show(number: float) -> None:
        head.content = f'<div class="t-label"><span>{escape(label)}</span><b>{number:g}</b></div>'

    def moved(event: Any) -> Any:
        show(event.value)
        return changed(event.value)

    show(value)
    slider = ui.slider(min=least, max=greatest, step=step, value=value, on_change=moved)
    return slider.props(f'dense aria-label="{escape(label)}"').classes("q-px-sm")
