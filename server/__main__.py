"""python -m server --home H: the gRPC server; `triptych serve` is the same command."""

import inspect
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from server.config import Option, options

_HomeOption = Annotated[
    str | None,
    typer.Option(
        envvar="TRIPTYCH_HOME",
        help="The home directory; of a read replica also the URL of a home in object storage, s3://bucket/home.",
        show_default=False,
    ),
]
_HomesOption = Annotated[
    Path | None,
    typer.Option(
        help="In its place: a folder of folders, each the home of the tenant of its name; tokens say whose."
    ),
]
_ConfigOption = Annotated[
    Path | None,
    typer.Option(help="Settings, docs/configuration.md; by default triptych.toml in the home."),
]


def serve_command(home: str | None, homes: Path | None, config: Path | None, **flags: Any) -> None:
    """Serve queries over gRPC until SIGTERM.

    Health turns SERVING once model and index are loaded. SIGHUP reads the settings again. Where there are
    tokens (triptych token create), a call needs one. Commands on this machine with the same home use a unix
    socket, which only the server's user may open, without TLS and token.

    Example: triptych serve --home demo --port 50051
    Example: triptych serve --read-only --home s3://bucket/home --state-url valkey://host:6379/home
    """
    # One thread a call: calls run side by side, and FAISS reads this only from the environment.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from server.processes import serve_with_processes  # noqa: PLC0415
    from server.rereading import Rereading  # noqa: PLC0415
    from server.settings import SettingsSource  # noqa: PLC0415
    from server.telemetry import log_as  # noqa: PLC0415

    if homes is None and home is None:
        raise typer.BadParameter("name the home directory by --home or TRIPTYCH_HOME, or --homes")
    given = {name: value for name, value in flags.items() if value is not None}
    folder = homes or _folder_of(str(home), given)
    source = SettingsSource(folder, config, given, with_tenants=homes is not None)
    settings = Rereading(source.load(), source.load)
    log_as(settings.config.log_format)
    if settings.config.state is not None:
        settings.config.state.check_files()
    if settings.config.read_only and homes is not None:
        raise typer.BadParameter("a read replica answers for one home: --home in the place of --homes")
    if settings.config.processes > 1 or settings.config.read_only:
        serve_with_processes(settings)
        return
    # The parent of several processes need not load these.
    from encoder.jobs import leave_pandas_out  # noqa: PLC0415
    from server.app import serve  # noqa: PLC0415

    leave_pandas_out()
    serve(settings)


def _folder_of(home: str, given: dict[str, Any]) -> Path:
    """Return the directory of a home; of one in object storage the folder of a read replica's copy."""
    from store.objects import LiveStoreElsewhereError, cache_folder, in_object_storage  # noqa: PLC0415

    if not in_object_storage(home):
        return Path(home)
    if not (given.get("read_only") or os.environ.get("TRIPTYCH_READ_ONLY", "").lower() in ("1", "true")):
        raise typer.BadParameter(
            f"{LiveStoreElsewhereError(home)}; a read replica answers queries of it: --read-only"
        )
    folder = Path(given.get("cache") or os.environ.get("TRIPTYCH_CACHE") or cache_folder())
    folder.mkdir(parents=True, exist_ok=True)
    given["artifacts"], given["cache"] = home, folder
    return folder


def _flag(one: Option) -> inspect.Parameter:
    """Return the flag of an option; unset it is None, so that a file or the environment may set it."""
    number = one.kind in (int, float) and not one.words
    metavar = "|".join((*one.words,) if one.kind is str else ("N", *one.words)) if one.words else None
    info = typer.Option(
        help=f"{one.meaning[0].upper()}{one.meaning[1:]}.",
        show_default=False if one.default is None else str(one.default).lower(),
        min=one.least if number else None,
        max=one.most if number else None,
        metavar=metavar,
    )
    kind: Any = str if one.words else one.kind
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _parameters() -> list[inspect.Parameter]:
    return [
        inspect.Parameter("home", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_HomeOption),
        inspect.Parameter("homes", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_HomesOption),
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_ConfigOption),
        *(_flag(one) for one in options()),
    ]


# Where typer looks for the flags of a command.
serve_command.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]


def _errors_of_a_line() -> tuple[type[Exception], ...]:
    """Return the errors that say in a line what is wrong; DuckDB's where it is loaded: no parent loads it."""
    duckdb = sys.modules.get("duckdb")
    return ValueError, LookupError, OSError, RuntimeError, *(() if duckdb is None else (duckdb.Error,))


def main() -> None:
    """Run the server: exit code 0, 1 with a one-line reason on stderr, or 2 for a usage error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    try:
        typer.run(serve_command)
    except _errors_of_a_line() as error:
        print(f"server: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
