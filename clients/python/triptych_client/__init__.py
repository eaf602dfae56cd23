"""A typed client of a Triptych server, for threads and for asyncio; it needs grpcio and protobuf.

    from triptych_client import Behavior, Client

    with Client("127.0.0.1:50051") as client:
        client.append_behaviors([Behavior("alice", "item-7", action="view")])
        print(client.query(user_id="alice", k=5).item_ids)

`client.py` describes each call once and has the two classes that make calls: Client and AsyncClient.
`messages.py` makes requests of Python values, `errors.py` makes a CallError of what a server or gRPC says
(`details.py` reads its details), and `channel.py` connects and decides what is repeated; `addresses.py` and
`tls.py` find what is wrong with an address or a certificate before gRPC does. `pb/v1` has the messages
and stubs of the API, which `make proto` writes.
"""

from triptych_client.addresses import BadAddressError, target_of
from triptych_client.channel import MAX_MESSAGE_BYTES, connect, metadata_of
from triptych_client.client import AsyncClient, Client
from triptych_client.errors import CallError
from triptych_client.messages import (
    Behavior,
    Consent,
    Impression,
    Item,
    MapOfItems,
    QueryFields,
    Text,
    Tie,
    UserRows,
)
from triptych_client.tls import Tls, TlsFilesError, read_certificates, read_key_pair

__all__ = [
    "MAX_MESSAGE_BYTES",
    "AsyncClient",
    "BadAddressError",
    "Behavior",
    "CallError",
    "Client",
    "Consent",
    "Impression",
    "Item",
    "MapOfItems",
    "QueryFields",
    "Text",
    "Tie",
    "Tls",
    "TlsFilesError",
    "UserRows",
    "connect",
    "metadata_of",
    "read_certificates",
    "read_key_pair",
    "target_of",
]
