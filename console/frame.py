"""The frame of every page: where one is, the language, light or dark; and how failures are shown."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape

from nicegui import ui
from starlette.requests import Request

from console.backend import Abilities, Backend
from console.failures import sentence_of
from console.style import STYLE
from console.words import LANGUAGES, Words, language_of
from triptych_client import CallError

_THEMES = ("auto", "light", "dark")
_NEXT = {"auto": "light", "light": "dark", "dark": "auto"}


@dataclass(frozen=True)
class Visit:
    """One visit to a page.

    Attributes:
        backend: the server that is asked.
        say: the words of its language.
        parameters: of its address.
        can: what is offered.
        repeated: all values of each parameter, of those that stand there several times.
    """

    backend: Backend
    say: Words
    parameters: dict[str, str]
    can: Abilities
    repeated: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def failure_html(self, error: CallError | ValueError) -> str:
        """Return why something failed as HTML."""
        sentence = sentence_of(error, self.backend.config.address, self.say)
        return f'<p class="t-failure" role="alert">{escape(sentence)}</p>'

    def failure(self, error: CallError | ValueError) -> None:
        """Show why something failed, in the place where its result would be."""
        ui.html(self.failure_html(error), sanitize=False)

    def tell(self, error: CallError | ValueError) -> None:
        """Say why what a button should do was not done, until that is closed."""
        sentence = sentence_of(error, self.backend.config.address, self.say)
        ui.notify(sentence, type="negative", timeout=0, close_button=True)

    def note(self, sentence: str) -> None:
        """Say something in plain words."""
        ui.html(f'<p class="t-note">{escape(sentence)}</p>', sanitize=False)


def page_names(say: Words) -> dict[str, str]:
    """Return the pages by path, in the order in which they are offered."""
    return {
        "/": say("Overview"),
        "/try": say("Try"),
        "/map": say("Map"),
        "/people": say("People"),
        "/items": say("Items"),
        "/indexes": say("Indexes"),
        "/models": say("Models"),
        "/evaluation": say("Evaluation"),
    }


async def visit_of(backend: Backend, request: Request) -> Visit:
    """Begin a visit: read language and address, and ask what the token may do.  Raises: CallError."""
    asked = request.query_params
    repeated = {name: asked.getlist(name) for name in asked}
    return Visit(backend, words_of(request), dict(asked), await backend.abilities(), repeated)


def words_of(request: Request) -> Words:
    """Return the words of the language that was chosen, or that the browser prefers."""
    return Words(language_of(request.cookies.get("language"), request.headers.get("accept-language", "")))


@contextmanager
def frame(request: Request, say: Words, writes: bool) -> Iterator[None]:
    """Draw the frame; what the block draws is the page."""
    path, names = request.url.path, page_names(say)
    theme = request.cookies.get("theme", "auto")
    theme = theme if theme in _THEMES else "auto"
    ui.add_css(STYLE)
    ui.page_title(f"{names.get(path, 'Triptych')} · Triptych")
    ui.dark_mode({"light": False, "dark": True}.get(theme))
    ui.add_head_html(f"<script>document.documentElement.lang = '{say.language}'</script>")
    with ui.element("header").classes("t-header"):
        links = "".join(
            f'<a href="{where}"{" aria-current=page" if where == path else ""}>{escape(name)}</a>'
            for where, name in names.items()
        )
        ui.html(f'<b>Triptych</b><nav aria-label="{escape(say("Pages"))}">{links}</nav>', sanitize=False)
        with ui.element("div").classes("t-switches"):
            if not writes:
                ui.html(f'<span class="t-badge">{escape(say("read-only"))}</span>', sanitize=False)
            for code, name in LANGUAGES.items():
                if code != say.language:
                    _cookie_button(name, "language", code, code)
            looks = {"auto": say("Light or dark"), "light": say("Light"), "dark": say("Dark")}
            _cookie_button(looks[theme], "theme", _NEXT[theme], say.language)
    with ui.element("main").classes("t-main"):
        yield


def _cookie_button(text: str, name: str, value: str, language: str) -> None:
    """Draw a button that remembers a choice in the browser and shows the page again."""
    cookie = f"{name}={value}; path=/; max-age=31536000; samesite=lax"
    button = ui.element("button").classes("t-switch").props(f"type=button lang={language}")
    button.on("click", js_handler=f"() => {{ document.cookie = '{cookie}'; location.reload() }}")
    with button:
        ui.html(escape(text), sanitize=False, tag="span")
