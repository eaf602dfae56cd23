"""Who may do what: tokens, the scopes of methods, and how often a token may call.

`tokens.py` keeps tokens in a file, as hashes; `scopes.py` reads from the proto what each method needs;
`access.py` decides on a call, and `rates.py` counts. `server.wire` asks before a message is read.
"""

from server.access.access import (
    Access,
    AccessError,
    Grant,
    ItemsHiddenError,
    NoTokenError,
    RateLimitedError,
    ScopeMissingError,
    TenantUnknownError,
    TokenExpiredError,
    TokenRevokedError,
    TokenUnknownError,
    granted,
)
from server.access.scopes import SCOPES, scope_of
from server.access.tokens import (
    DamagedTokensError,
    Token,
    TokenFile,
    TokenNotFoundError,
)

__all__ = [
    "SCOPES",
    "Access",
    "AccessError",
    "DamagedTokensError",
    "Grant",
    "ItemsHiddenError",
    "NoTokenError",
    "RateLimitedError",
    "ScopeMissingError",
    "TenantUnknownError",
    "Token",
    "TokenExpiredError",
    "TokenFile",
    "TokenNotFoundError",
    "TokenRevokedError",
    "TokenUnknownError",
    "granted",
    "scope_of",
]
