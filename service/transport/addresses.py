"""Whether we could listen where we are told to, asked before any bundle is opened."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket

from service.config import Config, ConfigError

log = logging.getLogger(__name__)


def check_addresses(config: Config) -> None:
    """Binds to both ports and lets go of them. Who takes one in the meantime is met when it is listened on.

    Raises:
        ConfigError: the host is no address of this machine, or a port is taken or not ours to take.
    """
    for name in ("port", "metrics_port"):
        port: int = getattr(config, name)
        try:
            for kind, _, _, _, address in socket.getaddrinfo(config.host, port, type=socket.SOCK_STREAM):
                _bind(kind, address, shared=name == "port" and config.transport == "grpcio")
        except (socket.gaierror, UnicodeError) as error:
            raise _no_host(config.host, getattr(error, "strerror", None) or "no name") from error
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.EADDRNOTAVAIL:
                raise _no_host(config.host, why) from error
            raise ConfigError(
                f"{name}: got {port}, expected a port that can be listened on ({why}): cannot listen on"
                f" {config.host}:{port}"
            ) from error


def warn_of_openness(config: Config) -> None:
    """Says in the log what whoever reaches us may do, where that is more than this machine."""
    if _is_loopback(config.host):
        return
    where = f"it listens on {config.host}, beyond loopback,"
    if config.tls is None:
        what = "tokens and rows can be" if config.tokens else "rows can be"
        log.warning("%s without tls_certificate: %s read and changed on the way", where, what)
    if config.tokens is None and config.tls_client_ca is None:
        log.warning("%s without tokens or tls_client_ca: whoever reaches port %d may call", where, config.port)
    if config.tokens is None or config.open_metrics:
        if not (config.metrics_tls and config.tls_client_ca):
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


def _no_host(host: str, why: str) -> ConfigError:
    return ConfigError(f"host: got {host!r}, expected an address of this machine ({why})")


def _bind(kind: int, address: object, shared: bool) -> None:
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that has just ended
        if shared:  # as grpcio does
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind(address)  # type: ignore[arg-type]
