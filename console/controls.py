"""Controls of forms: each has a name that is read aloud, and tells what it became."""

from collections.abc import Callable
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
