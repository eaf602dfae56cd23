"""triptych doctor: what is missing, damaged or does not fit, and what to do about it."""

from collections.abc import Iterator

import typer
from rich.markup import escape
from rich.table import Table

from scripts.doctor.check import Check, State
from scripts.terminal import HomeOption, console
from store.home import Home

_COLOURS = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "red"}


def doctor_command(home: HomeOption) -> None:
    """Check the installation, the store, every file of a home and the running server; exit 1 if one failed.

    It repairs nothing: the last column says what to do.

    Example: triptych doctor --home demo
    """
    table = Table("check", "state", "found", "what to do")
    states = []
    for check in checks(Home(home)):
        states.append(check.state)
        coloured = f"[{_COLOURS[check.state]}]{check.state}[/]"
        table.add_row(check.name, coloured, escape(check.found), escape(check.hint))
    console().print(table)
    failed, warned = states.count(State.FAILED), states.count(State.WARNING)
    print(f"{len(states)} checks: {failed} failed, {warned} warnings")
    if failed:
        raise typer.Exit(1)


def checks(home: Home) -> Iterator[Check]:
    """Yield every check, the machine first."""
    from scripts.doctor.configuration import configuration_checks
    from scripts.doctor.files import file_checks
    from scripts.doctor.machine import machine_checks
    from scripts.doctor.store import store_checks

    yield from machine_checks(home)
    if not home.path.is_dir():
        yield Check("home", State.FAILED, f"{home.path} is no directory", "triptych import DATA --home HOME")
        return
    yield from configuration_checks(home)
    yield from store_checks(home)
    yield from file_checks(home)
