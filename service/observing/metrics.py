"""Everything Prometheus sees: each metric is declared here, once."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

import latentserve
from latentserve.bundle import Manifest
from service.observing.monitor import Monitor

SECONDS = (15e-6, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
P_VALUES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LANE = ("model", "version", "lane")

M = TypeVar("M")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each metric that no query of ours reads


@dataclass(frozen=True)
class Declared:
    """What docs/metrics.md says of a metric."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]


class Metrics:
    """The metrics of one server. A lane is a queue of a model: `input` rows or `latent` rows.

    Attributes:
        registry: what is scraped.
        declared: every metric of ours, in this order.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.declared: list[Declared] = []
        self._of_versions: list[Any] = []
        self._of_models: list[Any] = []
        self._gone: set[str] = set()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            self.declared.append(Declared(f"latentserve_{name}", "counter", text, labels))
            return self._kept(Counter(f"latentserve_{name}", text, labels, registry=registry), labels)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            self.declared.append(Declared(f"latentserve_{name}", "gauge", text, labels))
            return self._kept(Gauge(f"latentserve_{name}", text, labels, registry=registry), labels)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            self.declared.append(Declared(f"latentserve_{name}", "histogram", text, labels))
            made = Histogram(f"latentserve_{name}", text, labels, buckets=buckets, registry=registry)
            return self._kept(made, labels)

        self.build = Info("latentserve_build", "Version of the service.", registry=registry)
        self.build.info({"version": latentserve.__version__})
        self.declared.append(Declared("latentserve_build_info", "gauge", "Version of the service.", ("version",)))
        self.ready = gauge("ready", "1 while calls are accepted, else 0.")
        self.model_info = gauge(
            "model_info",
            "1 for each model served.",
            "model",
            "version",
            "method",
            "execution_provider",
            "embedding_space",
        )
        self.refused_bundles = gauge("refused_bundles", "Bundles found but not served.")
        self.device_fallback = gauge(
            "device_fallback",
            "1 if a model runs on the CPU although there is an NVIDIA driver and the CPU was not asked for.",
            "model",
            "version",
        )
        self.event_loop_lag = histogram(
            "event_loop_lag_seconds", "How late the event loop woke a timer, ten times a second.", SECONDS
        )
        self.config_reload_ok = gauge(
            "config_last_reload_successful",
            "1 if settings, models, keys and tokens are as last asked for, else 0. A bundle refused is another matter.",
        )
        self.access_rows = counter("access_rows_total", "Rows let in, by whose token; a call is one at least.", "token")
        self.access_refused = counter(
            "access_refused_total", "Calls not let in, by whose token (empty: none of ours) and why.", "token", "why"
        )
        self.page_closed = counter("metrics_page_closed_total", "Scrapes given up: `slow`, or no place.", "reason")
        self.tls_expiry = gauge(
            "tls_certificate_expiry_timestamp_seconds", "When our certificate ends, Unix time; 0 in the clear."
        )

        self.connections_closed = counter("connections_closed_total", "Connections that ended, by why.", "reason")
        self.requests = counter(
            "requests_total",
            "Calls answered, by gRPC status code. Health and readiness are not counted.",
            "method",
            "model",
            "code",
        )
        self.request_seconds = histogram(
            "request_seconds", "From the call's arrival to its answer.", SECONDS, "method", "model"
        )
        self.requests_in_flight = gauge("requests_in_flight", "Calls being answered now.")
        self.streams_open = gauge("streams_open", "Streams of scores that are open; each message of one is a call.")
        self.request_rows = histogram("request_rows", "Rows of a call.", ROWS, "method", "model")
        self.decode_seconds = histogram("decode_seconds", "Reading a call's rows, files decoded.", SECONDS, "model")

        self.decoding_bytes = gauge("decoding_bytes", "Bytes of files that wait to be decoded or are being decoded.")
        self.decoding_pixels = gauge("decoding_pixels", "Pixels of them.")
        self.decoded_items = counter("decoded_items_total", "Files decoded, by whether anybody still waited.", "wanted")

        self.encode_seconds = histogram("encode_seconds", "Writing a call's answer as bytes.", SECONDS)
        self.deadline_slack = histogram(
            "deadline_slack_seconds", "Time left to the caller's deadline when a call was answered with OK.", SECONDS
        )

        self.queue_rows = gauge("queue_rows", "Rows that wait, and those that are being read or decoded.", *LANE)
        self.queue_bytes = gauge("queue_bytes", "Bytes of them, as rows.", *LANE)
        self.queue_oldest_seconds = gauge(
            "queue_oldest_seconds", "How long the oldest row has waited, decoding included.", *LANE
        )
        self.queue_seconds = histogram("queue_seconds", "How long a request's rows waited for a batch.", SECONDS, *LANE)
        self.dropped_rows = counter("dropped_rows_total", "Rows that were not run, by reason.", *LANE, "reason")
        self.run_rows = counter(
            "run_rows_total",
            "Rows that ran, each once; all that came are these, `dropped_rows` and `queue_rows`.",
            *LANE,
        )
        self.queue_failures = counter(
            "queue_failures_total", "Times the task that works off a queue died of a fault of ours. Stays 0.", *LANE
        )
        self.model_well = gauge(
            "model_well",
            "1 while the version can answer; 0: its queue is dead, or a batch is stuck.",
            "model",
            "version",
        )
        self.batch_rows = histogram("batch_rows", "Rows of a batch, without padding.", ROWS, *LANE)
        self.execute_seconds = histogram("execute_seconds", "Running a batch.", SECONDS, *LANE)
        self.pad_seconds = histogram("pad_seconds", "Copying rows into batches, part of running one.", SECONDS, *LANE)
        self.batches = counter(
            "batches_total", "Batches cut, by why: `full`, `free` (the engine was), `window`.", *LANE, "cut"
        )
        self.padding_rows = counter("padding_rows_total", "Rows computed for nothing, to fill a known size.", *LANE)
        self.dead_work_rows = counter("dead_work_rows_total", "Rows run, their caller gone when they were done.", *LANE)

        self.judged_rows = counter("judged_rows_total", "Rows scored, by decision.", "model", "version", "flagged")
        self.p_value = histogram("p_value", "Marginal conformal p-values of scored rows.", P_VALUES, "model", "version")
        self.not_finite_scores = counter(
            "not_finite_scores_total", "Rows whose score was no number.", "model", "version"
        )

        of_version = ("model", "version")
        self.monitor_rows = gauge("monitor_rows", "Rows scored since the version was opened.", *of_version)
        self.monitor_share = gauge(
            "monitor_window_share", "Of the last rows scored, those with p <= the bundle's alpha.", *of_version
        )
        self.monitor_low = gauge("monitor_band_low", "The share is not below this, by chance.", *of_version)
        self.monitor_high = gauge("monitor_band_high", "The share is not above this, by chance.", *of_version)
        self.monitor_evidence = gauge(
            "monitor_evidence_log10",
            "Log10 of the evidence that scored rows are not like the calibration rows.",
            *of_version,
        )
        self.monitor_drift = gauge(
            "monitor_embedding_drift", "Mean z^2 of the mean embedding; 1 without a shift.", *of_version
        )
        self.monitor_alarm = gauge(
            "monitor_alarm", "1 while raised: `evidence` (stays), `window` or `embedding` (now).", *of_version, "kind"
        )
        self._answered: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}

    def _kept(self, metric: M, labels: tuple[str, ...]) -> M:
        """Remembers whose a metric is, so that none is left behind when a version or a model goes."""
        if "model" in labels:
            (self._of_versions if "version" in labels else self._of_models).append(metric)
        return metric

    def opened(self, manifest: Manifest, execution_provider: str) -> None:
        """A version is there from now on."""
        self._gone.discard(manifest.name)
        labels = manifest.name, str(manifest.version), manifest.provenance.method, execution_provider
        self.model_info.labels(*labels, manifest.embedding_space).set(1)

    def answered(self, method: str, model: str, code: str, seconds: float, deadline: float, trace_id: str = "") -> None:
        """Counts an answer.

        Args:
            method: of the service.
            model: that answered; empty if the call never got to one.
            code: gRPC status by name.
            seconds: since the call's arrival.
            deadline: on `time.monotonic`.
            trace_id: of the caller's trace, which the latency then points to (an exemplar); empty if it has none.
        """
        model = "" if model in self._gone else model  # its last answer may come when it has been forgotten
        children = self._answered.get((method, model, code))
        if children is None:
            children = self.requests.labels(method, model, code), self.request_seconds.labels(method, model)
            self._answered[method, model, code] = children
        children[0].inc()
        children[1].observe(seconds, {"trace_id": trace_id} if trace_id else None)
        if code == "OK" and deadline < math.inf:
            self.deadline_slack.observe(deadline - time.monotonic())

    def decoded(self, items: int, dead: int) -> None:
        """See `turns.Turns`."""
        self.decoded_items.labels("true").inc(items - dead)
        self.decoded_items.labels("false").inc(dead)

    def watch(self, model: str, version: str, monitor: Monitor) -> None:
        """Asks a monitor at every scrape."""
        self.monitor_rows.labels(model, version).set_function(lambda: monitor.num_rows)
        self.monitor_share.labels(model, version).set_function(lambda: monitor.share)
        self.monitor_low.labels(model, version).set_function(lambda: monitor.band[0])
        self.monitor_high.labels(model, version).set_function(lambda: monitor.band[1])
        self.monitor_evidence.labels(model, version).set_function(lambda: monitor.evidence)
        if drift := monitor.drift:
            self.monitor_drift.labels(model, version).set_function(lambda: drift.value)
        for kind in monitor.alarms:
            self.monitor_alarm.labels(model, version, kind).set_function(partial(_alarm, monitor, kind))

    def forget(self, model: str, version: str) -> None:
        """A version is no longer served: nothing of it is shown any more, nor of its model if that was the last one."""
        for metric in self._of_versions:
            metric.remove_by_labels({"model": model, "version": version})
        left = (sample.labels["model"] for metric in self.model_info.collect() for sample in metric.samples)
        if model in left:
            return
        self._gone.add(model)
        for metric in self._of_models:
            metric.remove_by_labels({"model": model})
        self._answered = {key: children for key, children in self._answered.items() if key[1] != model}

    def decided(
        self, model: str, version: str, num_flagged: int, num_not_finite: int, p_values: Sequence[float]
    ) -> None:
        """Counts the decisions of a call, whose rows have these marginal p-values: one meaning for every guarantee."""
        if model in self._gone:
            return
        self.judged_rows.labels(model, version, "true").inc(num_flagged)
        self.judged_rows.labels(model, version, "false").inc(len(p_values) - num_flagged)
        self.not_finite_scores.labels(model, version).inc(num_not_finite)
        observed = self.p_value.labels(model, version)
        for p in p_values:
            observed.observe(p)


def _alarm(monitor: Monitor, kind: str) -> float:
    return float(monitor.alarms[kind])
