"""Decides on calls: who makes one, whether they may, and how often."""

import hmac
import logging
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from server.access.changes import Watch
from server.access.scopes import ANY_TOKEN, ANYBODY, scope_of
from server.access.tokens import DamagedTokensError, Token, TokenFile, digest_of, id_in

if TYPE_CHECKING:
    from server.access.rates import RateLimits

_SCHEME = "bearer "
_NO_DIGEST = bytes(32)  # compared with where no token has the id: that takes as long
log = logging.getLogger(__name__)

# What tells of items without asking a filter.
_OF_ALL_ITEMS = {"/triptych.v1.Ingest/FindItems", "/triptych.v1.Ingest/ListAttributes"}


class AccessError(PermissionError):
    """A call is refused to whoever makes it."""


class NoTokenError(AccessError):
    """A call came without a token."""

    def __init__(self) -> None:
        super().__init__("this server wants a token: send the metadata authorization: Bearer TOKEN")


class TokenUnknownError(AccessError):
    """A call came with something that is no token of this server."""

    def __init__(self) -> None:
        super().__init__("the token is none of this server's")


class TokenExpiredError(AccessError):
    """The token of a call is past its time."""

    def __init__(self, token: Token) -> None:
        super().__init__(f"token {token.id} expired at {token.expires}")
        self.token = token


class TokenRevokedError(AccessError):
    """The token of a call is accepted no more."""

    def __init__(self, token: Token) -> None:
        super().__init__(f"token {token.id} was revoked at {token.revoked}")
        self.token = token


class ScopeMissingError(AccessError):
    """The token of a call is not for its method."""

    def __init__(self, token: Token, scope: str) -> None:
        super().__init__(f"token {token.id} has the scopes {', '.join(token.scopes)}, and this needs {scope}")
        self.token = token
        self.scope = scope


class ItemsHiddenError(AccessError):
    """The token of a call sees a part of the items, and the method tells of all of them."""

    def __init__(self, token: Token) -> None:
        super().__init__(f"token {token.id} sees a part of the items, and this tells of all of them")
        self.token = token


class TenantUnknownError(AccessError):
    """The token of a call is for a tenant whom this server does not have."""

    def __init__(self, token: Token) -> None:
        whose = f"tenant {token.tenant}" if token.tenant else "no tenant"
        super().__init__(f"token {token.id} is for {whose}, which this server does not serve")
        self.token = token


class RateLimitedError(AccessError):
    """A token was used too often."""

    def __init__(self, token: Token, limit: str, retry_after: float) -> None:
        super().__init__(f"token {token.id} may make {limit} calls: try again in {retry_after:.3g} s")
        self.token = token
        self.retry_after = retry_after


class Grant:
    """What one call is allowed, by its token.

    Attributes:
        token: of the call.
    """

    __slots__ = ("_access", "token")

    def __init__(self, access: "Access", token: Token) -> None:
        self._access = access
        self.token = token

    def use(self, calls: int = 1) -> None:
        """Count further calls, as of a batch or in a stream.

        Raises:
            TokenRevokedError, TokenExpiredError, TokenUnknownError: the token holds no more.
            RateLimitedError: they are too many.
        """
        self._access.use_again(self.token, calls)


_granted: ContextVar[Grant | None] = ContextVar("granted", default=None)


def granted() -> Grant | None:
    """Return the grant of the call in whose context this runs; None where no token is needed."""
    return _granted.get()


class Access:
    """Says of each call whether its token allows it; threads may share it.

    The file of tokens is read again when it has changed. What `triptych token` did holds from the next call
    on, and what was done to the file by other means after a second (`Watch`). A server without the file is
    open, unless it has tenants; it is closed as soon as there is one, and stays so when the file goes.
    """

    def __init__(
        self,
        file: TokenFile,
        tenants: frozenset[str] = frozenset([""]),
        default_limit: Callable[[], str] = lambda: "",
        counters: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the tokens.

        Args:
            file: of the tokens.
            tenants: whom the server serves; "" alone in a server of one home.
            default_limit: rate limit of tokens that have none of their own; "" for none.
            counters: as of RateLimits.
            clock: seconds since 1970, by which tokens expire.

        Raises:
            DamagedTokensError: the file is damaged.
        """
        self._file = file
        self._tenants = tenants
        self._default_limit = default_limit
        self._counters = counters
        self._clock = clock
        self._rates: RateLimits | None = None
        self._watch = Watch(file.version, file.count)
        self._version = self._watch.version()
        self._open = self._version is None and tenants == frozenset([""])
        self._tokens = file.read()

    @property
    def open(self) -> bool:
        """Whether no call needs a token."""
        self._current()
        return self._open

    def authorise(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Grant | None:
        """Decide on a call; its grant is `granted` in its context. None where it needs no token.

        Raises:
            NoTokenError, TokenUnknownError, TokenExpiredError, TokenRevokedError: nobody is known to call.
            ScopeMissingError, ItemsHiddenError, TenantUnknownError: the token is not for this.
            RateLimitedError: it was used too often.
        """
        tokens = self._current()
        if self._open:
            return None
        needed = scope_of(method)
        if needed == ANYBODY:
            return None
        token = self._token_of(tokens, metadata)
        if needed != ANY_TOKEN and needed not in token.scopes:
            raise ScopeMissingError(token, needed)
        if token.filter is not None and method in _OF_ALL_ITEMS:
            raise ItemsHiddenError(token)
        if token.tenant not in self._tenants:
            raise TenantUnknownError(token)
        self._count(token, 1)
        grant = Grant(self, token)
        _granted.set(grant)
        return grant

    def use_again(self, token: Token, calls: int) -> None:
        """Count further calls of a token; as `Grant.use`."""
        now = self._current().get(token.id)
        if now is None or now.sha256 != token.sha256:
            raise TokenUnknownError
        self._check_time(now)
        if calls:
            self._count(now, calls)

    def _current(self) -> dict[str, Token]:
        """Return the tokens as they are on disk; none where they cannot be read."""
        version = self._watch.version()
        if version != self._version:
            self._open = False
            try:
                self._tokens = self._file.read()
            except DamagedTokensError:
                self._tokens = {}
                log.exception("no token is accepted until this is mended")
            self._version = version  # last: another thread may come by
        return self._tokens

    def _token_of(self, tokens: dict[str, Token], metadata: Iterable[tuple[str, str | bytes]]) -> Token:
        said = next((value for key, value in metadata if key == "authorization"), "")
        if not isinstance(said, str) or said[: len(_SCHEME)].lower() != _SCHEME:
            raise NoTokenError
        secret = said[len(_SCHEME) :].strip()
        token = tokens.get(id_in(secret))
        same = hmac.compare_digest(digest_of(secret), _NO_DIGEST if token is None else token.digest)
        if token is None or not same:
            raise TokenUnknownError
        self._check_time(token)
        return token

    def _check_time(self, token: Token) -> None:
        if token.revoked:
            raise TokenRevokedError(token)
        if self._clock() >= token.expires_at:
            raise TokenExpiredError(token)

    def _count(self, token: Token, calls: int) -> None:
        limit = token.limit or self._default_limit()
        if not limit:
            return
        if self._rates is None:
            # Imports a library that a server without limits does not need.
            from server.access.rates import RateLimits  # noqa: PLC0415

            self._rates = RateLimits(self._counters)
        wait = self._rates.seconds_to_wait(token.id, limit, calls)
        if wait is not None:
            raise RateLimitedError(token, limit, wait)
