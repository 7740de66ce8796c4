"""Every client, alone or behind a proxy, at every check, on one transport of the service."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trustme

from benchmarks.clients.outcomes import Cell
from benchmarks.clients.programs import Program
from benchmarks.clients.proxies import Proxy
from benchmarks.clients.questions import Questions, questions
from benchmarks.clients.running import Check, checks, run, run_drain, run_idle
from benchmarks.processes.served import ServedProcess

CHECKS = ("unary", "error", "deadline", "cancel", "stream", "30 MB", "gzip", "tls", "keep-alive", "drain")
ARGUMENTS = ("--max-batch-rows", "1", "--max-queue-rows", "16384", "--intra-op-threads", "1")
"""Batches of one row make a request of 1,024 take long enough to be cancelled; the queue holds all of a drain's."""


class ProxyError(Exception):
    """A proxy did not start; the message says why."""


@dataclass(frozen=True)
class Client:
    """A client, maybe behind a proxy.

    Attributes:
        program: the client.
        proxy: before the server.
    """

    program: Program
    proxy: Proxy | None = None

    @property
    def name(self) -> str:
        """For the table."""
        return self.program.name if self.proxy is None else f"{self.program.name} through {self.proxy.name}"

    @property
    def version(self) -> str:
        """Of what it is about."""
        return self.program.version if self.proxy is None else self.proxy.version

    def cannot(self, check: str) -> str:
        """Why it does not do that check; empty if it does."""
        if self.proxy is not None and check == "tls":
            return "proxies are called in plaintext"
        lacks = self.program.lacks or (self.proxy.lacks if self.proxy else "")
        return lacks or self.program.cannot.get(check, "")

    @contextmanager
    def at(self, server: ServedProcess, folder: Path) -> Iterator[str]:
        """Where its program calls: the server, or the proxy that is started before it."""
        if self.proxy is None:
            yield server.target
            return
        folder.mkdir(parents=True)
        with ExitStack() as stack:
            try:
                process = stack.enter_context(self.proxy.before(int(server.target.rpartition(":")[2]), folder))
            except RuntimeError as error:
                raise ProxyError(" ".join(str(error).split())) from error
            yield process.target


@dataclass(frozen=True)
class Row:
    """What one client got.

    Attributes:
        client: its name.
        version: of the client's library, or of the proxy.
        cells: by check.
    """

    client: str
    version: str
    cells: dict[str, Cell]


class Matrix:
    """Fills the table of one transport.

    Args:
        models: model repository with one model of images.
        transport: of the service.
        clients: rows.
        names: of checks: columns.
        idle_seconds: of `keep-alive`.
        scratch: an empty folder.
    """

    def __init__(
        self,
        models: Path,
        transport: str,
        clients: Sequence[Client],
        names: Sequence[str],
        idle_seconds: int,
        scratch: Path,
    ) -> None:
        self._models, self._arguments = models, (*ARGUMENTS, "--transport", transport)
        self._clients, self._names = clients, names
        self._idle_seconds, self._scratch = idle_seconds, scratch
        self._cells: dict[tuple[str, str], Cell] = {}

    def rows(self) -> list[Row]:
        """Asks everything."""
        for client in self._clients:
            if not client.program.lacks:
                client.program.build()
        with self._server("clear") as server:
            found = questions(server.target)
            self._plain(server, found)
            self._idle(server, found)
        self._tls(found)
        self._drain(found)
        return [
            Row(client.name, client.version, {name: self._cells[client.name, name] for name in self._names})
            for client in self._clients
        ]

    def _plain(self, server: ServedProcess, found: Questions) -> None:
        """One client after another, each over connections of its own."""
        for client in self._clients:
            for name, check in checks(found).items():
                self._fill(client, name, partial(self._one, server, found, check))

    def _one(self, server: ServedProcess, found: Questions, check: Check, client: Client, folder: Path) -> Cell:
        with client.at(server, folder / "proxy") as target:
            return run(client.program, target, check, found, folder / "client")

    def _idle(self, server: ServedProcess, found: Questions) -> None:
        """All clients at once: they do nothing most of the time."""

        def idle(client: Client, folder: Path) -> Cell:
            with client.at(server, folder / "proxy") as target:
                return run_idle(client.program, target, self._idle_seconds, found, folder / "client")

        with ThreadPoolExecutor(len(self._clients)) as pool:
            list(pool.map(lambda client: self._fill(client, "keep-alive", idle), self._clients))

    def _tls(self, found: Questions) -> None:
        if "tls" not in self._names:
            return
        authority, folder = trustme.CA(), self._scratch / "certificates"
        folder.mkdir()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
        issued.private_key_pem.write_to_path(str(folder / "key.pem"))
        certificates = ("--tls-certificate", str(folder / "certificate.pem"), "--tls-key", str(folder / "key.pem"))
        check = checks(found)["unary"]

        def secure(client: Client, folder: Path) -> Cell:
            ca = authority.cert_pem.bytes()
            return run(client.program, server.target, check, found, folder / "client", ca)

        with self._server("tls", *certificates) as server:
            for client in self._clients:
                self._fill(client, "tls", secure)

    def _drain(self, found: Questions) -> None:
        """A server for each client, which it sees end."""

        def drained(client: Client, folder: Path) -> Cell:
            with self._server(folder.name) as server, client.at(server, folder / "proxy") as target:
                return run_drain(client.program, target, server, found, folder / "client")

        for client in self._clients:
            self._fill(client, "drain", drained)

    def _server(self, name: str, *more: str) -> ServedProcess:
        return ServedProcess(self._models, self._scratch / f"{name}.log", (*self._arguments, *more))

    def _fill(self, client: Client, name: str, ask: Callable[[Client, Path], Cell]) -> None:
        """Asks, unless it was not wished for or cannot be."""
        if name not in self._names:
            return
        why = client.cannot(name)
        folder = self._scratch / f"{client.name}-{name}".replace(" ", "-")  # nginx takes no spaces
        try:
            cell = Cell("not run", why) if why else ask(client, folder)
        except ProxyError as error:
            cell = Cell("not run", str(error))
        self._cells[client.name, name] = cell
        print(f"{client.name}, {name}: {cell.outcome} {cell.why}".rstrip(), file=sys.stderr, flush=True)
