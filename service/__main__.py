"""Serves every bundle until SIGTERM or Ctrl-C: `python -m service --models models/`.

`python -m service tokens` makes bearer tokens (`service.api.access.tokens`).
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
import sys
from collections.abc import Callable

from latentserve.errors import BundleError
from service.api.access.grants import TokensError, read_grants
from service.config import Config, ConfigError, load_config
from service.engine.devices import DeviceError, check_gpus
from service.server import Server
from service.transport.addresses import AddressError, check_addresses
from service.transport.tls import TlsError
from service.transport.transports import TransportError


async def serve(config: Config, arguments: list[str]) -> None:
    """Runs a server until it is told to stop."""
    async with Server(config, read_again=lambda: load_config(arguments)) as server:
        print(f"ready grpc={config.host}:{server.port} metrics={config.host}:{server.metrics_port}", flush=True)
        await server.until_signal()
    if not server.has_ended:  # Python would wait for that thread
        logging.shutdown()
        os._exit(0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    return uvloop.new_event_loop


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if arguments[:1] == ["tokens"]:
        from service.api.access import tokens

        return tokens.main(arguments[1:])
    try:
        _check_options(arguments)
        config = load_config(arguments)
        logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("hpack").setLevel(logging.INFO)  # at debug it logs every header, tokens too
        logging.info("config: %s", config)
        check_addresses(config.listen)
        check_gpus(config.devices)
        if config.tokens is not None:
            read_grants(config.tokens)  # before the work of loading bundles
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(config, arguments))
    except (
        ConfigError,
        AddressError,
        BundleError,
        DeviceError,
        TlsError,
        TokensError,
        TransportError,
        OSError,
    ) as error:
        print(f"error: {_in_words(error)}", file=sys.stderr)
        return 1
    return 0


def _check_options(arguments: list[str]) -> None:
    """Raises ConfigError for an option that there is not, with the nearest that there is."""
    known = ["--help", *("--" + name.replace("_", "-") for name in Config.model_fields)]
    for one in arguments:
        name = one.partition("=")[0]
        if name.startswith("--") and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"options: got {name}, which is none{meant} (--help lists all)")


def _in_words(error: Exception) -> str:
    """What the operating system says without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    return str(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
