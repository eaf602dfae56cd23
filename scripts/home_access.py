"""A home as the commands use it: its files and its store, or the server that runs on it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from server.identity import is_server_of
from store.artifact import DamagedArtifactError
from store.export import Export, create_export
from store.home import Home
from store.ledger import write_ledger
from store.privacy import list_erasures
from store.store import Store
from triptych_client import Client, target_of
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

_ANSWER_SECONDS = 5.0


class ServerOwnsStoreError(OSError):
    """A command wants to write a store that a running server owns."""

    def __init__(self, home: Home, address: str) -> None:
        super().__init__(
            f"a server on {address} owns {home.database}: stop it first (only import goes through a server)"
        )


class SilentServerError(TimeoutError):
    """The server that a home names does not answer, so nobody knows whether it serves that home."""

    def __init__(self, home: Home, address: str, code: str) -> None:
        super().__init__(
            f"{home.server_file} names a server on {address}, which does not answer: {code}; try again, "
            f"stop it, or remove the file if it is no Triptych"
        )
        self.address = address
        self.code = code


class NoSuchHomeError(FileNotFoundError):
    """A command that reads a home was given a directory that holds none."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is no Triptych home (it has no views.duckdb): run `triptych import`")


def shared_text_models() -> Path:
    """Return the folder, one per user of the machine, of text models that all homes share."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "triptych" / "text_models"


def existing_home(path: Path) -> Home:
    """Return the home in a directory that something was imported into.  Raises: NoSuchHomeError."""
    home = Home(path)
    if not home.database.exists():
        raise NoSuchHomeError(path)
    return home


def server_of(home: Home) -> str | None:
    """Return the address by which commands on this machine reach the server that runs on a home, or None.

    The server has to confirm that it serves this home: a server.json that a killed server left behind, or
    that came with the copy of a home, counts as none, whoever has its process id or its port by now.

    Raises:
        DamagedArtifactError: server.json is not what a server writes.
        SilentServerError: something takes calls at the address and does not answer.
    """
    try:
        said: dict[str, Any] = json.loads(home.server_file.read_text("utf-8"))
        address = target_of(str(said["local"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        reason = "is damaged: remove it if no server runs on this home"
        raise DamagedArtifactError(home.server_file, reason) from error
    served = _served_at(home, address)
    return address if served is not None and is_server_of(home, said, served) else None


def _served_at(home: Home, address: str) -> pb.ServedHome | None:
    """Return the home that the server on an address serves; None where no Triptych answers."""
    try:
        with admin(address) as stub:
            return stub.Status(pb.StatusRequest(), timeout=_ANSWER_SECONDS).home
    except grpc.RpcError as error:
        code = error.code() if isinstance(error, grpc.Call) else None
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED):
            return None
        raise SilentServerError(home, address, code.name if code else str(error)) from error


@contextmanager
def admin(address: str) -> Iterator[rpc.AdminStub]:
    """Yield a stub for the Admin service of a server on this machine, by its `server_of` address."""
    # Of its own: another channel's failure must not stand for a server that has started since.
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options) as channel:
        yield rpc.AdminStub(channel)


@contextmanager
def writable_store(home: Home) -> Iterator[Store]:
    """Yield the store for writing.  Raises: ServerOwnsStoreError, and what Store.open raises."""
    address = server_of(home)
    if address is not None:
        raise ServerOwnsStoreError(home, address)
    with Store.open(home.database) as store:
        yield store


def fresh_export(home: Home) -> Export:
    """Make an export, through the running server where there is one, and open it."""
    address = server_of(home)
    if address is None:
        with Store.open(home.database) as store:
            write_ledger(home.erasures, list_erasures(store))  # a killed server may not have written it
            export_id = create_export(store, home.exports)
    else:
        with Client(address, connections=1) as client:
            export_id = client.create_export()
    return Export.open(home.exports / export_id)


def publish_index(home: Home, index_id: str) -> None:
    """Make an index CURRENT, through the running server where there is one."""
    from indexer.publish import changing_current, publish

    with changing_current(
        home
    ):  # a server that loads what CURRENT names ends it first, and tells its address
        address = server_of(home)
        if address is None:
            publish(home, index_id)
            return
    with Client(address, connections=1) as client:
        client.publish_index(index_id)
