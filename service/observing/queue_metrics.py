"""Records in the metrics what one queue reports of itself."""

from __future__ import annotations

from collections.abc import Callable

from service.observing.metrics import Metrics


class QueueMetrics:
    """Records what happens in one queue of a model version. Children are looked up once, not per row."""

    def __init__(self, metrics: Metrics, model: str, version: int, queue: str) -> None:
        labels = (model, str(version), queue)
        self._oldest = metrics.queue_oldest_seconds.labels(*labels)
        self._pad_seconds = metrics.pad_seconds.labels(*labels)
        self._batches = {why: metrics.batches.labels(*labels, why) for why in ("full", "free", "window")}
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

    def formed(self, why: str) -> None:
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
        self._dead_work_rows.inc(dead_rows)

    def padded(self, rows: int, seconds: float) -> None:
        """A batch was filled up with so many rows; it took so long to put it together."""
        self._padding_rows.inc(rows)
        self._pad_seconds.observe(seconds)
