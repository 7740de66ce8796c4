"""Checks before any bundle is loaded that we can listen where we are told to."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from dataclasses import dataclass

log = logging.getLogger(__name__)


class AddressError(ValueError):
    """We cannot listen where we are told to. The message names the setting, what was got and expected."""


@dataclass(frozen=True)
class ListenConfig:
    """Where we listen, and what protects it.

    Attributes:
        host: address.
        port: of gRPC.
        metrics_port: of the page of metrics.
        shares_port: gRPC's is opened with SO_REUSEPORT, as grpcio does.
        has_tls: gRPC speaks TLS.
        has_client_ca: gRPC asks clients for certificates.
        has_tokens: calls need a token.
        open_metrics: the page of metrics needs none even so.
        metrics_tls: the page of metrics speaks TLS.
    """

    host: str
    port: int
    metrics_port: int
    shares_port: bool
    has_tls: bool
    has_client_ca: bool
    has_tokens: bool
    open_metrics: bool
    metrics_tls: bool


def check_addresses(config: ListenConfig) -> None:
    """Binds to both ports and closes them. Who takes one in the meantime is met when it is listened on.

    Raises:
        AddressError: the host is no address of this machine, or a port is taken or not ours to take.
    """
    for name in ("port", "metrics_port"):
        port: int = getattr(config, name)
        try:
            for kind, _, _, _, address in socket.getaddrinfo(config.host, port, type=socket.SOCK_STREAM):
                _bind(kind, address, shared=name == "port" and config.shares_port)
        except (socket.gaierror, UnicodeError) as error:
            raise _no_host(config.host, getattr(error, "strerror", None) or "no name") from error
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.EADDRNOTAVAIL:
                raise _no_host(config.host, why) from error
            raise AddressError(
                f"{name}: got {port}, expected a port that can be listened on ({why}): cannot listen on"
                f" {config.host}:{port}"
            ) from error


def warn_of_openness(config: ListenConfig) -> None:
    """Warns in the log of what any client may do, if others than this machine can reach us."""
    if _is_loopback(config.host):
        return
    where = f"it listens on {config.host}, beyond loopback,"
    if not config.has_tls:
        what = "tokens and rows can be" if config.has_tokens else "rows can be"
        log.warning("%s without tls_certificate: %s read and changed on the way", where, what)
    if not config.has_tokens and not config.has_client_ca:
        log.warning("%s without tokens or tls_client_ca: whoever reaches port %d may call", where, config.port)
    if not config.has_tokens or config.open_metrics:
        if not (config.metrics_tls and config.has_client_ca):
            log.warning("%s: whoever reaches port %d reads the metrics", where.rstrip(","), config.metrics_port)
    elif not config.metrics_tls:
        log.warning("%s without metrics_tls: an administrator's token can be read on the way", where)


def _is_loopback(host: str) -> bool:
    """Whether all of the host's addresses are this machine's own."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
    except (OSError, ValueError):
        return False


def _no_host(host: str, why: str) -> AddressError:
    return AddressError(f"host: got {host!r}, expected an address of this machine ({why})")


def _bind(kind: int, address: object, shared: bool) -> None:
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that has just ended
        if shared:  # as grpcio does
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind(address)  # type: ignore[arg-type]
