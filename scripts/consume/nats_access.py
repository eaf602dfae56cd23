"""How one is known to NATS servers, and how these prove who they are."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from scripts.consume.source import UnusableLogError


@dataclass(frozen=True)
class NatsAccess:
    """What NATS asks of a client, and what is asked of NATS; files are read for each connection.

    Attributes:
        credentials: file of a user's credentials, as `nsc` writes it.
        nkey: file with the seed of a user's key.
        user: name of a user, whose password is in `password_file`.
        password_file: see `user`.
        token_file: file with a token.
        ca, certificate, key: PEM files of TLS: the root of the servers', and one's own.
    """

    credentials: Path | None = None
    nkey: Path | None = None
    user: str = ""
    password_file: Path | None = None
    token_file: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def check(self) -> None:
        """Check that the files fit together, and can be used.  Raises: UnusableLogError."""
        if bool(self.user) != (self.password_file is not None):
            raise UnusableLogError("--nats-user and --nats-password-file belong together: give both")
        if (self.certificate is None) != (self.key is None):
            raise UnusableLogError("--nats-tls-cert and --nats-tls-key belong together: give both")
        ways = (self.credentials, self.nkey, self.password_file, self.token_file)
        if len([one for one in ways if one is not None]) > 1:
            raise UnusableLogError(
                "--nats-credentials, --nats-nkey, --nats-user and --nats-token-file exclude each other"
            )
        self.options()

    def options(self) -> dict[str, Any]:
        """Return the arguments of a connection.  Raises: UnusableLogError."""
        options: dict[str, Any] = {}
        if self.credentials is not None:
            _content(self.credentials)
            options["user_credentials"] = str(self.credentials)
        if self.nkey is not None:
            _content(self.nkey)
            options["nkeys_seed"] = str(self.nkey)
        if self.password_file is not None:
            options |= {"user": self.user, "password": _content(self.password_file)}
        if self.token_file is not None:
            options["token"] = _content(self.token_file)
        if self.ca is not None or self.certificate is not None:
            options["tls"] = self._context()
        return options

    def refused(self, servers: str, error: ssl.SSLError) -> UnusableLogError:
        """Return what is wrong with TLS towards some servers."""
        if isinstance(error, ssl.SSLCertVerificationError):
            root = f"--nats-tls-ca {self.ca}" if self.ca else "this machine: name its root by --nats-tls-ca"
            return UnusableLogError(
                f"the certificate of {servers} is not one of it, or not vouched for by {root}: "
                f"{error.verify_message or error}"
            )
        return UnusableLogError(f"no TLS with {servers}: {error}; see --nats-tls-cert and --nats-tls-key")

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        except OSError as error:
            raise UnusableLogError(f"--nats-tls-ca {self.ca} cannot be used: {error}") from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except OSError as error:
                files = f"--nats-tls-cert {self.certificate} and --nats-tls-key {self.key}"
                raise UnusableLogError(f"{files} cannot be used: {error}") from error
        return context


class EncryptedConnection(Client):
    """A connection that says nothing to a server that does not speak TLS.

    The library goes on without TLS where a server does not ask for it, tls:// or not, so that whoever sits in
    between would only have to say so, and be told the password.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Refuse what a server says of itself first, where that is not that it speaks TLS."""
        if initial_connection and not info.get("tls_required"):
            raise UnusableLogError("the NATS server does not speak TLS: write nats:// if that is meant")
        await super()._process_info(info, initial_connection)


def _content(file: Path) -> str:
    """Return what is in a file, without blanks around it.  Raises: UnusableLogError."""
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableLogError(f"{file} cannot be read: {error}") from error
