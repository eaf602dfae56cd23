"""What `triptych doctor` checks of the live store and of the server that may own it."""

from collections.abc import Iterator, Mapping

import duckdb
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scripts.doctor.check import Check, State
from scripts.home_access import SilentServerError, admin, server_of
from store.artifact import DamagedArtifactError
from store.attributes import left_out_message
from store.database import NewerStoreError, NotAStoreError, StoreLockedError, migrations
from store.disk import DiskFullError, ReadOnlyDiskError
from store.home import Home
from store.ledger import read_ledger
from store.lmdb_file import DamagedLmdbFileError
from store.privacy import unfinished_erasures
from store.state import DamagedRecordError, stored_commit_id
from store.store import Store
from triptych_client.pb.v1 import triptych_pb2 as pb

_SECONDS = 5.0
_PUT_AGAIN = "put these items again with other attributes, or delete them"
_VIEWS = {"behaviors": "H", "texts": "T", "social": "S"}


def store_checks(home: Home) -> Iterator[Check]:
    """Yield the checks of the server, of the store and of its rows."""
    address, check = server_check(home)
    yield check
    if address is not None:
        check, status = _served_store(address)
        yield check
        if status is not None:
            yield from row_checks(status.rows)
            yield served_items_check(status)
    else:
        check, rows = store_check(home)
        yield check
        if rows is not None:
            yield from row_checks(rows)
            yield attributes_check(home)
        if check.state is State.OK:
            yield state_check(home)
    yield ledger_check(home)


def server_check(home: Home) -> tuple[str | None, Check]:
    """Return the address of the server that owns the store, if one runs, and the check of its health."""
    file = home.server_file
    try:
        address = server_of(home)
    except DamagedArtifactError as error:
        return None, Check("server", State.WARNING, str(error), "remove it if no server runs on this home")
    except SilentServerError as error:
        hint = f"see its log; if it is no Triptych, remove {file}"
        return None, Check("server", State.FAILED, str(error), hint)
    if address is None and file.exists():
        hint = f"it was killed, or the home was copied: start a server, or remove {file}"
        return None, Check(
            "server", State.WARNING, f"{file} names a server that does not serve this home", hint
        )
    return (
        (address, _health(address)) if address is not None else (None, Check("server", State.OK, "none runs"))
    )


def _health(address: str) -> Check:
    request = health_pb2.HealthCheckRequest()
    try:
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_SECONDS)
    except grpc.RpcError as error:
        return Check("server", State.FAILED, f"on {address}, does not answer: {_code(error)}", "see its log")
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        hint = "publish an index: triptych train, then triptych reindex"
        return Check("server", State.WARNING, f"on {address}: NOT_SERVING", hint)
    return Check("server", State.OK, f"on {address}: SERVING")


def _code(error: grpc.RpcError) -> str:
    return str(error.code().name if isinstance(error, grpc.Call) else error)


def _served_store(address: str) -> tuple[Check, pb.StatusResponse | None]:
    try:
        with admin(address) as stub:
            status = stub.Status(pb.StatusRequest(), timeout=_SECONDS)
    except grpc.RpcError as error:
        return Check("store", State.FAILED, f"the server says {_code(error)}", "see the server's log"), None
    failing = [f"{one.name} ({one.error})" for one in status.workers if one.failing]
    if failing:
        said = f"the server goes on repeating what fails: {', '.join(failing)}"
        return Check("store", State.FAILED, said, "see the server's log"), status
    return Check("store", State.OK, f"owned by the server, version {status.version}"), status


def store_check(home: Home) -> tuple[Check, Mapping[str, int] | None]:
    """Check that the store opens; return its rows by table, too."""
    if not home.database.exists():
        return Check(
            "store", State.FAILED, f"{home.database} is missing", "triptych import, or restore"
        ), None
    try:
        with Store.open(home.database) as store:
            rows = store.counts()
    except StoreLockedError as error:
        return Check(
            "store", State.WARNING, str(error), "another command or a server works on it: wait"
        ), None
    except NewerStoreError as error:
        return Check("store", State.FAILED, str(error), "upgrade Triptych"), None
    except (DiskFullError, ReadOnlyDiskError) as error:
        return Check("store", State.FAILED, str(error), "nothing else is known of it until then"), None
    except (NotAStoreError, duckdb.Error) as error:
        return Check(
            "store", State.FAILED, str(error), "triptych restore --from BACKUP --home NEW_HOME"
        ), None
    return Check("store", State.OK, f"schema version {len(migrations())}"), rows


def served_items_check(status: pb.StatusResponse) -> Check:
    """Check how many items the server finds by vector, finds without one, and leaves out."""
    found = f"{status.indexed_items:,} found by searches"
    if status.items_without_vector:
        found += f", {status.items_without_vector:,} without a vector by filters and the fallback alone"
    if status.items_left_out:
        found = f"{status.items_left_out:,} left out: their attributes cannot be used; {found}"
        return Check("served items", State.WARNING, found, f"the server's log names them: {_PUT_AGAIN}")
    return Check("served items", State.OK, found)


def attributes_check(home: Home) -> Check:
    """Check that the attributes of all items can be used; every item is read."""
    with Store.open(home.database) as store:
        reasons = store.bad_attributes()
    if reasons:
        return Check(
            "attributes", State.WARNING, f"{len(reasons):,} items: {left_out_message(reasons)}", _PUT_AGAIN
        )
    return Check("attributes", State.OK, "of every item can be used")


def state_check(home: Home) -> Check:
    """Check that the derived state of users reflects the store; only where no server has both open."""
    hint = "nothing: the next start of the server does it"
    with Store.open(home.database) as store:
        left, head = len(unfinished_erasures(store)), store.last_commit
    if left:
        return Check("user state", State.WARNING, f"{left} erasures are not finished", hint)
    if not home.state.is_dir():
        return Check("user state", State.OK, "none yet: a server makes it when it starts")
    try:
        reflects = stored_commit_id(home.state)
    except (DamagedLmdbFileError, DamagedRecordError) as error:
        return Check("user state", State.WARNING, f"{error}; it will be made anew", hint)
    if reflects == head.commit_id:
        return Check("user state", State.OK, f"of commit {head.sequence}, as the store")
    return Check("user state", State.OK, f"not of commit {head.sequence}: the next start brings it there")


def ledger_check(home: Home) -> Check:
    """Check that the ledger of erasures can be read: exports and restores need it."""
    try:
        count = len(read_ledger(home.erasures))
    except DamagedArtifactError as error:
        return Check("erasures", State.FAILED, str(error), "start the server: it writes the file anew")
    return Check("erasures", State.OK, f"{count} in the ledger")


def row_checks(rows: Mapping[str, int]) -> Iterator[Check]:
    """Yield checks of the number of items and of the rows of each view."""
    if not rows["items"]:
        yield Check("items", State.FAILED, "none", "nothing can be found: import items")
    else:
        yield Check("items", State.OK, f"{rows['items']:,}, users: {rows['users']:,}")
    for table, view in _VIEWS.items():
        if rows[table]:
            yield Check(table, State.OK, f"{rows[table]:,} rows (view {view})")
        elif view == "H":
            yield Check(table, State.WARNING, "none", "training needs some: triptych import")
        else:
            yield Check(
                table, State.WARNING, "none", f"view {view} stays empty; import {table} if you have them"
            )
    if shown := rows.get("impressions"):  # none is no fault: only the head of clicks learns from them
        yield Check("impressions", State.OK, f"{shown:,} rows (no view)")
