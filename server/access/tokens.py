"""Tokens: made once, kept as hashes in a file that servers read again when it changes."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from server.access.changes import ChangeCount, Version
from store.disk import replace_file
from store.locks import locked


class DamagedTokensError(ValueError):
    """The file of tokens is not what `triptych token` writes, so that no token is accepted."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}")
        self.path = path


class TokenNotFoundError(LookupError):
    """There is no token with an id."""

    def __init__(self, token_id: str, path: Path) -> None:
        super().__init__(f"there is no token {token_id!r} in {path}: `triptych token list` shows their ids")
        self.token_id = token_id


@dataclass(frozen=True)
class Token:
    """What is kept of a token.

    Attributes:
        id: public, stands in the token itself.
        sha256: of the token, in hexadecimal. It has 256 random bits, so a slow hash would gain nothing.
        scopes: of SCOPES.
        created: an ISO time in UTC, as are `expires` and `revoked`, "" for never.
        tenant: whose home it opens; "" in a server of one home.
        limit: such as 100/second;5000/hour; "" for the server's.
        filter: a triptych.v1.Filter as JSON, which all it sees of items must pass; None for all items.
        name: for people.
    """

    id: str
    sha256: str
    scopes: tuple[str, ...]
    created: str
    expires: str = ""
    revoked: str = ""
    tenant: str = ""
    limit: str = ""
    filter: dict[str, Any] | None = None
    name: str = ""

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of the token."""
        return bytes.fromhex(self.sha256)

    @cached_property
    def expires_at(self) -> float:
        """When it expires, in seconds since 1970; infinite for never."""
        return datetime.fromisoformat(self.expires).timestamp() if self.expires else float("inf")


class TokenFile:
    """The tokens of a server, in a file.

    Attributes:
        path: of the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Token]:
        """Return the tokens by id, revoked and expired ones, too; none where there is no file.

        Raises:
            DamagedTokensError: it is not what `triptych token` writes.
        """
        try:
            content = json.loads(self.path.read_text("utf-8"))
            tokens = [Token(**(one | {"scopes": tuple(one["scopes"])})) for one in content["tokens"]]
            for token in tokens:
                if len(token.digest) != hashlib.sha256().digest_size:
                    raise ValueError(f"token {token.id} has no SHA-256")
                token.expires_at  # noqa: B018  # looked at now, not when it is used
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedTokensError(self.path, str(error) or type(error).__name__) from error
        return {token.id: token for token in tokens}

    def create(self, scopes: Iterable[str], now: datetime, **fields: Any) -> tuple[Token, str]:
        """Make a token; return what is kept of it and the token itself, which is kept nowhere.

        Args:
            scopes: of SCOPES.
            now: the time.
            fields: of Token: expires, tenant, limit, filter, name.

        Raises:
            DamagedTokensError, DiskFullError, ReadOnlyDiskError: no token was made.
        """
        token_id = secrets.token_hex(4)
        secret = f"triptych_{token_id}_{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(secret.encode()).hexdigest()
        token = Token(token_id, digest, tuple(scopes), _iso(now), **fields)
        with self._locked():
            self._write(self.read() | {token_id: token})
        return token, secret

    def revoke(self, token_id: str, now: datetime) -> Token:
        """Have a token accepted no more, from the next call on; return it.

        Raises:
            TokenNotFoundError: there is none with this id.
            DamagedTokensError, DiskFullError, ReadOnlyDiskError: it is not revoked.
        """
        with self._locked():
            tokens = self.read()
            if token_id not in tokens:
                raise TokenNotFoundError(token_id, self.path)
            token = tokens[token_id]
            if not token.revoked:
                token = replace(token, revoked=_iso(now))
                self._write(tokens | {token_id: token})
        return token

    @property
    def count(self) -> Path:
        """The file of the number that each write counts up."""
        return self.path.with_name(f".{self.path.name}.count")

    def version(self) -> Version | None:
        """Return what changes when the file does; None where there is no file."""
        try:
            file = os.stat(self.path)
        except FileNotFoundError:
            return None
        return file.st_mtime_ns, file.st_ino, file.st_size

    def _locked(self) -> Any:
        return locked(self.path.with_name(f".{self.path.name}.lock"), wait=True, make=True)

    def _write(self, tokens: dict[str, Token]) -> None:
        content = {"tokens": [asdict(token) for token in tokens.values()]}
        replace_file(self.path, json.dumps(content, indent=1) + "\n", mode=0o600)
        ChangeCount(self.count).add()


def digest_of(token: str) -> bytes:
    """Return the SHA-256 of a token as it comes with a call."""
    return hashlib.sha256(token.encode(errors="replace")).digest()


def id_in(token: str) -> str:
    """Return the id that stands in a token, "" where none does."""
    parts = token.split("_", 2)
    return parts[1] if len(parts) == 3 else ""


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")
