"""Every metric of the service, declared once: name, help, labels and buckets.

`python -m deploy.metrics_page` writes docs/metrics.md from this table. To add a metric, add a line here and record it
through the attribute of `Metrics` that has the same name.
"""

from __future__ import annotations

from typing import Any

from service.observing.metric import Metric, counter, gauge, histogram

SECONDS = (15e-6, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
P_VALUES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

VERSION = ("model", "version")
QUEUE = ("model", "version", "queue")
"""A model has a queue of `input` rows and, if it has a decoder, one of `latent` rows."""

INSTANCE = ("device", "number")
"""A device as `--device` names it, and the number of an engine among those of its device. Not `instance`: Prometheus
calls so what it scrapes."""


class MetricTable:
    """The declarations, in the order of docs/metrics.md."""

    # The server.
    build_info = gauge("latentserve_build_info", "Version of the service; the value is always 1.", "version")
    ready = gauge("latentserve_ready", "1 while the server accepts calls, else 0.")
    model_info = gauge(
        "latentserve_model_info",
        "1 for each model version that is served.",
        *("model", "version", "method", "execution_provider", "embedding_space"),
    )
    rejected_bundles = gauge("latentserve_rejected_bundles", "Bundles in the model repository that were rejected.")
    device_fallback = gauge(
        "latentserve_device_fallback",
        "1 if a model runs on the CPU although there is an NVIDIA driver and the CPU was not requested.",
        *VERSION,
    )
    event_loop_lag = histogram(
        "latentserve_event_loop_lag_seconds", "How late the event loop woke a timer, ten times a second.", SECONDS
    )
    config_reload_ok = gauge(
        "latentserve_config_last_reload_successful",
        "1 if the settings, models, certificates and tokens of the last reload are in force, else 0. "
        "A rejected bundle does not count.",
    )
    access_rows = counter(
        "latentserve_access_rows_total",
        "Rows of authorized calls, by the name of the token; a call counts as one row at least.",
        "token",
    )
    access_refused = counter(
        "latentserve_access_refused_total",
        "Unauthorized calls, by the name of the token (empty: no known token) and the reason.",
        *("token", "why"),
    )
    page_closed = counter(
        "latentserve_metrics_page_closed_total",
        "Scrapes that were closed early: `slow` readers, or too many at once (`full`).",
        "reason",
    )
    tls_expiry = gauge(
        "latentserve_tls_certificate_expiry_timestamp_seconds",
        "When the server's certificate expires, in Unix time; 0 if the server speaks plaintext.",
    )
    connections_closed = counter("latentserve_connections_closed_total", "Connections that ended.", "reason")

    # Calls.
    requests = counter(
        "latentserve_requests_total",
        "Calls answered, by gRPC status code. Health and readiness checks are not counted.",
        *("method", "model", "code"),
    )
    request_seconds = histogram(
        "latentserve_request_seconds", "Time from a call's arrival to its answer.", SECONDS, "method", "model"
    )
    requests_in_flight = gauge("latentserve_requests_in_flight", "Calls that are being answered now.")
    streams_open = gauge("latentserve_streams_open", "Score streams that are open; each of their messages is a call.")
    request_rows = histogram("latentserve_request_rows", "Rows of a call.", ROWS, "method", "model")
    decode_seconds = histogram(
        "latentserve_decode_seconds", "Time to read a call's rows, files decoded.", SECONDS, "model"
    )
    decoding_bytes = gauge("latentserve_decoding_bytes", "Bytes of files that wait for decoding or are being decoded.")
    decoding_pixels = gauge(
        "latentserve_decoding_pixels", "Pixels of files that wait for decoding or are being decoded."
    )
    decoded_items = counter(
        "latentserve_decoded_items_total", "Files decoded, by whether the client still waited.", "wanted"
    )
    encode_seconds = histogram("latentserve_encode_seconds", "Time to serialize a call's answer.", SECONDS)
    deadline_slack = histogram(
        "latentserve_deadline_slack_seconds",
        "Time left to the client's deadline when a call was answered with OK.",
        SECONDS,
    )

    # Queues and batches.
    queue_rows = gauge("latentserve_queue_rows", "Rows that wait for a batch or are being read or decoded.", *QUEUE)
    queue_bytes = gauge("latentserve_queue_bytes", "Bytes of the rows in `latentserve_queue_rows`.", *QUEUE)
    queue_oldest_seconds = gauge(
        "latentserve_queue_oldest_seconds", "How long the oldest row has waited, decoding included.", *QUEUE
    )
    queue_seconds = histogram(
        "latentserve_queue_seconds", "How long the rows of a request waited for a batch.", SECONDS, *QUEUE
    )
    dropped_rows = counter("latentserve_dropped_rows_total", "Rows that ended without a result.", *QUEUE, "reason")
    run_rows = counter(
        "latentserve_run_rows_total",
        "Rows that ran, each counted once. All rows that arrived are these, those in `dropped_rows` and those in "
        "`queue_rows`.",
        *QUEUE,
    )
    queue_failures = counter(
        "latentserve_queue_failures_total",
        "Times that a queue's task ended by a fault of the service. Stays 0.",
        *QUEUE,
    )
    model_healthy = gauge(
        "latentserve_model_healthy",
        "1 while the version can answer; 0 if its queue is dead or a batch is stuck.",
        *VERSION,
    )
    batch_rows = histogram("latentserve_batch_rows", "Rows of a batch, without padding.", ROWS, *QUEUE)
    execute_seconds = histogram("latentserve_execute_seconds", "Time to run a batch.", SECONDS, *QUEUE)
    pad_seconds = histogram(
        "latentserve_pad_seconds", "Time to copy rows into a batch, part of the time to run it.", SECONDS, *QUEUE
    )
    batches = counter(
        "latentserve_batches_total",
        "Batches formed, by why: the batch was `full`, the engine was `free`, or the `window` had passed.",
        *QUEUE,
        "formed",
    )
    padding_rows = counter(
        "latentserve_padding_rows_total", "Rows of padding that were computed to fill a known batch size.", *QUEUE
    )
    dead_work_rows = counter(
        "latentserve_dead_work_rows_total", "Rows that ran although their client had left before the end.", *QUEUE
    )

    # Instances.
    instance_in_service = gauge(
        "latentserve_instance_in_service",
        "1 while an instance gets batches; 0 after one that others alone could run, or that was stuck, until golden "
        "rows come out right.",
        *INSTANCE,
    )
    instance_busy_seconds = counter(
        "latentserve_instance_busy_seconds_total", "Time that an instance ran batches.", *INSTANCE
    )
    instance_batches = counter(
        "latentserve_instance_batches_total",
        "Batches that an instance ran, by outcome; one that failed counts again where it is run again.",
        *INSTANCE,
        "outcome",
    )
    instance_outages = counter(
        "latentserve_instance_outages_total",
        "Times that an instance went out of service, by reason: batches or golden rows `failed`, or one was `stuck`.",
        *INSTANCE,
        "reason",
    )

    # Scores.
    decided_rows = counter("latentserve_decided_rows_total", "Rows scored, by decision.", *VERSION, "flagged")
    mapped_rows = counter(
        "latentserve_mapped_rows_total",
        "Rows whose anomaly map was asked for, by whether any place of it is flagged at the level of the call.",
        *VERSION,
        "flagged",
    )
    p_value = histogram("latentserve_p_value", "Marginal conformal p-values of scored rows.", P_VALUES, *VERSION)
    not_finite_scores = counter("latentserve_not_finite_scores_total", "Rows whose score was not finite.", *VERSION)
    monitor_rows = gauge("latentserve_monitor_rows", "Rows scored since the version was loaded.", *VERSION)
    monitor_share = gauge(
        "latentserve_monitor_window_share",
        "Share of the last rows scored that have p <= the bundle's default alpha.",
        *VERSION,
    )
    monitor_low = gauge(
        "latentserve_monitor_band_low", "Lower end of the band in which chance alone keeps the share.", *VERSION
    )
    monitor_high = gauge(
        "latentserve_monitor_band_high", "Upper end of the band in which chance alone keeps the share.", *VERSION
    )
    monitor_e_process = gauge(
        "latentserve_monitor_e_process_log10",
        "Log10 of the wealth of the e-process that tests whether scored rows are exchangeable with calibration rows.",
        *VERSION,
    )
    monitor_drift = gauge(
        "latentserve_monitor_embedding_drift",
        "Mean z^2 of the mean embedding; 1 is expected without a shift.",
        *VERSION,
    )
    monitor_alarm = gauge(
        "latentserve_monitor_alarm",
        "1 while the alarm is raised: `e_process` stays raised, `window` and `embedding` clear.",
        *VERSION,
        "kind",
    )


def declared() -> dict[str, Metric[Any]]:
    """The declarations by attribute."""
    return {attribute: one for attribute, one in vars(MetricTable).items() if isinstance(one, Metric)}
