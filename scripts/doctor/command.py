"""triptych doctor: what is missing, damaged or does not fit, and what to do about it."""

from collections.abc import Iterator
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from scripts.artifacts import CacheOption, PlaceOption
from scripts.doctor.check import Check, State
from scripts.terminal import console
from store.home import Home
from store.objects import in_object_storage

_COLOURS = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "red"}


def doctor_command(home: PlaceOption, cache: CacheOption = None) -> None:
    """Check the installation, the store, every file of a home and the running server; exit 1 if one failed.

    It repairs nothing: the last column says what to do. Of s3://bucket/home, each artifact is compared with
    the checksums that were noted there; the latest model and the index that serves are fetched and loaded.

    Example: triptych doctor --home demo
    Example: triptych doctor --home s3://bucket/demo
    """
    table = Table("check", "state", "found", "what to do")
    states = []
    for check in _checks_of(home, cache):
        states.append(check.state)
        coloured = f"[{_COLOURS[check.state]}]{check.state}[/]"
        table.add_row(check.name, coloured, escape(check.found), escape(check.hint))
    console().print(table)
    failed, warned = states.count(State.FAILED), states.count(State.WARNING)
    print(f"{len(states)} checks: {failed} failed, {warned} warnings")
    if failed:
        raise typer.Exit(1)


def _checks_of(named: str, cache: Path | None) -> Iterator[Check]:
    from scripts.doctor.bucket import bucket_checks

    return bucket_checks(named, cache) if in_object_storage(named) else checks(Home(Path(named)))


def checks(home: Home) -> Iterator[Check]:
    """Yield every check of a home in its directory, the machine first."""
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
