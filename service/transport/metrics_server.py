"""The page of metrics: `/metrics` for Prometheus, `/ready` for probes.

In threads, so that it answers while the event loop is stuck; and bounded: whoever is slow holds one of a few places for
a few seconds. The page itself is prometheus_client's, the HTTP the standard library's; the limits are ours.

 1. At most MAX_CONNECTIONS at once, a thread each. When one more comes the oldest that has not yet asked goes; if all
    have, the new one does. So those who say nothing keep nobody out.
 2. After MAX_SECONDS a connection is closed, whatever it does: a byte now and then does not keep it.
 3. Of a request at most MAX_REQUEST_BYTES are read. After its answer the connection is closed.
 4. One page is made at a time: scraping faster does not take more of the interpreter from the calls.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from latentserve.errors import PermissionDenied, Unauthenticated
from service.api.access.callers import Access
from service.observing.metrics import Metrics
from service.transport.tls import Tls

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
"""Prometheus has one or two, a probe one more."""
MAX_SECONDS = 5.0
"""From the connection to the end of its answer, the handshake of TLS too. Prometheus waits 10 s by default."""
MAX_REQUEST_BYTES = 16 * 1024
LOOK_SECONDS = 0.25
"""How often connections are looked at."""
NO_FILES_SECONDS = 0.1
"""How long to wait for a file descriptor when there is none left."""

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Answer = tuple[str, list[tuple[str, str]], bytes]
NOT_READY = "503 Service Unavailable"


@dataclass(eq=False)
class Visit:
    """One connection."""

    socket: Any
    since: float
    asked: bool = False
    going: bool = False

    def hang_up(self) -> None:
        """Ends what its thread waits for; that closes it."""
        self.going = True
        with contextlib.suppress(OSError):  # it may have gone by itself
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)  # not ssl's own, which is not for other threads


class Page:
    """What is answered, as a WSGI application.

    Args:
        metrics: shown.
        is_ready: answers `/ready`.
        access: who may read the page; None: everybody.
        open_ready: whether `/ready` needs no token.
        open_metrics: whether the page needs none; else it is for administrators.
    """

    def __init__(
        self,
        metrics: Metrics,
        is_ready: Callable[[], bool],
        access: Access | None = None,
        open_ready: bool = True,
        open_metrics: bool = False,
    ) -> None:
        self._page = make_wsgi_app(metrics.registry)
        self._is_ready = is_ready
        self._access = access
        self._open_ready, self._open_metrics = open_ready, open_metrics
        self._one = threading.Lock()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """See PEP 3333."""
        status, headers, body = self._answer(environ)
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return () if environ["REQUEST_METHOD"] == "HEAD" else (body,)

    def _answer(self, environ: Environ) -> Answer:
        path, authorization = environ["PATH_INFO"], environ.get("HTTP_AUTHORIZATION")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text("405 Method Not Allowed", ("Allow", "GET, HEAD"))
        if path not in ("/", "/metrics", "/ready"):
            return _text("404 Not Found")
        if self._access is not None and (refusal := self._refusal(self._access, path, authorization)):
            return refusal
        if path == "/metrics":
            return self._metrics(environ)
        if path == "/ready":
            return _text("200 OK", body="SERVING") if self._is_ready() else _text(NOT_READY, body="NOT_SERVING")
        return _text("200 OK", body="/metrics /ready")

    def _metrics(self, environ: Environ) -> Answer:
        said: list[tuple[str, list[tuple[str, str]]]] = []
        with self._one:
            parts = self._page(
                {**environ, "REQUEST_METHOD": "GET"}, lambda status, headers: said.append((status, headers))
            )
        return *said[0], b"".join(parts)

    def _refusal(self, access: Access, path: str, authorization: str | None) -> Answer | None:
        if (self._open_ready and path == "/ready") or (self._open_metrics and path != "/ready"):
            return None
        try:
            caller = access.caller(authorization)
            if path == "/metrics":
                caller.check_admin()
        except Unauthenticated:
            return _text("401 Unauthorized", ("WWW-Authenticate", "Bearer"))
        except PermissionDenied:
            return _text("403 Forbidden")
        return None


def _text(status: str, *headers: tuple[str, str], body: str = "") -> Answer:
    return status, [("Content-Type", "text/plain; charset=utf-8"), *headers], f"{body or status}\n".encode()


class _Few(io.RawIOBase):
    """The first bytes of a stream; then it is at its end."""

    def __init__(self, raw: io.RawIOBase, most: int) -> None:
        self._raw, self._left = raw, most

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """See `io.RawIOBase`."""
        size: int | None = self._raw.readinto(memoryview(buffer)[: self._left])
        self._left -= size or 0
        return size

    def close(self) -> None:
        """See `io.RawIOBase`."""
        self._raw.close()
        super().close()


class _Handler(WSGIRequestHandler):
    """One request."""

    server: MetricsServer

    def setup(self) -> None:
        """See `socketserver`. What is read is bounded."""
        super().setup()
        self.rfile = io.BufferedReader(_Few(self.rfile.detach(), MAX_REQUEST_BYTES))

    def get_environ(self) -> Environ:
        """See `wsgiref`. By now the request was read."""
        self.server.asked(self.connection)
        return super().get_environ()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name)
        """At our log's lowest level; the line holds method and path, never a header."""
        log.debug("metrics page: " + format, *args)


