"""What every command needs: the home option, an export, the language model, a running server."""

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console

from server.pb.triptych.v1 import triptych_pb2 as pb
from server.pb.triptych.v1 import triptych_pb2_grpc as rpc
from store.artifact import DamagedArtifactError
from store.duck import Store
from store.erasing import erasures
from store.export import Export
from store.exporting import create_export
from store.home import Home
from store.ledger import write_ledger

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="TRIPTYCH_HOME", help="The home directory.", show_default=False)
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]

_CALL_SECONDS = 600.0
_CONNECT_SECONDS = 5.0
_PIPE_COLUMNS = 400


class ServerOwnsStoreError(OSError):
    """A command wants to write a store that a running server owns."""

    def __init__(self, home: Home, address: str) -> None:
        super().__init__(
            f"a server on {address} owns {home.database}: stop it first (only import goes through a server)"
        )


class NoSuchHomeError(FileNotFoundError):
    """A command that reads a home was given a directory that holds none."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is no Triptych home (it has no views.duckdb): run `triptych import`")


def shared_text_models() -> Path:
    """Return the folder of this user in which exported language models lie for all homes."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "triptych" / "text_models"


def existing(path: Path) -> Home:
    """Return a home that something was imported into.  Raises: NoSuchHomeError."""
    home = Home(path)
    if not home.database.exists():
        raise NoSuchHomeError(path)
    return home


def server_of(home: Home) -> str | None:
    """Return the address by which commands on this machine reach the server that runs on a home, or None.

    A server.json that a killed server left behind counts as none, also when its process id is in use again.

    Raises:
        DamagedArtifactError: server.json is not what a server writes.
    """
    try:
        said = json.loads(home.server_file.read_text("utf-8"))
        with suppress(PermissionError):  # somebody else's process, but one that runs
            os.kill(said["pid"], 0)
        host, _, port = said["local"].rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (ValueError, KeyError, TypeError) as error:
        reason = "is damaged: remove it if no server runs on this home"
        raise DamagedArtifactError(home.server_file, reason) from error
    except (FileNotFoundError, ProcessLookupError, ConnectionError, TimeoutError):
        return None
    return str(said["local"])


@contextmanager
def admin(address: str) -> Iterator[rpc.AdminStub]:
    """Yield a stub for the Admin service of a server on this machine, by its `server_of` address."""
    with grpc.insecure_channel(address) as channel:
        yield rpc.AdminStub(channel)


@contextmanager
def own_store(home: Home) -> Iterator[Store]:
    """Yield the store for writing.  Raises: ServerOwnsStoreError, and what Store.open raises."""
    address = server_of(home)
    if address is not None:
        raise ServerOwnsStoreError(home, address)
    with Store.open(home.database) as store:
        yield store


def fresh_export(home: Home) -> Export:
    """Return a new export, made by the running server where there is one."""
    address = server_of(home)
    if address is None:
        with Store.open(home.database) as store:
            write_ledger(home.erasures, erasures(store))  # which a killed server may not have come to
            export_id = create_export(store, home.exports)
    else:
        with admin(address) as stub:
            export_id = stub.CreateExport(pb.CreateExportRequest(), timeout=_CALL_SECONDS).export_id
    return Export.open(home.exports / export_id)


def publish_index(home: Home, index_id: str) -> None:
    """Make an index CURRENT, through the running server where there is one."""
    from indexer.publish import publish

    address = server_of(home)
    if address is None:
        publish(home, index_id)
        return
    with admin(address) as stub:
        stub.PublishIndex(pb.PublishIndexRequest(index_id=index_id), timeout=_CALL_SECONDS)


def console(*, record: bool = False) -> Console:
    """Return a console that cuts nothing off in a pipe, where nobody can make the window wider."""
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
