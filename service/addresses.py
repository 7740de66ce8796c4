"""Whether we could listen where we are told to, asked before any bundle is opened."""

from __future__ import annotations

import errno
import socket

from service.config import Config, ConfigError


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
            raise ConfigError(f"{name}: got {port}, expected a port that can be listened on ({why})") from error


def _no_host(host: str, why: str) -> ConfigError:
    return ConfigError(f"host: got {host!r}, expected an address of this machine ({why})")


def _bind(kind: int, address: object, shared: bool) -> None:
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that has just ended
        if shared:  # as grpcio does
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind(address)  # type: ignore[arg-type]
