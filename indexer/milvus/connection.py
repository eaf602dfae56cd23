"""A connection to Milvus, and the errors of this package."""

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LEAST_VERSION = (2, 3, 5)  # the oldest that was tried; arrays in expressions are in none before 2.3.2
CALL_SECONDS = 30.0
SEARCH_SECONDS = 10.0  # of a query that somebody waits for


class MissingMilvusError(RuntimeError):
    """The library for Milvus is not installed."""

    def __init__(self) -> None:
        super().__init__("an index in Milvus needs its library: pip install 'triptych[milvus]'")


class MilvusUnreachableError(ConnectionError):
    """Milvus does not answer, or refuses a call."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(f"Milvus at {uri} does not answer as it should: {reason}")


class OldMilvusError(RuntimeError):
    """Milvus is of a version that lacks something needed."""

    def __init__(self, uri: str, version: str) -> None:
        least = ".".join(map(str, LEAST_VERSION))
        super().__init__(f"Milvus at {uri} is version {version}, and an index needs {least} or newer")


class NoCollectionError(LookupError):
    """An index has no finished collection in Milvus."""

    def __init__(self, uri: str, index_id: str) -> None:
        super().__init__(
            f"index {index_id} is not in Milvus at {uri}: run `triptych index move {index_id} --to milvus "
            f"--milvus {uri}`"
        )
        self.index_id = index_id


@dataclass(frozen=True)
class MilvusAddress:
    """Where Milvus is, and the token or user:password for it, "" for none."""

    uri: str
    token: str = ""


class MilvusConnection:
    """A connection, whose errors are those of this module; threads may share it."""

    def __init__(self, address: MilvusAddress) -> None:
        """Connect.

        Raises:
            MissingMilvusError: the library is not installed.
            MilvusUnreachableError: nobody answers.
            OldMilvusError: it lacks something needed.
        """
        try:
            import pymilvus  # noqa: PLC0415  # takes a second, and few servers need it
        except ModuleNotFoundError as error:
            raise MissingMilvusError from error
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what fails is raised, without a traceback
        self.uri = address.uri
        self._silent = False  # the last search had no answer in time
        self._trying = threading.Lock()
        self._module: Any = pymilvus
        self._client: Any = None
        self._client = self.call(
            lambda: pymilvus.MilvusClient(uri=address.uri, token=address.token, timeout=CALL_SECONDS)
        )
        version = str(self.call(self._client.get_server_version))
        if not _is_new_enough(version):
            raise OldMilvusError(address.uri, version)

    @property
    def client(self) -> Any:
        """The client of the library, for use within `call`."""
        return self._client

    @property
    def module(self) -> Any:
        """The library."""
        return self._module

    def call(self, work: Callable[[], Any]) -> Any:
        """Return what a call of the library returns.  Raises: MilvusUnreachableError."""
        import grpc  # noqa: PLC0415

        try:
            return work()
        except (self._module.exceptions.MilvusException, grpc.RpcError, OSError) as error:
            raise MilvusUnreachableError(self.uri, _said(error)) from error

    def call_unless_silent(self, work: Callable[[], Any]) -> Any:
        """Return what a search returns; after one had no answer in time, only one at a time tries again.

        The others are refused at once: a Milvus that takes calls and says nothing holds one thread.

        Raises:
            MilvusUnreachableError: as `call`, or one tries already.
        """
        if not self._silent:
            return self._noting_silence(work)
        if not self._trying.acquire(blocking=False):
            raise MilvusUnreachableError(
                self.uri, "it says nothing, and one search waits whether it does again"
            )
        try:
            return self._noting_silence(work)
        finally:
            self._trying.release()

    def _noting_silence(self, work: Callable[[], Any]) -> Any:
        import grpc  # noqa: PLC0415

        try:
            found = self.call(work)
        except MilvusUnreachableError as error:
            cause = error.__cause__
            self._silent = isinstance(cause, grpc.Call) and cause.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            raise
        self._silent = False
        return found

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()


def _said(error: Exception) -> str:
    """Return what is wrong, in a line."""
    import grpc  # noqa: PLC0415

    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"[:300]
    return str(getattr(error, "message", "") or error).split("\n")[0][:300]


def _is_new_enough(version: str) -> bool:
    """Tell whether a version such as v2.6.1, v2.3.5-lite or milvus_lite-3.2.2 has what is needed."""
    found = re.match(r"(?:milvus_lite-|v)?(\d+(?:\.\d+)+)", version)
    return found is not None and tuple(map(int, found[1].split("."))) >= LEAST_VERSION