class MetricsServer(WSGIServer):
    """Listens, in a thread of its own, from `start` to `stop`.

    Args:
        host: address to listen on.
        port: 0 for any free one.
        page: what is answered.
        metrics: hear of connections that were closed before their answer.
        tls: certificates; None: plaintext.

    Raises:
        OSError: the port is taken.
    """

    request_queue_size = 1024

    def __init__(self, host: str, port: int, page: Page, metrics: Metrics, tls: Tls | None = None) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        self._metrics = metrics
        self._tls = tls
        self._visits: list[Visit] = []  # from the oldest to the newest
        self._lock = threading.Lock()  # of the list, and of what closes a socket
        super().__init__((str(address[0]), port), _Handler)
        self.set_app(page)

    def server_bind(self) -> None:
        """See `socketserver`; without the look-up of our own name that the standard library makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def start(self) -> None:
        """Serves from now on."""
        threading.Thread(target=self.serve_forever, args=(LOOK_SECONDS,), name="metrics", daemon=True).start()

    def stop(self) -> None:
        """Stops serving, and closes all connections."""
        self.shutdown()
        self.server_close()
        with self._lock:
            for visit in self._visits:
                visit.hang_up()

    def get_request(self) -> tuple[socket.socket, Any]:
        """See `socketserver`. Without a file descriptor left it would be asked again at once, for ever."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(NO_FILES_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """See `socketserver`. A thread of its own, if there is a place."""
        visit = self._place(request)
        if visit is None:
            self.shutdown_request(request)
            return
        try:
            threading.Thread(target=self._serve, args=(visit, client_address), name="scrape", daemon=True).start()
        except RuntimeError as error:  # the system has no thread left
            log.error("metrics page: %s", error)
            self._leave(visit)

    def service_actions(self) -> None:
        """See `socketserver`: now and then, and between two connections. Those that have been here too long go."""
        with self._lock:
            for visit in self._visits:
                if time.monotonic() - visit.since > MAX_SECONDS and not visit.going:
                    self._closed(visit, "slow")

    def asked(self, connection: socket.socket) -> None:
        """Its request was read: it keeps its place from now on."""
        with self._lock:
            for visit in self._visits:
                visit.asked = visit.asked or visit.socket is connection

    def _place(self, request: socket.socket) -> Visit | None:
        with self._lock:
            staying = [visit for visit in self._visits if not visit.going]
            if len(staying) >= MAX_CONNECTIONS:
                silent = [visit for visit in staying if not visit.asked]
                if not silent or len(self._visits) >= 2 * MAX_CONNECTIONS:  # threads that are ending are threads, too
                    self._metrics.page_closed.labels("full").inc()
                    return None
                self._closed(silent[0], "full")
            visit = Visit(request, time.monotonic())
            self._visits.append(visit)
            return visit

    def _closed(self, visit: Visit, why: str) -> None:
        visit.hang_up()
        self._metrics.page_closed.labels(why).inc()

    def _serve(self, visit: Visit, client_address: Any) -> None:
        try:
            visit.socket.settimeout(2 * MAX_SECONDS)  # later than the look that closes it, and counts it
            if self._tls is not None:
                with self._lock:
                    page = self._tls.page
                    visit.socket = page.wrap_socket(visit.socket, server_side=True, do_handshake_on_connect=False)
                visit.socket.do_handshake()
            self.finish_request(visit.socket, client_address)
        except OSError as error:  # an SSLError is one
            log.debug("metrics page: %s", error)
        except Exception:
            log.exception("metrics page failed")
        finally:
            self._leave(visit)

    def _leave(self, visit: Visit) -> None:
        with self._lock:
            self._visits.remove(visit)
            self.shutdown_request(visit.socket)
