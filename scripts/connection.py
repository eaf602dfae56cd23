"""How commands say who they are to a server at an address: a token, and certificates."""

import os
from pathlib import Path
from typing import Annotated

import typer

from triptych_client import metadata_of

TOKEN_VARIABLE = "TRIPTYCH_TOKEN"  # noqa: S105  # the name of the variable

TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        help=f"File with a token, where the server wants one; else {TOKEN_VARIABLE} in the environment."
    ),
]
TlsCaOption = Annotated[Path | None, typer.Option(help="PEM root certificate; turns TLS on.")]
TlsCertOption = Annotated[
    Path | None, typer.Option(help="PEM certificate of one's own, where the server asks for one.")
]
TlsKeyOption = Annotated[Path | None, typer.Option(help="PEM private key of that.")]


def token_of(file: Path | None) -> str | None:
    """Return the token in a file or in the environment: on the command line, every user would see it.

    Raises:
        OSError: the file cannot be read.
    """
    if file is not None:
        return file.read_text("utf-8").strip()
    return os.environ.get(TOKEN_VARIABLE, "").strip() or None


def metadata_of_environment() -> tuple[tuple[str, str], ...]:
    """Return the metadata of calls that a command makes without a client: the token of the environment."""
    return metadata_of(token_of(None))
