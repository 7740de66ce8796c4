"""What several tests of training share."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Where `tmp_path` can be read over HTTP."""
    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says that this process is a rank of several, which nobody else has to be."""

    from torch import distributed  # imported here: not every test of training needs torch

    from training import ranks as ours

    def be(rank: int, num_ranks: int) -> None:
        monkeypatch.setattr(ours, "_together", lambda: True)
        monkeypatch.setattr(distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(distributed, "get_world_size", lambda: num_ranks)

    return be
