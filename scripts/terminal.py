"""What commands share of the command line: options, the console, the log, and files with figures."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from store.objects import LiveStoreElsewhereError, url_of

if TYPE_CHECKING:
    from encoder.jobs import Jobs


def on_disk(path: Path | None) -> Path | None:
    """Refuse the URL of a home in object storage where a command needs the live store."""
    if path is not None and (url := url_of(path)):
        raise typer.BadParameter(str(LiveStoreElsewhereError(url)))
    return path


HomeOption = Annotated[
    Path,
    typer.Option(
        "--home", envvar="TRIPTYCH_HOME", help="The home directory.", show_default=False, callback=on_disk
    ),
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
JobsOption = Annotated[
    str,
    typer.Option(
        "--jobs",
        metavar="N|auto",
        help="Processes of one thread each; auto: one per processor. 1 works in this process, with threads.",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="auto|ADDRESS",
        help="Work on a Ray cluster, which sees the home (or --cache) at the same path; auto: "
        "the one of this machine.",
    ),
]

_PIPE_COLUMNS = 400
MOST_JOBS = 1_024


@contextmanager
def workers(jobs: str, ray: str | None) -> "Iterator[Jobs]":
    """Yield the workers that `--jobs` and `--ray` ask for.

    Raises:
        typer.BadParameter: jobs is neither a number from 1 on nor auto, or both options are given.
        RayMissingError, NoClusterError: there is no Ray, or no cluster.
    """
    from encoder.jobs import open_jobs, usable_processors

    if ray is not None and jobs != "1":
        raise typer.BadParameter("--ray and --jobs exclude each other: a cluster knows its processors")
    if jobs != "auto" and not (jobs.isascii() and jobs.isdigit() and 1 <= int(jobs) <= MOST_JOBS):
        raise typer.BadParameter(
            f"{jobs!r} is neither auto nor a number from 1 to {MOST_JOBS}", param_hint="--jobs"
        )
    with open_jobs(usable_processors() if jobs == "auto" else int(jobs), ray) as opened:
        yield opened


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write figures or settings to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    draft.replace(path)


def console(*, record: bool = False) -> Console:
    """Return a console that is wide in a pipe, so that nothing is cut off."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS, record=record)


def set_up_logging(*, verbose: bool) -> None:
    """Send the log to stderr: plain lines, short on a terminal, with times in a pipe."""
    plain = "%(message)s" if sys.stderr.isatty() else "%(asctime)s %(message)s"
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, format=plain, stream=sys.stderr)
    for noisy in (
        "httpx",
        "huggingface_hub",
        "urllib3",
        "faiss.loader",
        "matplotlib",
        "transformers",
        "sentence_transformers",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
