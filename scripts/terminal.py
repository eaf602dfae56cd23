"""What commands share of the command line: options, the console, the log, and files with figures."""

import json
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console


def on_disk(path: Path) -> Path:
    """Refuse the URL of a home in object storage where a command needs a directory."""
    if re.match(r"\w+:/", str(path)):
        raise typer.BadParameter("this command needs the directory that holds the live store, not a URL")
    return path


HomeOption = Annotated[
    Path,
    typer.Option(
        "--home", envvar="TRIPTYCH_HOME", help="The home directory.", show_default=False, callback=on_disk
    ),
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]

_PIPE_COLUMNS = 400


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
