"""A typed client of a Triptych server, for threads and for asyncio."""

from server.client.client import AsyncClient, Behavior, CallError, Client, Item, QueryFields, Text, Tie

__all__ = ["AsyncClient", "Behavior", "CallError", "Client", "Item", "QueryFields", "Text", "Tie"]
