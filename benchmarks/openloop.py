"""An open loop: requests leave at random moments of a fixed rate, whatever comes back.

    python -m benchmarks.openloop < job.json        one process; prints a `Tally`

Latency counts from the moment a request was meant to leave, so a client that falls behind cannot hide a server's delay
(coordinated omission). h2load cannot do this: it sends in bursts of ten milliseconds. Frames are written by hand on
plain sockets, which costs the shared cores a tenth of what a gRPC client would.
"""

from __future__ import annotations

import base64
import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from service import frames as wire

CONNECTIONS = 8
GRACE_SECONDS = 2.0
"""How long answers may come after the last request has left."""
ANSWERS_WINDOW_BYTES = 2**30


@dataclass(frozen=True)
class Tally:
    """What the callers saw.

    Attributes:
        seconds: that requests were sent for.
        sent: requests.
        codes: answers by gRPC status number, and `unanswered`, `reset`.
        p50_ms: median latency of the answers with status 0, from the intended send time.
        p99_ms: 99th percentile of them.
        late_ms: 99th percentile of how late the generator itself sent.
        last_failure_seconds: after the start, of an answer with another status than 0; None without one.
    """

    seconds: float
    sent: int
    codes: dict[str, int]
    p50_ms: float
    p99_ms: float
    late_ms: float
    last_failure_seconds: float | None = None

    @property
    def answered_per_second(self) -> float:
        """Answers with status 0."""
        return self.codes.get("0", 0) / self.seconds


def open_loop(url: str, body: bytes, headers: tuple[str, ...], rate: float, seconds: float) -> Tally:
    """Sends `body` (with its gRPC frame) at `rate` a second, from a process of its own."""
    job = {"url": url, "body": base64.b64encode(body).decode(), "headers": headers, "rate": rate, "seconds": seconds}
    command = [sys.executable, "-m", "benchmarks.openloop"]
    limit = seconds + GRACE_SECONDS + 60
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise RuntimeError(f"open loop: {done.stderr}")
    return Tally(**json.loads(done.stdout))


class Caller:
    """One connection that sends the same request again and again."""

    def __init__(self, host: str, port: int, header_block: bytes, body: bytes) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.latencies: list[float] = []
        self.late: list[float] = []
        self.codes: Counter[str] = Counter()
        self.failed_at: list[float] = []
        self.flying: dict[int, float] = {}
        self.backlog: deque[float] = deque()
        self._header_block, self._body = header_block, body
        self._decoder = wire.HeaderDecoder()
        self._in = b""
        self._next_id = 1
        self._window = wire.DEFAULT_WINDOW_BYTES
        self._max_streams = 100
        self._unacknowledged = 0
        settings = struct.pack(">HI", 0x4, ANSWERS_WINDOW_BYTES)
        self.out = bytearray(wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0, settings))
        self.out += wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack(">I", ANSWERS_WINDOW_BYTES))

    def ask(self, intended: float) -> None:
        """Sends a request that was meant to leave at `intended`, or keeps it until there is room."""
        self.backlog.append(intended)
        self._send_backlog()

    def _send_backlog(self) -> None:
        while self.backlog and len(self.flying) < self._max_streams and self._window >= len(self._body):
            intended = self.backlog.popleft()
            self.late.append(time.monotonic() - intended)
            self.flying[self._next_id] = intended
            self._window -= len(self._body)
            self.out += wire.frame(wire.HEADERS, wire.END_HEADERS, self._next_id, self._header_block)
            step = 16_384
            for start in range(0, len(self._body), step):
                last = start + step >= len(self._body)
                part = self._body[start : start + step]
                self.out += wire.frame(wire.DATA, wire.END_STREAM if last else 0, self._next_id, part)
            self._next_id += 2
        self.flush()

    def flush(self) -> None:
        """Writes what the socket takes."""
        try:
            while self.out:
                del self.out[: self.socket.send(self.out)]
        except BlockingIOError:
            return

    def read(self) -> None:
        """Takes in what has come. Raises ConnectionError if the server hung up."""
        data = self.socket.recv(2**18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._in += data
        at = 0
        while len(self._in) - at >= 9:
            high, low, kind, flags, stream_id = wire.FRAME_HEAD.unpack_from(self._in, at)
            end = at + 9 + (high << 8 | low)
            if end > len(self._in):
                break
            self._frame(kind, flags, stream_id, self._in[at + 9 : end])
            at = end
        self._in = self._in[at:]
        self._send_backlog()

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == wire.DATA:
            self._unacknowledged += len(payload)
            if self._unacknowledged > 2**20:
                self.out += wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unacknowledged))
                self._unacknowledged = 0
        elif kind == wire.HEADERS:
            fields = self._decoder.decode(payload)
            if flags & wire.END_STREAM:
                self._answered(stream_id, fields.get(b"grpc-status", b"no status").decode())
        elif kind == wire.RST_STREAM:
            self._answered(stream_id, "reset")
        elif kind == wire.SETTINGS and not flags & wire.ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == 0x3:
                    self._max_streams = value
            self.out += wire.frame(wire.SETTINGS, wire.ACK, 0)
        elif kind == wire.PING and not flags & wire.ACK:
            self.out += wire.frame(wire.PING, wire.ACK, 0, payload)
        elif kind == wire.WINDOW_UPDATE and stream_id == 0:
            self._window += struct.unpack(">I", payload)[0]
        elif kind in (wire.GOAWAY, wire.CONTINUATION):
            raise ConnectionError(f"got frame {kind}: {payload!r}")

    def _answered(self, stream_id: int, code: str) -> None:
        intended = self.flying.pop(stream_id, None)
        if intended is None:
            return
        self.codes[code] += 1
        if code == "0":
            self.latencies.append(time.monotonic() - intended)
        else:
            self.failed_at.append(time.monotonic())


