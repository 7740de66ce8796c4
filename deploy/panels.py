"""The dashboards' panels: queries, and how to read each panel.

`$model` is the dashboards' variable; Grafana fills in a suitable `$__rate_interval`.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE = "[$__rate_interval]"
MODEL = 'model=~"$model"'


@dataclass(frozen=True)
class Panel:
    """One panel: legend and PromQL of each line.

    Attributes:
        title: names what is counted.
        text: how to read it.
        unit: Grafana's name of it.
        lines: PromQL by legend.
        stacked: whether lines add up.
        lowest: where the axis begins; None to begin where the lines do.
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
        "Calls by gRPC status. RESOURCE_EXHAUSTED and DEADLINE_EXCEEDED together mean overload.",
        "reqps",
        {"{{method}} {{code}}": f"sum by (method, code) (rate(latentserve_requests_total{{{MODEL}}}{RATE}))"},
    ),
    Panel(
        "Failed and slow calls",
        "Share of calls that failed by the service's fault, and share that took over 100 ms. Budgets: 0.1 % and 1 %.",
        "percentunit",
        {"failed": "job:latentserve_failed:ratio_rate5m", "over 100 ms": "job:latentserve_slow:ratio_rate5m"},
    ),
    Panel(
        "Latency",
        "Time from a call's arrival at the server to its answer.",
        "s",
        quantiles("latentserve_request_seconds", where=MODEL),
    ),
    Panel(
        "Latency by method, p99",
        "Each method's slowest percent takes longer than this.",
        "s",
        {"{{method}}": quantiles("latentserve_request_seconds", "method", MODEL)["{{method}} p99"]},
    ),
    Panel(
        "Where a call's time goes",
        "Means of the parts of a call. If only the queue grows, the cause is load; if running grows, the engine.",
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
        "Time left to the client's deadline when the answer was ready. Near 0, answers are about to be late.",
        "s",
        {"p1": f"histogram_quantile(0.01, sum by (le) (rate(latentserve_deadline_slack_seconds_bucket{RATE})))"}
        | quantiles("latentserve_deadline_slack_seconds"),
    ),
    Panel(
        "Rows not run",
        "Reasons: full (queue), expired (deadline), cancelled (client), invalid (files), failed (engine), draining.",
        "rps",
        {"{{reason}}": f"sum by (reason) (rate(latentserve_dropped_rows_total{{{MODEL}}}{RATE}))"},
    ),
    Panel(
        "Rows run in vain",
        "Rows whose client left, or whose deadline passed, while they ran. Rows that were abandoned earlier never run.",
        "rps",
        {"{{model}}": f"sum by (model) (rate(latentserve_dead_work_rows_total{{{MODEL}}}{RATE}))"},
    ),
    Panel(
        "Event-loop lag",
        "Every call waits for the event loop, whatever the queues show. Above 10 ms the interpreter is the bottleneck.",
        "s",
        quantiles("latentserve_event_loop_lag_seconds"),
    ),
)

MODELS = (
    Panel(
        "Models served",
        "Name, version and execution provider. A version disappears with its last replica.",
        "short",
        {
            "{{model}}/{{version}} {{method}} {{execution_provider}}": (
                f"sum by (model, version, method, execution_provider) (latentserve_model_info{{{MODEL}}})"
            )
        },
    ),
    Panel(
        "Bundles rejected, CPU fallbacks",
        "Both should stay 0. The replica's log gives the reason.",
        "short",
        {"rejected": "sum(latentserve_rejected_bundles)", "on the CPU": "sum(latentserve_device_fallback)"},
    ),
    Panel(
        "Rows scored per second by decision",
        "A row is flagged if its p-value is at most the request's alpha.",
        "rps",
        {
            "{{model}} flagged={{flagged}}": (
                f"sum by (model, flagged) (rate(latentserve_decided_rows_total{{{MODEL}}}{RATE}))"
            )
        },
        stacked=True,
    ),
    Panel(
        "Share flagged",
        "At most a share of alpha of in-distribution rows is flagged: a share that stays above alpha means OOD rows.",
        "percentunit",
        {
            "{{model}}": (
                f'sum by (model) (rate(latentserve_decided_rows_total{{flagged="true", {MODEL}}}{RATE}))'
                f" / sum by (model) (rate(latentserve_decided_rows_total{{{MODEL}}}{RATE}))"
            )
        },
    ),
    Panel(
        "p-values at or below",
        "Shares of the rows scored. For in-distribution rows, each share equals the number in its legend.",
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
        "Outside the band, the calibration does not fit the rows that are scored now.",
        "percentunit",
        {
            "{{model}}/{{version}} share": f"max by (model, version) (latentserve_monitor_window_share{{{MODEL}}})",
            "{{model}}/{{version}} low": f"max by (model, version) (latentserve_monitor_band_low{{{MODEL}}})",
            "{{model}}/{{version}} high": f"max by (model, version) (latentserve_monitor_band_high{{{MODEL}}})",
        },
    ),
    Panel(
        "Monitor: wealth of the e-process",
        "Log10. The alarm is raised at 2 (level 0.01): falsely in at most 1 % of the services, however long they run.",
        "short",
        {"{{model}}/{{version}}": f"max by (model, version) (latentserve_monitor_e_process_log10{{{MODEL}}})"},
        lowest=None,
    ),
    Panel(
        "Monitor: embedding drift",
        "1 is expected without a shift; the alarm is raised at 6.6.",
        "short",
        {"{{model}}/{{version}}": f"max by (model, version) (latentserve_monitor_embedding_drift{{{MODEL}}})"},
    ),
    Panel(
        "Monitor: alarms",
        "1 while the alarm is raised. docs/operating.md tells what to do.",
        "short",
        {"{{model}}/{{version}} {{kind}}": f"max by (model, version, kind) (latentserve_monitor_alarm{{{MODEL}}})"},
    ),
    Panel(
        "Scores that were not finite",
        "Rows per second. They get the smallest p-value and are flagged; the model or its inputs are broken.",
        "rps",
        {"{{model}}": f"sum by (model) (rate(latentserve_not_finite_scores_total{{{MODEL}}}{RATE}))"},
    ),
)

