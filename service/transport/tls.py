"""TLS: our certificate and, if configured, the authorities of our clients' certificates.

Both transports take their certificates from here. `renew` reads the files again for connections made from then on, so
that a certificate that runs out is replaced while the service goes on.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
from cryptography import x509

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
"""The connection of a client that says nothing for so long is closed."""
CHECK_SECONDS = 30.0
"""How often the files are checked: whatever renews certificates replaces them without a signal."""


class TlsError(ValueError):
    """A file is not there, or not what it should be. The message names it."""


@dataclass(frozen=True)
class TlsFiles:
    """Where the certificates are, each a PEM file.

    Attributes:
        certificate: ours, then those that lead to a root.
        key: of ours.
        client_ca: whose signature a client's certificate must bear, roots or not; None: clients need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


class _Spoken(ssl.SSLObject):
    """One connection, which logs why it was rejected: its client may not know."""

    def do_handshake(self) -> None:
        """See `ssl.SSLObject`."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            log.info("a client was rejected in the handshake: %s", error)
            raise


class _Current(ssl.SSLContext):
    """Gives each new connection to the context in force. One that is in use cannot be made to forget an authority."""

    now: ssl.SSLContext

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext`; the one way in which asyncio and uvloop use a context."""
        return self.now.wrap_bio(*args, **kwargs)


class Tls:
    """Certificates in force. Nothing older than TLS 1.2, as HTTP/2 demands (RFC 9113, 9.2).

    Args:
        files: read at once.

    Attributes:
        context: for servers on asyncio.
        page: for the page of metrics, on threads; the one in force, another after `renew`.
        expires: when our certificate ends, Unix time.

    Raises:
        TlsError: see there.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self.context = _Current(ssl.PROTOCOL_TLS_SERVER)
        self.renew()

    def renew(self) -> None:
        """Reads the files again. If they do not fit, all stays as it was.

        Raises:
            TlsError: see there.
        """
        seen, pem, context = _seen(self._files), _read(self._files), _context(self._files)
        page = _context(self._files, "http/1.1")
        self.expires = _expires(self._files.certificate, pem[0])
        self._seen, self._pem, self.context.now, self.page = seen, pem, context, page

    def changed(self) -> bool:
        """Whether the files are others than those in force."""
        return _seen(self._files) != self._seen

    def credentials(self) -> grpc.ServerCredentials:
        """For grpcio's servers, which ask for what is in force at each new connection."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._configuration, require_client_authentication=self._files.client_ca is not None
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, client_ca = self._pem
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


class Watched(Protocol):
    """Files that are checked."""

    def changed(self) -> bool:
        """Whether they are others than those in force."""


async def watch(files: Watched, renew: Callable[[], object], every_seconds: float = CHECK_SECONDS) -> None:
    """Calls `renew` when the files have changed, until it is cancelled."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            if files.changed():
                renew()
        except Exception:  # whatever it is, the next check may find better files
            log.exception("files not checked")


def _paths(files: TlsFiles) -> dict[str, Path]:
    named = {"tls_certificate": files.certificate, "tls_key": files.key}
    return named if files.client_ca is None else {**named, "tls_client_ca": files.client_ca}


def _seen(files: TlsFiles) -> list[tuple[int, int] | None]:
    """What tells that a file is another one, for each."""

    def stamp(path: Path) -> tuple[int, int] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    return [stamp(path) for path in _paths(files).values()]


def _read(files: TlsFiles) -> tuple[bytes, bytes, bytes | None]:
    contents = {}
    for name, path in _paths(files).items():
        try:
            contents[name] = path.read_bytes()
        except OSError as error:
            raise TlsError(f"{name}: got {path}, expected a file that can be read: {error}") from error
    return contents["tls_certificate"], contents["tls_key"], contents.get("tls_client_ca")


def _context(files: TlsFiles, protocol: str = "h2") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Spoken
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise TlsError(
            f"tls_certificate, tls_key: got {files.certificate} and {files.key}, expected a certificate and its own"
            f" unencrypted key, in PEM: {error}"
        ) from error
    if files.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(files.client_ca)
        except OSError as error:
            raise TlsError(f"tls_client_ca: got {files.client_ca}, expected certificates in PEM: {error}") from error
    return context


def _no_password() -> str:
    """Else OpenSSL would ask the terminal, and the server hang."""
    raise ValueError("the key is encrypted")


def _expires(path: Path, pem: bytes) -> float:
    try:
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    except (ValueError, x509.InvalidVersion) as error:
        raise TlsError(f"tls_certificate: got {path}, expected a certificate in PEM: {error}") from error
