"""TLS: who we are to our clients and, if asked, who they must be.

Both transports take their keys from here. `renew` reads the files again for connections made from then on, so that a
certificate that runs out is replaced (SIGHUP) while the service goes on.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

HANDSHAKE_SECONDS = 10.0
"""A client that says nothing for so long is let go."""


class TlsError(ValueError):
    """A file is not there, or not what it should be. The message names it."""


@dataclass(frozen=True)
class TlsFiles:
    """Where keys lie, each a PEM file.

    Attributes:
        certificate: ours, then those that lead to a root.
        key: of ours.
        client_ca: whose signature a client's certificate must bear; None: clients need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Tls:
    """Keys in force. Nothing older than TLS 1.2, as HTTP/2 demands (RFC 9113, 9.2).

    Args:
        files: read at once.

    Attributes:
        context: for servers on asyncio; `renew` changes it in place.

    Raises:
        TlsError: see there.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._pem = _read(files)
        self.context = _context(files)

    def renew(self) -> None:
        """Reads certificate, key and client authorities again; if they do not fit, the old ones stay.

        Raises:
            TlsError: see there.
        """
        pem = _read(self._files)
        _context(self._files)  # a context of its own first: half of a new pair must not replace the old one
        self._pem = pem
        _load(self.context, self._files)

    def credentials(self) -> grpc.ServerCredentials:
        """For grpcio's servers, which ask for what is in force at each new connection."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._configuration, require_client_authentication=self._files.client_ca is not None
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, client_ca = self._pem
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise TlsError(
            f"tls_certificate, tls_key: got {files.certificate} and {files.key}, expected a certificate and its own"
            f" unencrypted key, in PEM: {error}"
        ) from error
    if files.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            raise TlsError(f"tls_client_ca: got {files.client_ca}, expected certificates in PEM: {error}") from error


def _no_password() -> str:
    """Else OpenSSL would ask the terminal, and the server hang."""
    raise ValueError("the key is encrypted")


def _read(files: TlsFiles) -> tuple[bytes, bytes, bytes | None]:
    def read(name: str, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise TlsError(f"{name}: got {path}, expected a file that can be read: {error}") from error

    client_ca = None if files.client_ca is None else read("tls_client_ca", files.client_ca)
    return read("tls_certificate", files.certificate), read("tls_key", files.key), client_ca
