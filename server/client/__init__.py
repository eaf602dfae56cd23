"""A typed client of a Triptych server, for threads and for asyncio.

`client.py` describes each call once and has the two classes that make calls: Client and AsyncClient.
`messages.py` makes requests of Python values, `errors.py` makes a CallError of what a server or gRPC says,
and `channel.py` connects and decides what is repeated.
"""

from server.client.channel import metadata_of
from server.client.client import AsyncClient, Client
from server.client.errors import CallError
from server.client.messages import Behavior, Consent, Impression, QueryFields, Text, Tie
from store.records import Item

__all__ = [
    "AsyncClient",
    "Behavior",
    "CallError",
    "Client",
    "Consent",
    "Impression",
    "Item",
    "QueryFields",
    "Text",
    "Tie",
    "metadata_of",
]
