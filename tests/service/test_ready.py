"""Ready is who gets round to calls, not who once began to."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from latentserve.health import NOT_SERVING, SERVING, ready
from service.config import load_config
from service.server import Server


def test_an_event_loop_that_is_stuck_is_not_ready(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.STUCK_SECONDS", 1.0)
    config = load_config(["--models", str(repository), "--device", "cpu", "--port", "0", "--metrics-port", "0"])

    async def run() -> None:
        with ThreadPoolExecutor(1) as asking:
            async with Server(config) as server:
                page = f"http://127.0.0.1:{server.metrics_port}/metrics"
                assert await asyncio.to_thread(ready, page) == SERVING
                asked = asking.submit(lambda: (time.sleep(2), ready(page))[1])
                time.sleep(3)
                assert asked.result() == NOT_SERVING
                await asyncio.sleep(0.5)
                assert await asyncio.to_thread(ready, page) == SERVING
            assert not server.is_ready()

    asyncio.run(run())
