"""Forms that lead to an address, and questions before something is lost."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from html import escape

from nicegui import ui

from console.words import Words


def look_up_form(
    path: str,
    fields: Mapping[str, tuple[str, str]],
    button: str,
    choices: Mapping[str, tuple[str, str, Mapping[str, str]]] | None = None,
) -> None:
    """Draw a form whose answer is a page with an address of its own.

    Args:
        path: of that page.
        fields: label and value by the name of the parameter.
        button: what is on the button.
        choices: label, value and what may be chosen, by the name of the parameter.
    """
    parts = "".join(
        f'<label>{escape(label)}<input name="{name}" value="{escape(value)}" maxlength="256"></label>'
        for name, (label, value) in fields.items()
    )
    for name, (label, chosen, known) in (choices or {}).items():
        options = "".join(
            f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(said)}</option>'
            for value, said in known.items()
        )
        parts += f'<label>{escape(label)}<select name="{name}">{options}</select></label>'
    ui.html(
        f'<form class="t-look" method="get" action="{path}" role="search">{parts}'
        f'<button class="t-switch">{escape(button)}</button></form>',
        sanitize=False,
    )


def choice_form(path: str, fields: Mapping[str, tuple[str, str, Mapping[str, str]]], button: str) -> None:
    """Draw a form of choices whose answer is a page with an address of its own.

    Args:
        path: of that page.
        fields: label, value, and what is said of each value, by the name of the parameter.
        button: what is on the button.
    """
    parts = "".join(
        f'<label>{escape(label)}<select name="{name}">{_options(value, said)}</select></label>'
        for name, (label, value, said) in fields.items()
    )
    ui.html(
        f'<form class="t-look" method="get" action="{path}">{parts}'
        f'<button class="t-switch">{escape(button)}</button></form>',
        sanitize=False,
    )


def _options(chosen: str, said: Mapping[str, str]) -> str:
    return "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(text)}</option>'
        for value, text in said.items()
    )


async def confirmed(
    question: str, goes: Sequence[str], act: Callable[[], Awaitable[None]], say: Words
) -> None:
    """Ask a question that names what goes, and act where the answer is yes."""
    with ui.dialog() as dialog, ui.card():
        lines = "".join(f"<li>{escape(one)}</li>" for one in goes)
        ui.html(f'<p>{escape(question)}</p><ul class="t-goes">{lines}</ul>', sanitize=False)
        with ui.row():
            ui.button(say("Leave it"), on_click=lambda: dialog.submit(False)).props("flat no-caps autofocus")
            ui.button(say("Yes, do it"), color="negative", on_click=lambda: dialog.submit(True)).props(
                "no-caps"
            )
    if await dialog:
        await act()
