"""triptych doctor: is everything there, sound and fitting, and what to do where it is not."""

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.table import Table

from scripts.checking import Check, State
from scripts.index import wide_console
from scripts.session import HomeOption
from store.home import Home

_COLOURS = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "red"}


def doctor_command(
    home: HomeOption,
    text: Annotated[
        bool, typer.Option("--text/--no-text", help="Also load the text model and encode with it.")
    ] = True,
) -> None:
    """Check the installation, the store, every file of a home and the running server; exit 1 if one failed.

    It changes nothing.

    Example: triptych doctor --home demo
    """
    table = Table("check", "state", "found", "what to do")
    states = []
    for check in checks(Home(home), text=text):
        states.append(check.state)
        table.add_row(check.name, f"[{_COLOURS[check.state]}]{check.state}[/]", check.found, check.hint)
    wide_console().print(table)
    failed, warned = states.count(State.FAILED), states.count(State.WARNING)
    print(f"{len(states)} checks: {failed} failed, {warned} warnings")
    if failed:
        raise typer.Exit(1)


def checks(home: Home, *, text: bool) -> Iterator[Check]:
    """Yield every check, the machine first."""
    from scripts.doctor_files import file_checks
    from scripts.doctor_machine import machine_checks
    from scripts.doctor_store import store_checks

    yield from machine_checks(home)
    if not home.path.is_dir():
        yield Check("home", State.FAILED, f"{home.path} is no directory", "triptych import DATA --home HOME")
        return
    yield from store_checks(home)
    yield from file_checks(home, text=text)
