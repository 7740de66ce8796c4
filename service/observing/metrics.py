"""What the service records for Prometheus. Every metric is declared in `metric_table`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

import latentserve
from latentserve.bundle import Manifest
from service.observing.metric_table import MetricTable, declared
from service.observing.monitor import Monitor

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each metric that no query of ours reads


class Metrics(MetricTable):
    """The metrics of one server: each attribute of the table, registered.

    Attributes:
        registry: what Prometheus scrapes.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        made = {attribute: metric.register(registry) for attribute, metric in declared().items()}
        vars(self).update(made)
        of_models = {attribute: metric for attribute, metric in declared().items() if "model" in metric.labels}
        self._of_versions = [made[attribute] for attribute, one in of_models.items() if "version" in one.labels]
        self._of_models = [made[attribute] for attribute, one in of_models.items() if "version" not in one.labels]
        self._unloaded: set[str] = set()
        self._answered: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self.build_info.labels(latentserve.__version__).set(1)

    def opened(self, manifest: Manifest, execution_provider: str) -> None:
        """A version is served from now on."""
        self._unloaded.discard(manifest.name)
        labels = manifest.name, str(manifest.version), manifest.provenance.method, execution_provider
        self.model_info.labels(*labels, manifest.embedding_space).set(1)

    def answered(self, method: str, model: str, code: str, seconds: float, deadline: float, trace_id: str = "") -> None:
        """Counts an answer.

        Args:
            method: of the service.
            model: the model that answered; empty if the call reached none.
            code: gRPC status by name.
            seconds: since the call's arrival.
            deadline: on `time.monotonic`.
            trace_id: of the client's trace, to which the latency then points (an exemplar); empty without one.
        """
        model = "" if model in self._unloaded else model  # its last answer may come after it was forgotten
        children = self._answered.get((method, model, code))
        if children is None:
            children = self.requests.labels(method, model, code), self.request_seconds.labels(method, model)
            self._answered[method, model, code] = children
        children[0].inc()
        children[1].observe(seconds, {"trace_id": trace_id} if trace_id else None)
        if code == "OK" and deadline < math.inf:
            self.deadline_slack.observe(deadline - time.monotonic())

    def decoded(self, items: int, dead: int) -> None:
        """See `DecodingQueue`."""
        self.decoded_items.labels("true").inc(items - dead)
        self.decoded_items.labels("false").inc(dead)

    def watch(self, model: str, version: str, monitor: Monitor) -> None:
        """Reads a monitor at every scrape."""
        self.monitor_rows.labels(model, version).set_function(lambda: monitor.num_rows)
        self.monitor_share.labels(model, version).set_function(lambda: monitor.share)
        self.monitor_low.labels(model, version).set_function(lambda: monitor.band[0])
        self.monitor_high.labels(model, version).set_function(lambda: monitor.band[1])
        self.monitor_e_process.labels(model, version).set_function(lambda: monitor.log10_wealth)
        if drift := monitor.drift:
            self.monitor_drift.labels(model, version).set_function(lambda: drift.value)
        for kind in monitor.alarms:
            self.monitor_alarm.labels(model, version, kind).set_function(partial(_alarm, monitor, kind))

    def forget(self, model: str, version: str) -> None:
        """A version was unloaded: its series are removed, and those of its model if it was the last version."""
        for metric in self._of_versions:
            metric.remove_by_labels({"model": model, "version": version})
        left = (sample.labels["model"] for metric in self.model_info.collect() for sample in metric.samples)
        if model in left:
            return
        self._unloaded.add(model)
        for metric in self._of_models:
            metric.remove_by_labels({"model": model})
        self._answered = {key: children for key, children in self._answered.items() if key[1] != model}

    def decided(
        self, model: str, version: str, num_flagged: int, num_not_finite: int, p_values: Sequence[float]
    ) -> None:
        """Counts the decisions of a call, whose rows have these marginal p-values: one meaning for every guarantee."""
        if model in self._unloaded:
            return
        self.decided_rows.labels(model, version, "true").inc(num_flagged)
        self.decided_rows.labels(model, version, "false").inc(len(p_values) - num_flagged)
        self.not_finite_scores.labels(model, version).inc(num_not_finite)
        observed = self.p_value.labels(model, version)
        for p in p_values:
            observed.observe(p)

    def mapped(self, model: str, version: str, flagged: Sequence[bool]) -> None:
        """Counts the rows of a call whose maps were asked for, by whether any place of each is flagged."""
        if model in self._unloaded:
            return
        self.mapped_rows.labels(model, version, "true").inc(sum(flagged))
        self.mapped_rows.labels(model, version, "false").inc(len(flagged) - sum(flagged))


def _alarm(monitor: Monitor, kind: str) -> float:
    return float(monitor.alarms[kind])
