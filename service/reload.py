"""Keys and tokens: read at the start, read again on SIGHUP or when a file changes. What is wrong changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from service.api.access.callers import Access
from service.api.access.grants import TokenFile, TokensError
from service.config import Config
from service.observing.metrics import Metrics
from service.transport import tls
from service.transport.tls import Tls, TlsError

log = logging.getLogger(__name__)


class Renewal:
    """Who we are and who gets in.

    Args:
        config: names the files.
        metrics: hear of it.
        told: called with `keys` or `tokens` and whether what was last read is in force.

    Attributes:
        tls: None: in the clear.
        access: None: everybody may.

    Raises:
        TlsError: the keys are not what they should be.
        TokensError: the tokens are not.
    """

    def __init__(self, config: Config, metrics: Metrics, told: Callable[[str, bool], None]) -> None:
        self._metrics = metrics
        self._told = told
        self.tls = Tls(config.tls) if config.tls else None
        self._file = TokenFile(config.tokens) if config.tokens else None
        self.access: Access | None = None
        if self._file is not None:
            self.access = Access(self._file.grants, metrics, config.open_health, config.open_reflection)
        if self.tls is not None:
            metrics.tls_expiry.set(self.tls.expires)

    def watch(self) -> list[asyncio.Task[None]]:
        """Looks at the files until these are cancelled."""
        tasks = []
        if self.tls is not None:
            tasks.append(asyncio.create_task(tls.watch(self.tls, self._renew_keys)))
        if self._file is not None:
            tasks.append(asyncio.create_task(tls.watch(self._file, self._renew_tokens)))
        return tasks

    def renew(self) -> None:
        """Reads all files again."""
        self._renew_keys()
        self._renew_tokens()

    def _renew_keys(self) -> None:
        """New connections get what is in the files."""
        if self.tls is None:
            return
        try:
            self.tls.renew()
        except TlsError as error:
            log.error("keys not reloaded: %s", error)
            self._told("keys", False)
            return
        self._metrics.tls_expiry.set(self.tls.expires)
        self._told("keys", True)
        log.info("keys reloaded")

    def _renew_tokens(self) -> None:
        """New calls, and the next message of each open stream, are held against what is in the file."""
        if self._file is None or self.access is None:
            return
        try:
            grants = self._file.renew()
        except TokensError as error:
            log.error("tokens not reloaded: %s", error)
            self._told("tokens", False)
            return
        self.access.take(grants)
        self._told("tokens", True)
        log.info("tokens reloaded: %s", ", ".join(grant.name for grant in grants))
