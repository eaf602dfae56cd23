"""The server that the console asks, over the client of the API."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

import grpc

from console.config import ConsoleConfig
from triptych_client import AsyncClient, CallError, MapOfItems
from triptych_client.pb.v1 import ingest_pb2 as ingest

_KEPT_SECONDS = 10.0
_CATALOG_SECONDS = 60.0
_AT_ONCE = 1_000  # items in one call
_PROBE_SECONDS = 1.5


@dataclass(frozen=True)
class Abilities:
    """What the token may do, of what the console was started for; the server refuses the rest in any case.

    Attributes:
        query: ask for results.
        write: put and delete items, and set consents.
        read_people: see what is stored of a person, of the server and of its indexes.
        govern: erase a person, and publish.
    """

    query: bool
    write: bool
    read_people: bool
    govern: bool


NOTHING = Abilities(query=False, write=False, read_people=False, govern=False)


class Backend:
    """Calls of the pages, on the event loop of the console.

    Attributes:
        config: what the console was started with.
    """

    def __init__(self, config: ConsoleConfig) -> None:
        self.config = config
        self._client: AsyncClient | None = None
        self._catalog: tuple[float, ingest.ListAttributesResponse] | None = None
        self._map: tuple[float, str, MapOfItems] | None = None
        self._abilities: tuple[float, Abilities] | None = None

    @property
    def client(self) -> AsyncClient:
        """The client; it is made by the first page, as it belongs to the event loop."""
        if self._client is None:
            self._client = self._connect(self.config.timeout)
        return self._client

    def _connect(self, timeout: float) -> AsyncClient:
        config = self.config
        return AsyncClient(
            config.address,
            tls_ca=config.tls_ca,
            tls_cert=config.tls_cert,
            tls_key=config.tls_key,
            token=config.token,
            timeout=timeout,
            connections=2,
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def abilities(self) -> Abilities:
        """Return what is offered, asked of the server again after ten seconds.

        A call that is empty tells: the server asks for the scope before it looks at the request, and an empty
        request changes nothing.

        Raises:
            CallError: the server cannot be reached, or the token is unknown, expired or revoked.
        """
        if self._abilities is not None and time.monotonic() - self._abilities[0] < _KEPT_SECONDS:
            return self._abilities[1]
        async with self._connect(_PROBE_SECONDS) as probe:
            admin, query, ingest = await asyncio.gather(
                _allowed(probe.list_indexes(1)),
                _allowed(probe.query(user_id="")),
                _allowed(probe.put_items([])),
            )
        write = self.config.write
        found = Abilities(query, write=ingest and write, read_people=admin, govern=admin and write)
        self._abilities = time.monotonic(), found
        return found

    async def catalog(self) -> ingest.ListAttributesResponse:
        """Return kinds and attributes that items have, asked of the server again after a minute.

        Raises:
            CallError: the server fails, or does not tell them.
        """
        if self._catalog is None or time.monotonic() - self._catalog[0] >= _CATALOG_SECONDS:
            self._catalog = time.monotonic(), await self.client.list_attributes()
        return self._catalog[1]

    async def item_map(self, colour_by: str) -> MapOfItems:
        """Return the map of the items, asked of the server again after a minute or for other colours.

        Raises:
            CallError: the server fails, or has no such attribute.
        """
        kept = self._map
        if kept is None or kept[1] != colour_by or time.monotonic() - kept[0] >= _CATALOG_SECONDS:
            kept = self._map = time.monotonic(), colour_by, await self.client.read_map(colour_by)
        return kept[2]

    async def titles(self, item_ids: Sequence[str]) -> dict[str, str]:
        """Return the titles of items, of those that have one; none where the server does not tell them.

        Raises:
            CallError: the server fails.
        """
        try:
            return await self._titles(item_ids)
        except CallError as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED or error.reason == "SCOPE_MISSING":
                return {}
            raise

    async def _titles(self, item_ids: Sequence[str]) -> dict[str, str]:
        titles = dict[str, str]()
        for start in range(0, len(item_ids), _AT_ONCE):
            named = item_ids[start : start + _AT_ONCE]
            found = await self.client.find_items(named, limit=_AT_ONCE, brief=True)
            titles.update((item.item_id, item.title) for item in found.items if item.title)
        return titles


async def _allowed(call: Awaitable[object]) -> bool:
    """Return whether the token has the scope of a call.  Raises: CallError, where the server does not say."""
    try:
        await call
    except CallError as error:
        if error.reason == "SCOPE_MISSING":
            return False
        refused = error.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        if refused or not error.reason:
            raise
    return True
