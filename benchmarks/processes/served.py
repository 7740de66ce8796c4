"""The real server as a child process on free ports of the loopback."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

READY = re.compile(r"ready grpc=(\S+) metrics=(\S+)")
STOP_SECONDS = 30


class ServedProcess:
    """`python -m service`, ready when entered and drained when left.

    Args:
        models: model repository.
        log: file for the server's log.
        arguments: more of its command line.
        ports: of gRPC and of the metrics; 0 for any free one.
        own_session: start it as the leader of a session of its own.
        module: that is run; another than `service` serves in another way.
    """

    def __init__(
        self,
        models: Path,
        log: Path,
        arguments: tuple[str, ...] = (),
        ports: tuple[int, int] = (0, 0),
        own_session: bool = False,
        module: str = "service",
    ) -> None:
        self._log = log
        self._own_session = own_session
        self._command = [
            *(sys.executable, "-m", module, "--models", str(models)),
            *("--port", str(ports[0]), "--metrics-port", str(ports[1]), *arguments),
        ]
        self._process: subprocess.Popen[str]
        self.target = ""
        self.metrics_url = ""

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=self._own_session,
            )
        try:
            self._await_ready()
        except BaseException:  # Ctrl-C, too: nobody else would end a server in a session of its own
            self.stop()
            raise
        return self

    def _await_ready(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # ONNX Runtime prints there, too, what it cannot load
            if ready := READY.search(line):
                self.target, metrics = ready.groups()
                self.metrics_url = f"http://{metrics}/metrics"
                return
        log = self._log.read_text().strip()
        raise RuntimeError(f"the server did not start: {log[log.rfind(chr(10)) + 1 :]}\n{log}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._process.pid

    def stop(self) -> int:
        """SIGTERM, then waits; returns the exit status.

        Raises:
            subprocess.TimeoutExpired: it did not end, and was killed.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except BaseException:  # Ctrl-C, too
            self._process.kill()
            self._process.wait()
            raise
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()

    def wait(self) -> None:
        """Until the server ends by itself."""
        self._process.wait()

    def metrics(self) -> dict[str, float]:
        """Every sample of the metrics page, by name and labels as they stand there."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as page:
            lines = page.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}
