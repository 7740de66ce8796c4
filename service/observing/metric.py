"""How one metric is declared: see `metric_table` for the declarations and `metrics` for what is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, overload

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

M = TypeVar("M", Counter, Gauge, Histogram)


@dataclass(frozen=True)
class Metric(Generic[M]):
    """One declared metric, an attribute of a table.

    Read from the table's class, the attribute is the declaration. An instance of the table sets the Prometheus metric
    of the same attribute name, which then takes the declaration's place.

    Attributes:
        type: Prometheus' class.
        name: on the metrics page.
        help: one sentence, for docs/metrics.md and the metrics page.
        labels: in the order in which `labels()` takes their values.
        buckets: upper bounds, for a histogram.
    """

    type: type[M]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """`counter`, `gauge` or `histogram`."""
        return self.type.__name__.lower()

    def register(self, registry: CollectorRegistry) -> M:
        """Makes the Prometheus metric."""
        more: dict[str, Any] = {"buckets": self.buckets} if self.buckets else {}
        return self.type(self.name, self.help, self.labels, registry=registry, **more)

    @overload
    def __get__(self, table: None, owner: object) -> Self: ...

    @overload
    def __get__(self, table: object, owner: object) -> M: ...

    def __get__(self, table: object, owner: object) -> Self | M:
        if table is not None:
            raise AttributeError(f"{self.name} is declared but not registered")
        return self


def counter(name: str, text: str, *labels: str) -> Metric[Counter]:
    """Declares a counter."""
    return Metric(Counter, name, text, labels)


def gauge(name: str, text: str, *labels: str) -> Metric[Gauge]:
    """Declares a gauge."""
    return Metric(Gauge, name, text, labels)


def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Metric[Histogram]:
    """Declares a histogram."""
    return Metric(Histogram, name, text, labels, buckets)
