"""TLS certificates and keys, checked before gRPC reads them, which does not say what is wrong with one.

A server looks at its files with each handshake, so that a renewed certificate is used by the next connection.
"""

import logging
import os
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

log = logging.getLogger(__name__)


class TlsFilesError(ValueError):
    """A PEM file cannot be used for TLS; the message names it."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a server.

    Attributes:
        certificate: chain of certificates.
        key: of the first of them.
        client_ca: root certificates, one of which must vouch for each client; None asks clients for nothing.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def of(cls, certificate: Path | None, key: Path | None, client_ca: Path | None) -> "TlsFiles | None":
        """Return the files of a configuration; None where it has no TLS.

        Raises:
            TlsFilesError: one file is missing that another needs.
        """
        if certificate is None and key is None and client_ca is None:
            return None
        if certificate is None or key is None:
            raise TlsFilesError("TLS needs both a certificate and a key")
        return cls(certificate, key, client_ca)

    def load(self) -> grpc.ServerCertificateConfiguration:
        """Read and check the files.

        Raises:
            OSError: a file cannot be read.
            TlsFilesError: a file holds no certificate or no usable key, or they do not belong together.
        """
        loaded = self.key.read_bytes(), self.certificate.read_bytes()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if b"ENCRYPTED" in loaded[0]:
            raise TlsFilesError(f"the key {self.key} is encrypted: give one without a pass phrase")
        try:
            context.load_cert_chain(self.certificate, self.key, password="")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsFilesError(
                    f"the key {self.key} does not belong to the certificate {self.certificate}"
                ) from error
            _check_certificates(self.certificate)
            raise TlsFilesError(
                f"{self.key} is no PEM private key that can be used: {_reason(error)}"
            ) from error
        roots = None
        if self.client_ca is not None:
            _check_certificates(self.client_ca)
            roots = self.client_ca.read_bytes()
        return grpc.ssl_server_certificate_configuration([loaded], roots)

    def version(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file does.  Raises: OSError."""
        found = [os.stat(file) for file in (self.certificate, self.key, self.client_ca) if file is not None]
        return tuple((file.st_mtime_ns, file.st_ino, file.st_size) for file in found)


class ServerCertificates:
    """The certificates of a running server, read again when a file has changed; threads may share it."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.  Raises: as `TlsFiles.load`."""
        self._files = files
        self._lock = threading.Lock()
        self._version = files.version()
        self._first = files.load()

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a server, which follow the files."""
        clients = self._files.client_ca is not None
        changed: Any = self.changed  # which may return None, though the stubs do not say so
        return grpc.dynamic_ssl_server_credentials(self._first, changed, clients)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files hold now; None where they are as before or, as the log says, of no use."""
        with self._lock:
            try:
                version = self._files.version()
                if version == self._version:
                    return None
                self._version = version  # what cannot be used is looked at again when it changes
                found = self._files.load()
            except (OSError, TlsFilesError) as error:
                log.error("the certificate stays as it is: %s", error)
                return None
        log.info("certificate %s read again", self._files.certificate)
        return found


def server_credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Return the credentials of a server with a certificate chain and its key, both PEM.

    Raises:
        OSError, TlsFilesError: as `TlsFiles.load`.
    """
    return ServerCertificates(TlsFiles(certificate, key)).credentials()


def channel_credentials(
    authority: Path, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    """Return the credentials of a client that trusts the root certificates in a PEM file.

    Args:
        authority: the root certificates.
        certificate: the client's own, where the server asks for one.
        key: of that.

    Raises:
        OSError: a file cannot be read.
        TlsFilesError: one holds no certificate or no usable key, or they do not belong together.
    """
    _check_certificates(authority)
    files = TlsFiles.of(certificate, key, None)
    if files is None:
        return grpc.ssl_channel_credentials(authority.read_bytes())
    files.load()
    return grpc.ssl_channel_credentials(
        authority.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )


def _check_certificates(file: Path) -> None:
    """Raise TlsFilesError unless a PEM file holds a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=file.read_text("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise TlsFilesError(f"{file} is no PEM certificate: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else "it cannot be read as PEM"
