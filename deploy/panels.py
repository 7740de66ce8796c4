"""What the dashboards show: every panel with its queries, and how to read it.

`$model` is the dashboards' variable; Grafana puts a fitting `$__rate_interval` in.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE = "[$__rate_interval]"
MODEL = 'model=~"$model"'


@dataclass(frozen=True)
class Panel:
    """One panel: legend and PromQL of each line.

    Attributes:
        title: with what is counted.
        text: how to read it.
        unit: Grafana's name of it.
        lines: PromQL by legend.
        stacked: whether lines add up.
        lowest: where the axis begins; None for wherever the lines do.
    """

    title: str
    text: str
    unit: str
    lines: dict[str, str]
    stacked: bool = False
    lowest: float | None = 0.0


def quantiles(metric: str, by: str = "", where: str = "") -> dict[str, str]:
    """p50, p90 and p99 of a histogram, for each value of the label `by`."""
    legend, labels = (f"{{{{{by}}}}} ", f"le, {by}") if by else ("", "le")
    buckets = f"sum by ({labels}) (rate({metric}_bucket{{{where}}}{RATE}))"
    return {f"{legend}p{share * 100:g}": f"histogram_quantile({share}, {buckets})" for share in (0.5, 0.9, 0.99)}


def mean(metric: str, by: str) -> str:
    """The mean of a histogram."""
    return f"sum by ({by}) (rate({metric}_sum{RATE})) / sum by ({by}) (rate({metric}_count{RATE}))"


SERVICE = (
    Panel(
        "Calls per second by method and status",
        "Every call, by what it was answered with. RESOURCE_EXHAUSTED and DEADLINE_EXCEEDED together mean overload.",
        "reqps",
        {"{{method}} {{code}}": f"sum by (method, code) (rate(latentserve_requests_total{{{MODEL}}}{RATE}))"},
    ),
    Panel(
        "Failed and slow calls",
        "Share of calls that failed by our fault, and that took over 100 ms. Budgets: 0.1 % and 1 %.",
        "percentunit",
        {"failed": "job:latentserve_failed:ratio_rate5m", "over 100 ms": "job:latentserve_slow:ratio_rate5m"},
    ),
    Panel(
        "Latency",
        "From a call's arrival at the server to its answer.",
        "s",
        quantiles("latentserve_request_seconds", where=MODEL),
    ),
    Panel(
        "Latency by method, p99",
        "The slowest percent of each call.",
        "s",
        {"{{method}}": quantiles("latentserve_request_seconds", "method", MODEL)["{{method}} p99"]},
    ),
    Panel(
        "Where a call's time goes",
        "Means of the parts of a call. Only the queue grows: load. Running grows: the engine.",
        "s",
        {
            "decoding": mean("latentserve_decode_seconds", "job"),
            "queue": mean("latentserve_queue_seconds", "job"),
            "running": mean("latentserve_execute_seconds", "job"),
            "encoding": mean("latentserve_encode_seconds", "job"),
        },
        stacked=True,
    ),
    Panel(
        "Deadline slack",
        "Time that callers had left when they got their answer. Near 0: they are about to be late.",
        "s",
        {"p1": f"histogram_quantile(0.01, sum by (le) (rate(latentserve_deadline_slack_seconds_bucket{RATE})))"}
        | quantiles("latentserve_deadline_slack_seconds"),
    ),
    Panel(
        "Rows not run",
        "By reason: full (queue), expired (deadline), cancelled (caller), invalid (files), failed (engine), draining.",
        "rps",
        {"{{reason}}": f"sum by (reason) (rate(latentserve_dropped_rows_total{{{MODEL}}}{RATE}))"},
    ),
    Panel(
        "Rows run for nobody",
        "Rows whose caller had left, or its deadline passed, while they ran. What had gone before is never run.",
        "rps",
        {"{{model}}": f"sum by (model) (rate(latentserve_dead_work_rows_total{{{MODEL}}}{RATE}))"},
    ),
    Panel(
        "Event-loop lag",
        "What every call waits for, whatever the queues say. Above 10 ms the interpreter is the bottleneck.",
        "s",
        quantiles("latentserve_event_loop_lag_seconds"),
    ),
)

MODELS = (
    Panel(
        "Models served",
        "Name, version, what runs it. A version disappears when its last replica does.",
        "short",
        {
            "{{model}}/{{version}} {{method}} {{execution_provider}}": (
                f"sum by (model, version, method, execution_provider) (latentserve_model_info{{{MODEL}}})"
            )
        },
    ),
    Panel(
        "Bundles refused, CPU fallbacks",
        "Both stay 0. The log of the replica says why.",
        "short",
        {"refused": "sum(latentserve_refused_bundles)", "on the CPU": "sum(latentserve_device_fallback)"},
    ),
    Panel(
        "Rows scored per second by decision",
        "Flagged: p <= the caller's alpha.",
        "rps",
        {
            "{{model}} flagged={{flagged}}": (
                f"sum by (model, flagged) (rate(latentserve_judged_rows_total{{{MODEL}}}{RATE}))"
            )
        },
        stacked=True,
    ),
    Panel(
        "Share flagged",
        "Of usual rows at most alpha is flagged, so what stays above it is strange.",
        "percentunit",
        {
            "{{model}}": (
                f'sum by (model) (rate(latentserve_judged_rows_total{{flagged="true", {MODEL}}}{RATE}))'
                f" / sum by (model) (rate(latentserve_judged_rows_total{{{MODEL}}}{RATE}))"
            )
        },
    ),
    Panel(
        "p-values at or below",
        "Shares of the rows scored. Calibrated scores of usual rows lie on the numbers in the legend.",
        "percentunit",
        {
            f"p <= {level}": (
                f'sum(rate(latentserve_p_value_bucket{{le="{level}", {MODEL}}}{RATE}))'
                f" / sum(rate(latentserve_p_value_count{{{MODEL}}}{RATE}))"
            )
            for level in ("0.01", "0.05", "0.1", "0.5")
        },
    ),
    Panel(
        "Monitor: share of the window, and its band",
        "Outside the band the calibration does not fit what is scored now.",
        "percentunit",
        {
            "{{model}}/{{version}} share": f"max by (model, version) (latentserve_monitor_window_share{{{MODEL}}})",
            "{{model}}/{{version}} low": f"max by (model, version) (latentserve_monitor_band_low{{{MODEL}}})",
            "{{model}}/{{version}} high": f"max by (model, version) (latentserve_monitor_band_high{{{MODEL}}})",
        },
    ),
    Panel(
        "Monitor: evidence of a shift",
        "Log10. The alarm is at 2 (level 0.01): raised in error in at most 1 % of the services, however long they run.",
        "short",
        {"{{model}}/{{version}}": f"max by (model, version) (latentserve_monitor_evidence_log10{{{MODEL}}})"},
        lowest=None,
    ),
    Panel(
        "Monitor: embedding drift",
        "1 without a shift; the alarm is at 6.6.",
        "short",
        {"{{model}}/{{version}}": f"max by (model, version) (latentserve_monitor_embedding_drift{{{MODEL}}})"},
    ),
    Panel(
        "Monitor: alarms",
        "1 while raised. What to do: docs/operating.md.",
        "short",
        {"{{model}}/{{version}} {{kind}}": f"max by (model, version, kind) (latentserve_monitor_alarm{{{MODEL}}})"},
    ),
    Panel(
        "Scores that were no numbers",
        "Rows per second. They are flagged with the smallest p-value; the model or its inputs are broken.",
        "rps",
        {"{{model}}": f"sum by (model) (rate(latentserve_not_finite_scores_total{{{MODEL}}}{RATE}))"},
    ),
)

CAPACITY = (
    Panel(
        "Engine busy",
        "Seconds of running batches a second, by replica. Above 0.7 add replicas: waiting grows as 1 / (1 - busy).",
        "percentunit",
        {"{{instance}}": f"sum by (instance) (rate(latentserve_execute_seconds_sum{RATE}))"},
    ),
    Panel(
        "Rows run per second",
        "By replica.",
        "rps",
        {"{{instance}}": f"sum by (instance) (rate(latentserve_batch_rows_sum{RATE}))"},
    ),
    Panel(
        "Rows of a batch",
        "Mean. Near the largest batch the engine works as cheaply as it can.",
        "short",
        {"{{model}} {{lane}}": mean("latentserve_batch_rows", "model, lane")},
    ),
    Panel(
        "Why batches are cut",
        "Batches per second. `full` all the time: more rows than one engine takes; `free`: the engine waits for rows.",
        "ops",
        {"{{cut}}": f"sum by (cut) (rate(latentserve_batches_total{RATE}))"},
        stacked=True,
    ),
    Panel(
        "Padding",
        "Share of the rows computed for nothing, to fill a known batch size.",
        "percentunit",
        {
            "{{model}}": (
                f"sum by (model) (rate(latentserve_padding_rows_total{RATE}))"
                f" / (sum by (model) (rate(latentserve_padding_rows_total{RATE}))"
                f" + sum by (model) (rate(latentserve_batch_rows_sum{RATE})))"
            )
        },
    ),
    Panel(
        "Seconds of a batch",
        "Running one.",
        "s",
        quantiles("latentserve_execute_seconds"),
    ),
    Panel(
        "Rows waiting",
        "By replica and queue.",
        "short",
        {"{{instance}} {{model}} {{lane}}": "latentserve_queue_rows"},
    ),
    Panel(
        "Age of the oldest row",
        "What replicas are scaled on. Above 0.5 s for two minutes it alerts.",
        "s",
        {"{{instance}} {{model}} {{lane}}": "latentserve_queue_oldest_seconds"},
    ),
    Panel(
        "Waiting time",
        "Of rows, until their batch is cut.",
        "s",
        quantiles("latentserve_queue_seconds"),
    ),
    Panel(
        "Calls in flight, streams open",
        "By replica.",
        "short",
        {"{{instance}} calls": "latentserve_requests_in_flight", "{{instance}} streams": "latentserve_streams_open"},
    ),
    Panel(
        "CPU",
        "Cores that each replica uses, engine, decoding and event loop together.",
        "short",
        {"{{instance}}": f'rate(process_cpu_seconds_total{{job="latentserve"}}{RATE})'},
    ),
    Panel(
        "Memory",
        "Resident, of each replica.",
        "bytes",
        {"{{instance}}": 'process_resident_memory_bytes{job="latentserve"}'},
    ),
)

DASHBOARDS = {
    "service": ("latentserve: service", SERVICE),
    "models": ("latentserve: models and strange inputs", MODELS),
    "capacity": ("latentserve: capacity", CAPACITY),
}
