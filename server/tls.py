"""TLS certificates and keys, checked before gRPC reads them, which does not say what is wrong with one."""

import ssl
from pathlib import Path

import grpc


class TlsFilesError(ValueError):
    """A PEM file cannot be used for TLS; the message names it."""


def server_credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Return the credentials of a server with a certificate chain and its key, both PEM.

    Raises:
        OSError: a file cannot be read.
        TlsFilesError: a file holds no certificate or no usable key, or they do not belong together.
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
        _check_certificates(certificate)
        raise TlsFilesError(f"{key} is no PEM private key that can be used: {_reason(error)}") from error
    return grpc.ssl_server_credentials([loaded])


def channel_credentials(authority: Path) -> grpc.ChannelCredentials:
    """Return the credentials of a client that trusts the root certificates in a PEM file.

    Raises:
        OSError: the file cannot be read.
        TlsFilesError: it holds no certificate.
    """
    _check_certificates(authority)
    return grpc.ssl_channel_credentials(authority.read_bytes())


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