CAPACITY = (
    Panel(
        "Engine busy",
        "Share of the time in which an engine runs batches. Above 0.7 add replicas: waiting grows as 1 / (1 - busy).",
        "percentunit",
        {
            "{{instance}} {{device}}/{{number}}": (
                f"sum by (instance, device, number) (rate(latentserve_instance_busy_seconds_total{RATE}))"
            )
        },
    ),
    Panel(
        "Engines out of service",
        "Instances whose batches failed or were stuck, until golden rows come out right. Others answer for them.",
        "short",
        {"{{instance}}": "sum by (instance) (1 - latentserve_instance_in_service)"},
    ),
    Panel(
        "Rows run per second",
        "Sum for each replica.",
        "rps",
        {"{{instance}}": f"sum by (instance) (rate(latentserve_batch_rows_sum{RATE}))"},
    ),
    Panel(
        "Rows of a batch",
        "Mean. Near the largest batch size the engine works most efficiently.",
        "short",
        {"{{model}} {{queue}}": mean("latentserve_batch_rows", "model, queue")},
    ),
    Panel(
        "Why batches are formed",
        "Batches per second. Always `full`: more rows arrive than one engine runs. `free`: the engine waits for rows.",
        "ops",
        {"{{formed}}": f"sum by (formed) (rate(latentserve_batches_total{RATE}))"},
        stacked=True,
    ),
    Panel(
        "Padding",
        "Share of computed rows that only fill a known batch size.",
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
        "Time to run one batch.",
        "s",
        quantiles("latentserve_execute_seconds"),
    ),
    Panel(
        "Rows waiting",
        "Rows in each queue of each replica.",
        "short",
        {"{{instance}} {{model}} {{queue}}": "latentserve_queue_rows"},
    ),
    Panel(
        "Age of the oldest row",
        "Replicas are scaled on this. An alert is raised above 0.5 s for two minutes.",
        "s",
        {"{{instance}} {{model}} {{queue}}": "latentserve_queue_oldest_seconds"},
    ),
    Panel(
        "Waiting time",
        "Time that rows wait until their batch is formed.",
        "s",
        quantiles("latentserve_queue_seconds"),
    ),
    Panel(
        "Calls in flight, streams open",
        "Sum for each replica.",
        "short",
        {"{{instance}} calls": "latentserve_requests_in_flight", "{{instance}} streams": "latentserve_streams_open"},
    ),
    Panel(
        "CPU",
        "Cores that each replica uses for engine, decoding and event loop together.",
        "short",
        {"{{instance}}": f'rate(process_cpu_seconds_total{{job="latentserve"}}{RATE})'},
    ),
    Panel(
        "Memory",
        "Resident memory of each replica.",
        "bytes",
        {"{{instance}}": 'process_resident_memory_bytes{job="latentserve"}'},
    ),
)

DASHBOARDS = {
    "service": ("latentserve: service", SERVICE),
    "models": ("latentserve: models and out-of-distribution inputs", MODELS),
    "capacity": ("latentserve: capacity", CAPACITY),
}
