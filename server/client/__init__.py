"""Where the client was before it had a distribution of its own: import triptych_client instead."""

import warnings

from triptych_client import (
    AsyncClient,
    Behavior,
    CallError,
    Client,
    Consent,
    Impression,
    Item,
    QueryFields,
    Text,
    Tie,
    metadata_of,
)

warnings.warn(
    "server.client is deprecated: write `from triptych_client import Client` (distribution triptych-client)",
    DeprecationWarning,
    stacklevel=2,
)

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