def run(callers: list[Caller], rate: float, seconds: float) -> Tally:
    """Drives the callers along a Poisson schedule, then waits for the last answers."""
    gaps = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds))
    by_socket = {caller.socket: caller for caller in callers}
    started = time.monotonic() + 0.1
    schedule = deque((started + np.cumsum(gaps)).tolist())
    sent, end = len(schedule), schedule[-1] + GRACE_SECONDS
    number = 0
    while schedule or any(caller.flying or caller.backlog for caller in callers):
        now = time.monotonic()
        if now > end:
            break
        while schedule and schedule[0] <= now:
            callers[number % len(callers)].ask(schedule.popleft())
            number += 1
        waiting = [caller.socket for caller in callers if caller.out]
        timeout = max(0.0, (schedule[0] if schedule else end) - time.monotonic())
        readable, writable, _ = select.select(list(by_socket), waiting, [], timeout)
        for ready in readable:
            by_socket[ready].read()
        for ready in writable:
            by_socket[ready].flush()
    codes = sum((caller.codes for caller in callers), Counter[str]())
    if sent > codes.total():
        codes["unanswered"] = sent - codes.total()
    latencies = [latency for caller in callers for latency in caller.latencies] or [float("nan")]
    late = [late for caller in callers for late in caller.late] or [float("nan")]
    p50, p99 = (float(value) * 1e3 for value in np.percentile(latencies, [50, 99]))
    failed_at = [moment - started for caller in callers for moment in caller.failed_at]
    late_ms = float(np.percentile(late, 99)) * 1e3
    return Tally(float(gaps.sum()), sent, dict(codes), p50, p99, late_ms, max(failed_at, default=None))


def main() -> int:
    """Reads a job from stdin, prints its tally."""
    job: dict[str, Any] = json.load(sys.stdin)
    authority, _, path = job["url"].removeprefix("http://").partition("/")
    host, _, port = authority.partition(":")
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/" + path.encode())]
    fields.append((b":authority", authority.encode()))
    for header in job["headers"]:
        name, _, value = header.partition(": ")
        fields.append((name.encode(), value.encode()))
    block, body = wire.literal_headers(tuple(fields)), base64.b64decode(job["body"])
    callers = [Caller(host, int(port), block, body) for _ in range(CONNECTIONS)]
    print(json.dumps(asdict(run(callers, job["rate"], job["seconds"]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
