"""PEM files of TLS, checked before gRPC reads them, which does not say what is wrong with one."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc


class TlsFilesError(ValueError):
    """A PEM file cannot be used for TLS; the message names it."""


@dataclass(frozen=True)
class Tls:
    """PEM files of a client.

    Attributes:
        ca: root certificates that the client trusts.
        certificate: the client's own, where the server asks for one.
        key: of that.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials of a channel.

        Raises:
            OSError: a file cannot be read.
            TlsFilesError: one holds no certificate or no usable key, they do not belong together, or one of
                the two is missing.
        """
        roots = read_certificates(self.ca)
        if self.certificate is None and self.key is None:
            return grpc.ssl_channel_credentials(roots)
        if self.certificate is None or self.key is None:
            raise TlsFilesError("TLS needs both a certificate and a key")
        key, certificate = read_key_pair(self.key, self.certificate)
        return grpc.ssl_channel_credentials(roots, key, certificate)


def read_certificates(file: Path) -> bytes:
    """Return the content of a PEM file of certificates.

    Raises:
        OSError: it cannot be read.
        TlsFilesError: it holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    content = file.read_bytes()
    try:
        context.load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise TlsFilesError(f"{file} is no PEM certificate: {_reason(error)}") from error
    return content


def read_key_pair(key: Path, certificate: Path) -> tuple[bytes, bytes]:
    """Return the content of the PEM files of a private key and of its certificate, or of a chain of them.

    Raises:
        OSError: one cannot be read.
        TlsFilesError: one holds no certificate or no usable key, or they do not belong together.
    """
    loaded = key.read_bytes(), certificate.read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if b"ENCRYPTED" in loaded[0]:
        raise TlsFilesError(f"the key {key} is encrypted: give one without a pass phrase")
    try:
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFilesError(f"the key {key} does not belong to the certificate {certificate}") from error
        read_certificates(certificate)
        raise TlsFilesError(f"{key} is no PEM private key that can be used: {_reason(error)}") from error
    return loaded


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else "it cannot be read as PEM"
