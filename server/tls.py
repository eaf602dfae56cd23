"""TLS certificates and keys of a server.

A server looks at its files with each handshake, so that a renewed certificate is used by the next connection.
"""

import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from triptych_client import TlsFilesError, read_certificates, read_key_pair

log = logging.getLogger(__name__)


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
        loaded = read_key_pair(self.key, self.certificate)
        roots = None if self.client_ca is None else read_certificates(self.client_ca)
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
