"""What SIGHUP does: settings, models, certificates and tokens are read anew. What is wrong changes nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from functools import partial

from latentserve.errors import BundleError
from service.api.access.callers import Access
from service.api.access.grants import TokenFile, TokensError
from service.api.model_health import ModelHealth
from service.config import AT_RUN_TIME, Config, ConfigError, changed
from service.engine.providers import DeviceError
from service.models.engines import Workers
from service.models.queues import ModelQueues, RunningModel, notice
from service.models.repository import Repository, scan
from service.observing.metrics import Metrics
from service.transport import tls
from service.transport.tls import Tls, TlsError

log = logging.getLogger(__name__)

LAST_CALLS_SECONDS = 5.0
"""How long an unloaded model still answers calls that found it before: they may be reading their rows."""


class Reload:
    """Settings, models, certificates and tokens: those in force, and how others take their place.

    Certificates and tokens are also read again when their files change.

    Args:
        config: settings to start with.
        read_again: returns the settings anew; None: they stay as they are.
        metrics: record what is in force.
        workers: of the models.
        repository: the models.
        queues: of the models.
        health: of the models.

    Attributes:
        config: settings in force.
        tls: certificates in force; None: plaintext.
        access: tokens in force; None: everybody may call.

    Raises:
        TlsError: the certificates are not what they should be.
        TokensError: the tokens are not.
    """

    def __init__(
        self,
        config: Config,
        read_again: Callable[[], Config] | None,
        metrics: Metrics,
        workers: Workers,
        repository: Repository,
        queues: ModelQueues,
        health: ModelHealth,
    ) -> None:
        self.config = config
        self._read_again = read_again
        self._metrics = metrics
        self._workers = workers
        self._repository = repository
        self._queues = queues
        self._health = health
        self._well = {"certificates": True, "tokens": True, "settings": True, "models": True}
        self._one_scan = asyncio.Lock()
        self._scans: set[asyncio.Task[None]] = set()
        self._leaving = threading.Event()
        self.tls = Tls(config.tls) if config.tls else None
        self._token_file = TokenFile(config.tokens) if config.tokens else None
        self.access: Access | None = None
        if self._token_file is not None:
            self.access = Access(self._token_file.grants, metrics, config.open_health, config.open_reflection)
        if self.tls is not None:
            metrics.tls_expiry.set(self.tls.expires)

    def watch(self) -> list[asyncio.Task[None]]:
        """Reads certificates and tokens again when their files change, until these tasks are cancelled."""
        tasks = []
        if self.tls is not None:
            tasks.append(asyncio.create_task(tls.watch(self.tls, self._certificates)))
        if self._token_file is not None:
            tasks.append(asyncio.create_task(tls.watch(self._token_file, self._tokens)))
        return tasks

    def everything(self) -> None:
        """Takes over certificates, tokens and settings at once; models follow in a task of their own."""
        if self._leaving.is_set():
            return
        self._certificates()
        self._tokens()
        self.report("settings", self._settings())
        task = notice(asyncio.create_task(self._models(), name="reload"))
        self._scans.add(task)
        task.add_done_callback(self._scans.discard)

    def stop(self) -> None:
        """Reads nothing any more; a scan that is under way ends with the bundle that it loads."""
        self._leaving.set()
        for task in self._scans:
            task.cancel()

    def report(self, part: str, well: bool) -> None:
        """Records whether what was last asked for of one part is in force."""
        self._well[part] = well
        self._metrics.config_reload_ok.set(all(self._well.values()))

    def _settings(self) -> bool:
        """Whether those in force are those asked for."""
        if self._read_again is None:
            return True
        try:
            new = self._read_again()
        except (ConfigError, OSError) as error:
            log.error("settings not reloaded: %s", error)
            return False
        taken, left = changed(self.config, new)
        self.config = self.config.model_copy(update={name: getattr(new, name) for name in taken})
        self._queues.bound(self.config.queue)
        logging.getLogger().setLevel(self.config.log_level.upper())
        log.info(
            "settings reloaded: %s", {name: getattr(self.config, name) for name in sorted(taken)} or "none changed"
        )
        if left:
            log.error("need a restart: %s; at run time only %s may change", sorted(left), ", ".join(AT_RUN_TIME))
        return not left

    async def _models(self) -> None:
        """Loads what is new, then lets it answer; unloads models whose folders have been removed."""
        # In a thread of its own: what must be done on a GPU is done there, on one instance after another.
        config = self.config.models_config
        work = partial(scan, config, self._metrics, self._workers, self._repository, self._leaving)
        async with self._one_scan:
            try:
                found = await asyncio.get_running_loop().run_in_executor(None, work)
            except Exception as error:  # whatever it is, what is served goes on
                expected = isinstance(error, (BundleError, DeviceError, OSError))
                log.error("models not reloaded: %s", error, exc_info=not expected)
                self.report("models", False)
                return
            for model in found.loaded:
                self._queues.start(model, self.config.queue)
            self._repository.take(found)
            await self._health.say(found.unloaded)
            self.report("models", True)
        loaded, unloaded, rejected = len(found.loaded), len(found.unloaded), len(found.rejected)
        log.info("models reloaded: %d loaded, %d unloaded, %d rejected", loaded, unloaded, rejected)
        going = self._queues.those_of(found.unloaded)
        found.unloaded.clear()
        if going:
            await asyncio.sleep(LAST_CALLS_SECONDS)
            await self._unload(going)

    async def _unload(self, going: list[RunningModel]) -> None:
        """Empties the list: whoever still held a model would keep its memory."""
        keys = [one.model.key for one in going]
        while going:
            await self._queues.retire(going.pop())
        async with self._one_scan:  # one that is being loaded again has its metrics already
            for name, version in keys:
                if version not in self._repository.models.get(name, {}):
                    self._metrics.forget(name, str(version))
        gc.collect()  # sessions lie in cycles, and their memory may be a GPU's

    def _certificates(self) -> None:
        """New connections get what is in the files."""
        if self.tls is None:
            return
        try:
            self.tls.renew()
        except TlsError as error:
            log.error("certificates not reloaded: %s", error)
            self.report("certificates", False)
            return
        self._metrics.tls_expiry.set(self.tls.expires)
        self.report("certificates", True)
        log.info("certificates reloaded")

    def _tokens(self) -> None:
        """New calls, and the next message of each open stream, are checked against what is in the file."""
        if self._token_file is None or self.access is None:
            return
        try:
            grants = self._token_file.renew()
        except TokensError as error:
            log.error("tokens not reloaded: %s", error)
            self.report("tokens", False)
            return
        self.access.take(grants)
        self.report("tokens", True)
        log.info("tokens reloaded: %s", ", ".join(grant.name for grant in grants))
