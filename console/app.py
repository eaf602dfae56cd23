"""The web page as a process: its addresses, and its start and end."""

import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from nicegui import ui
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response

from console.backend import NOTHING, Backend
from console.config import ConsoleConfig
from console.frame import Visit, frame, visit_of, words_of
from console.pages import (
    MAP_ANSWERS,
    MAP_SCRIPT,
    show_evaluation,
    show_indexes,
    show_items,
    show_map,
    show_models,
    show_overview,
    show_people,
    show_try,
)
from console.words import Words
from triptych_client import CallError, target_of

log = logging.getLogger(__name__)

Show = Callable[[Visit], Awaitable[None]]
Answer = Callable[[Request, Backend], Awaitable[Response]]
PAGES: dict[str, Show] = {
    "/": show_overview,
    "/try": show_try,
    "/map": show_map,
    "/people": show_people,
    "/items": show_items,
    "/indexes": show_indexes,
    "/models": show_models,
    "/evaluation": show_evaluation,
}
_CALLS_OF_A_PAGE = 5  # one after another, at most
_WAITING = 128  # connections
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
_ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 30 30'><path fill='#0072b2' d='M2 4h7v22H2z'/>"
    "<path fill='#e69f00' d='M11 4h8v22h-8z'/><path fill='#009e73' d='M21 4h7v22h-7z'/></svg>"
)


class OpenConsoleError(ValueError):
    """The console would give what its token may do to everybody who reaches it."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"{host} is reached from other machines, and whoever opens the page may do what its token may: "
            "put a proxy that asks who they are in front of it, or say --insecure"
        )


def run_console(config: ConsoleConfig, *, insecure: bool = False) -> None:
    """Serve the pages until the process is told to end.

    Raises:
        OpenConsoleError: other machines would reach it, and `insecure` does not allow that.
        BadAddressError, OSError, ValueError: an address, a certificate or the token cannot be used.
    """
    if config.host not in _THIS_MACHINE and not insecure:
        raise OpenConsoleError(config.host)
    target_of(config.address)
    backend, app = Backend(config), FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for path, show in PAGES.items():
        _add_page(path, show, backend)
    for path, answer in MAP_ANSWERS.items():
        _add_answer(app, path, answer, backend)
    app.add_api_route(MAP_SCRIPT, _script, response_model=None)
    if not insecure:  # a page elsewhere that gives its own name this machine's address reaches nothing
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    app.middleware("http")(_never_framed)
    ui.run_with(app, title="Triptych", favicon=_ICON, dark=None, show_welcome_message=False)
    with closing(_socket(config.host, config.port)) as listening:
        host, port = listening.getsockname()[:2]
        log.info("console on http://%s:%d for %s", f"[{host}]" if ":" in host else host, port, config.address)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])


async def _never_framed(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Forbid pages elsewhere to show one of ours within them, where a click may land on its buttons."""
    response = await answer(request)
    response.headers["content-security-policy"] = "frame-ancestors 'none'"
    response.headers["x-frame-options"] = "DENY"
    response.headers["referrer-policy"] = "same-origin"
    return response


def _add_page(path: str, show: Show, backend: Backend) -> None:
    @ui.page(path, response_timeout=_CALLS_OF_A_PAGE * backend.config.timeout)
    async def page(request: Request) -> None:
        say = words_of(request)
        with frame(request, say, writes=backend.config.write):
            await _shown(request, say, show, backend)


def _add_answer(app: FastAPI, path: str, answer: Answer, backend: Backend) -> None:
    async def answered(request: Request) -> Response:
        return await answer(request, backend)

    app.add_api_route(path, answered, response_model=None)


async def _script() -> Response:
    """Return what draws the map in the browser."""
    return Response(_map_js(), media_type="text/javascript")


@cache
def _map_js() -> bytes:
    return (Path(__file__).parent / "map.js").read_bytes()


async def _shown(request: Request, say: Words, show: Show, backend: Backend) -> None:
    """Draw a page, or why it cannot be drawn."""
    try:
        visit = await visit_of(backend, request)
    except CallError as error:
        Visit(backend, say, {}, NOTHING).failure(error)
        return
    try:
        await show(visit)
    except CallError as error:
        visit.failure(error)


def _socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens.  Raises: OSError, which names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_WAITING)  # who comes as soon as the log says where is served, too
    except OSError as error:
        listening.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listening
