"""Certificates and keys, checked before gRPC takes them, which does not say what is wrong with one."""

import ssl
from pathlib import Path

import grpc


class TlsFilesError(ValueError):
    """A PEM file cannot be used for TLS; the message names it."""


def server_credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Return what a server proves itself with.

    Raises:
        OSError: a file cannot be read.
        TlsFilesError: a file is not what it should be, or the key is another certificate's.
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
    """Return what a client checks servers with: PEM root certificates.

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
