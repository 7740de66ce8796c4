"""The page of metrics under slow, silent and stuck scrapers, with tokens and with TLS."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from service.api.access.callers import Access
from service.api.access.grants import Grant
from service.observing.metrics import Metrics
from service.transport import metrics_server
from service.transport.metrics_server import MAX_CONNECTIONS, MAX_REQUEST_BYTES, MetricsServer, Page
from service.transport.tls import Tls, TlsFiles
from tests.service.transport.test_tls import keys
from tests.waiting import eventually

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.contextmanager
def serving(access: Access | None = None, tls: Tls | None = None, **options: bool) -> Iterator[MetricsServer]:
    metrics = Metrics()
    server = MetricsServer("127.0.0.1", 0, Page(metrics, lambda: True, access, **options), metrics, tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def asked(
    server: MetricsServer, method: str = "GET", path: str = "/metrics", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def threads() -> int:
    return sum(thread.name == "scrape" for thread in threading.enumerate())


def closed(server: MetricsServer, reason: str) -> float:
    return server._metrics.page_closed.labels(reason)._value.get()  # type: ignore[no-any-return]


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed; what it sent before is thrown away."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def test_what_is_there_and_what_is_not() -> None:
    with serving() as server:
        answer, page = asked(server)
        assert answer.status == 200
        assert b"latentserve_ready" in page
        assert answer.headers["Content-Length"] == str(len(page))
        answer, packed = asked(server, Accept_Encoding="gzip")
        assert answer.headers["Content-Encoding"] == "gzip"
        assert b"latentserve_ready" in gzip.decompress(packed)
        answer, body = asked(server, "HEAD")
        assert (answer.status, body) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 1000
        openmetrics, _ = asked(server, Accept="application/openmetrics-text")
        assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
        _, some = asked(server, path="/metrics?name[]=latentserve_ready")
        assert [line for line in some.splitlines() if not line.startswith(b"#")] == [b"latentserve_ready 0.0"]
        for path in ("/metric", "/../../etc/passwd", "/metrics/", "/favicon.ico"):
            assert asked(server, path=path)[0].status == 404
        for method in ("POST", "DELETE", "OPTIONS"):
            answer, _ = asked(server, method)
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
        assert asked(server, path="/ready")[1] == b"SERVING\n"
        assert asked(server, path="/")[1] == b"/metrics /ready\n"


def test_those_who_say_nothing_keep_nobody_out_and_take_few_threads() -> None:
    with serving() as server, contextlib.ExitStack() as held:
        silent = []
        for number in range(10 * MAX_CONNECTIONS):
            one = held.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
            one.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" if number % 2 else b"G")
            silent.append(one)
            assert threads() <= 2 * MAX_CONNECTIONS
        assert asked(server)[0].status == 200
        eventually(lambda: threads() <= MAX_CONNECTIONS)
        assert asked(server)[0].status == 200
        eventually(lambda: sum(not is_closed(one) for one in silent) < MAX_CONNECTIONS)
        assert closed(server, "full") > 0


def test_a_byte_now_and_then_does_not_keep_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "MAX_SECONDS", 1.0)
    with serving() as server, socket.create_connection(("127.0.0.1", server.server_port)) as slow:
        slow.send(b"GET /metrics HTTP/1.1\r\nX-Long: ")

        def dripped() -> bool:
            with contextlib.suppress(OSError):
                slow.setblocking(True)
                slow.send(b"a")
            return is_closed(slow)

        eventually(dripped)
        eventually(lambda: threads() == 0)
        assert closed(server, "slow") == 1


def test_who_does_not_read_is_let_go_and_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "MAX_SECONDS", 1.0)
    with serving() as server, contextlib.ExitStack() as held:
        for number in range(3000):  # a page that no socket's buffers hold
            server._metrics.access_rows.labels("x" * 1000 + str(number))
        for _ in range(MAX_CONNECTIONS):
            stuck = held.enter_context(socket.socket())
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            stuck.connect(("127.0.0.1", server.server_port))
            stuck.send(GET)
        eventually(lambda: closed(server, "slow") == MAX_CONNECTIONS)
        eventually(lambda: threads() == 0)
        monkeypatch.setattr(metrics_server, "MAX_SECONDS", 60.0)  # a page of three megabytes, on a busy machine
        assert asked(server)[0].status == 200


def test_where_all_have_asked_the_newest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    with serving() as server, contextlib.ExitStack() as held:
        monkeypatch.setattr(server.get_app(), "_is_ready", lambda: go_on.wait(60))
        first = []
        for _ in range(MAX_CONNECTIONS):
            one = held.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
            one.send(b"GET /ready HTTP/1.1\r\n\r\n")
            first.append(one)
        eventually(lambda: sum(visit.asked for visit in server._visits) == MAX_CONNECTIONS)
        late = held.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
        eventually(lambda: is_closed(late))
        assert closed(server, "full") == 1
        go_on.set()
        for one in first:
            one.setblocking(True)
            assert one.makefile("rb").read().endswith(b"SERVING\n")


def test_a_place_is_not_lost_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        started = threading.Thread.start

        def refused(thread: threading.Thread) -> None:
            if thread.name == "scrape":
                raise RuntimeError("can't start new thread")
            started(thread)

        monkeypatch.setattr(threading.Thread, "start", refused)
        with socket.create_connection(("127.0.0.1", server.server_port)) as one:
            eventually(lambda: is_closed(one))
        assert server._visits == []
        monkeypatch.undo()
        assert asked(server)[0].status == 200


def test_threads_that_are_ending_count_too() -> None:
    with serving() as server:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            places = [server._place(ours) for _ in range(3 * MAX_CONNECTIONS)]  # none of their threads ever ends
            assert sum(place is not None for place in places) == 2 * MAX_CONNECTIONS
            server._visits.clear()


def test_of_a_request_so_much_is_read_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int | None] = []
    original = metrics_server._Few.readinto

    def counted(self: metrics_server._Few, buffer: object) -> int | None:
        read.append(original(self, buffer))
        return read[-1]

    monkeypatch.setattr(metrics_server._Few, "readinto", counted)
    with serving() as server, socket.create_connection(("127.0.0.1", server.server_port)) as much:
        with contextlib.suppress(OSError):
            much.sendall(b"GET /metrics HTTP/1.1\r\n" + (b"X-Many: " + b"a" * 10_000 + b"\r\n") * 90)
        eventually(lambda: is_closed(much))
    assert sum(size or 0 for size in read) == MAX_REQUEST_BYTES


def test_one_page_is_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        page = server.get_app()
        at_once, most = 0, 0

        def made(*_: object) -> list[bytes]:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            time.sleep(0.02)
            at_once -= 1
            _[1]("200 OK", [])  # type: ignore[operator]
            return [b"x"]

        monkeypatch.setattr(page, "_page", made)
        askers = [threading.Thread(target=asked, args=(server,)) for _ in range(8)]
        for one in askers:
            one.start()
        for one in askers:
            one.join()
        assert most == 1


def test_without_file_descriptors_it_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def none_left(_: object) -> None:
        raise OSError(24, "Too many open files")

    with serving() as server:
        monkeypatch.setattr("socketserver.TCPServer.get_request", none_left)
        monkeypatch.setattr(metrics_server.time, "sleep", slept.append)
        with pytest.raises(OSError, match="Too many"):
            server.get_request()
    assert slept == [metrics_server.NO_FILES_SECONDS]


def test_tokens_are_asked_for_and_settings_open_what_may_be_open() -> None:
    boss, user = (
        Grant(name=name, sha256=(hashlib.sha256(name.encode()).hexdigest(),), admin=name == "boss")
        for name in ("boss", "user")
    )
    access = Access((boss, user), Metrics())
    statuses = {}
    for ready in (True, False):
        for page in (True, False):
            with serving(access, open_ready=ready, open_metrics=page) as server:
                for path in ("/metrics", "/ready"):
                    for token in ("", "nobody", "user", "boss"):
                        shown = {"Authorization": f"Bearer {token}"} if token else {}
                        answer, _ = asked(server, path=path, **shown)
                        statuses[ready, page, path, token] = answer.status
                        if answer.status == 401:
                            assert answer.headers["WWW-Authenticate"] == "Bearer"
    for (ready, page, path, token), status in statuses.items():
        if ready if path == "/ready" else page:
            assert status == 200
        elif path == "/ready":
            assert status == (200 if token in ("user", "boss") else 401)
        else:
            assert status == {"": 401, "nobody": 401, "user": 403, "boss": 200}[token]


def test_it_speaks_tls_with_keys_that_are_replaced_and_a_silent_client_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "MAX_SECONDS", 1.0)
    old, new = trustme.CA(), trustme.CA()
    certificate, key = keys(tmp_path, old)
    tls = Tls(TlsFiles(certificate, key))
    with serving(tls=tls) as server:
        url = f"https://127.0.0.1:{server.server_port}/metrics"

        def read(authority: trustme.CA) -> bytes:
            context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
            context.set_alpn_protocols(["h2", "http/1.1"])  # as Prometheus offers
            with urllib.request.urlopen(url, context=context, timeout=30) as page:
                text: bytes = page.read()
            return text

        assert b"latentserve_ready" in read(old)
        context = ssl.create_default_context(cadata=old.cert_pem.bytes().decode())
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", server.server_port)) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as spoken,
        ):
            assert spoken.selected_alpn_protocol() == "http/1.1"  # and not h2, which it does not speak
        with socket.create_connection(("127.0.0.1", server.server_port)) as silent:
            silent.send(b"\x16\x03")
            eventually(lambda: is_closed(silent))
        keys(tmp_path, new)
        tls.renew()
        assert b"latentserve_ready" in read(new)
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            read(old)
        with pytest.raises((OSError, http.client.HTTPException)):
            asked(server)  # in plaintext
    eventually(lambda: threads() == 0)


def test_stopping_hangs_up_on_whoever_is_there() -> None:
    with serving() as server:
        silent = socket.create_connection(("127.0.0.1", server.server_port))
        eventually(lambda: threads() == 1)
    with silent:
        eventually(lambda: is_closed(silent))
    eventually(lambda: threads() == 0)
