from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics import exposition as openmetrics

from latentserve import bundle
from latentserve.bundle import Manifest
from service.observing import loop_lag
from service.observing.metric_table import MetricTable, declared
from service.observing.metrics import Metrics
from service.observing.queue_metrics import QueueMetrics

LABELS = {"model": "digits-vae", "version": "1", "queue": "input"}


def test_what_a_queue_tells_is_what_is_counted() -> None:
    metrics = Metrics()
    lane = QueueMetrics(metrics, "digits-vae", 1, "input")

    def value(name: str, **more: str) -> float | None:
        return metrics.registry.get_sample_value(f"latentserve_{name}", LABELS | more)

    lane.queued(7, 700)
    assert (value("queue_rows"), value("queue_bytes")) == (7, 700)
    for number, reason in enumerate(("full", "draining", "expired", "cancelled", "invalid", "failed"), start=1):
        lane.dropped(reason, number)
        assert value("dropped_rows_total", reason=reason) == number
    for why in ("full", "free", "window"):
        lane.formed(why)
        assert value("batches_total", formed=why) == 1
    lane.waited(0.25, 3)
    assert (value("queue_seconds_count"), value("queue_seconds_sum")) == (1, 0.25)
    lane.ran(4)
    assert value("run_rows_total") == 4
    lane.executed(5, 2, 0.5)
    lane.padded(3, 0.25)
    assert (value("batch_rows_sum"), value("execute_seconds_sum")) == (5, 0.5)
    assert (value("padding_rows_total"), value("dead_work_rows_total")) == (3, 2)
    assert value("pad_seconds_sum") == 0.25
    lane.watch_oldest(lambda: 1.5)
    assert value("queue_oldest_seconds") == 1.5


def test_files_are_counted_by_whether_anybody_still_waited_for_them() -> None:
    metrics = Metrics()
    metrics.decoded(5, 2)
    metrics.decoded(1, 0)
    value = metrics.registry.get_sample_value
    counted = [value("latentserve_decoded_items_total", {"wanted": wanted}) for wanted in ("true", "false")]
    assert counted == [4, 2]


def test_decisions_are_counted() -> None:
    metrics = Metrics()
    metrics.decided("m", "1", num_flagged=1, num_not_finite=1, p_values=[0.01, 0.5, 0.9])

    def value(name: str, **more: str) -> float | None:
        return metrics.registry.get_sample_value(f"latentserve_{name}", {"model": "m", "version": "1"} | more)

    assert value("decided_rows_total", flagged="true") == 1
    assert value("decided_rows_total", flagged="false") == 2
    assert value("p_value_bucket", le="0.5") == 2
    assert value("not_finite_scores_total") == 1


def test_answers_are_counted_by_code() -> None:
    metrics = Metrics()
    metrics.answered("Embed", "m", "OK", 0.1, float("inf"))
    metrics.answered("Embed", "m", "OK", 0.2, float("inf"))
    metrics.answered("Embed", "", "NOT_FOUND", 0.1, 0.0)
    value = metrics.registry.get_sample_value
    assert value("latentserve_requests_total", {"method": "Embed", "model": "m", "code": "OK"}) == 2
    assert value("latentserve_requests_total", {"method": "Embed", "model": "", "code": "NOT_FOUND"}) == 1
    assert value("latentserve_request_seconds_sum", {"method": "Embed", "model": "m"}) == pytest.approx(0.3)
    assert value("latentserve_deadline_slack_seconds_count") == 0


def test_a_latency_points_to_its_trace() -> None:
    metrics = Metrics()
    metrics.answered("Embed", "m", "OK", 0.0015, float("inf"), "4bf92f3577b34da6a3ce929d0e0e4736")
    metrics.answered("Embed", "m", "OK", 0.3, float("inf"))
    page = openmetrics.generate_latest(metrics.registry).decode()
    pointing = [line for line in page.splitlines() if "# {" in line]
    assert len(pointing) == 1
    assert 'le="0.002"' in pointing[0]
    assert '# {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.0015' in pointing[0]


def test_the_lag_of_the_loop_is_what_blocks_it() -> None:
    late: list[float] = []

    async def run() -> None:
        watching = asyncio.create_task(loop_lag.watch(late.append, 0.01))
        await asyncio.sleep(0.005)
        time.sleep(0.1)
        await asyncio.sleep(0.005)
        watching.cancel()

    asyncio.run(run())
    assert late[0] > 0.08


def test_every_metric_of_the_table_is_registered_under_its_attribute() -> None:
    metrics = Metrics()
    pages = {family.name for family in metrics.registry.collect()}
    for attribute, declaration in declared().items():
        assert declaration.name.removesuffix("_total") in pages
        assert type(getattr(metrics, attribute)) is declaration.type
        assert (declaration.kind == "histogram") == bool(declaration.buckets)
    with pytest.raises(AttributeError, match="latentserve_ready is declared but not registered"):
        MetricTable().ready.set(1)


def series(metrics: Metrics) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every series on the page, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for metric in metrics.registry.collect()
        for sample in metric.samples
    }


def used(metrics: Metrics, manifest: Manifest) -> None:
    """Everything that is labelled with a model has been told something of this one."""
    name, version = manifest.name, str(manifest.version)
    metrics.opened(manifest, "CPUExecutionProvider")
    metrics.answered("Embed", name, "OK", 0.1, float("inf"))
    for attribute, declaration in declared().items():
        if "model" in declaration.labels and attribute != "model_info":
            known = {"model": name, "version": version}
            getattr(metrics, attribute).labels(**{label: known.get(label, "x") for label in declaration.labels})


def test_nothing_is_left_of_what_was_unloaded(bundle_folder: Path) -> None:
    metrics, one = Metrics(), bundle.load(bundle_folder)
    two, other = replace(one, version=2), replace(one, name="other")
    used(metrics, other)
    empty = series(metrics)
    used(metrics, one)
    alone = series(metrics)
    labelled = {name for name, labels in alone for label, value in labels if (label, value) == ("model", "digits-vae")}
    assert len(labelled) > 30
    used(metrics, two)
    metrics.forget("digits-vae", "2")
    assert series(metrics) == alone  # the model itself is still served
    metrics.forget("digits-vae", "1")
    assert series(metrics) == empty
    metrics.answered("Embed", "digits-vae", "OK", 0.1, float("inf"))  # its last answer, which was on its way
    assert not {labels for _, labels in series(metrics) if ("model", "digits-vae") in labels}
    used(metrics, one)
    metrics.answered("Embed", "digits-vae", "OK", 0.1, float("inf"))
    value = metrics.registry.get_sample_value
    assert value("latentserve_requests_total", {"method": "Embed", "model": "digits-vae", "code": "OK"}) == 2
