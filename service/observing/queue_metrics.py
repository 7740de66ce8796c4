"""What one queue tells of itself, as metrics."""

from __future__ import annotations

from collections.abc import Callable

from service.engine.engine import Engine
from service.observing.metrics import Metrics


class LaneMetrics:
    """Tells the metrics what happens in one queue. Children are looked up once, not per row."""

    def __init__(self, metrics: Metrics, engine: Engine, lane: str) -> None:
        labels = (engine.manifest.name, str(engine.manifest.version), lane)
        self._engine = engine
        self._oldest = metrics.queue_oldest_seconds.labels(*labels)
        self._pad_seconds = metrics.pad_seconds.labels(*labels)
        self._batches = {cut: metrics.batches.labels(*labels, cut) for cut in ("full", "free", "window")}
        self._rows = self._size_bytes = 0
        metrics.queue_rows.labels(*labels).set_function(lambda: self._rows)
        metrics.queue_bytes.labels(*labels).set_function(lambda: self._size_bytes)
        self._queue_seconds = metrics.queue_seconds.labels(*labels)
        self._run_rows = metrics.run_rows.labels(*labels)
        self._batch_rows = metrics.batch_rows.labels(*labels)
        self._execute_seconds = metrics.execute_seconds.labels(*labels)
        self._padding_rows = metrics.padding_rows.labels(*labels)
        self._dead_work_rows = metrics.dead_work_rows.labels(*labels)
        self._dropped = {
            reason: metrics.dropped_rows.labels(*labels, reason)
            for reason in ("full", "draining", "expired", "cancelled", "invalid", "failed")
        }

    def queued(self, rows: int, size_bytes: int) -> None:
        """See `observer.Observer`."""
        self._rows, self._size_bytes = rows, size_bytes

    def dropped(self, reason: str, rows: int) -> None:
        """See `observer.Observer`."""
        self._dropped[reason].inc(rows)

    def cut(self, why: str) -> None:
        """See `observer.Observer`."""
        self._batches[why].inc()

    def watch_oldest(self, age: Callable[[], float]) -> None:
        """Asks for the age of the oldest row at every scrape."""
        self._oldest.set_function(age)

    def ran(self, rows: int) -> None:
        """See `observer.Observer`."""
        self._run_rows.inc(rows)

    def waited(self, seconds: float, rows: int) -> None:
        """See `observer.Observer`."""
        self._queue_seconds.observe(seconds)

    def executed(self, rows: int, dead_rows: int, seconds: float) -> None:
        """See `observer.Observer`."""
        self._batch_rows.observe(rows)
        self._execute_seconds.observe(seconds)
        self._pad_seconds.observe(self._engine.pad_seconds)
        self._padding_rows.inc(self._engine.padding(rows))
        self._dead_work_rows.inc(dead_rows)
