"""Metrics page, dashboards, rules and alerts: made from the code, naming what exists, each alert with a runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import dashboards, metrics_page
from deploy.panels import DASHBOARDS
from service.observing.metric_table import declared

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded() -> dict[str, str]:
    groups = yaml.safe_load((PROMETHEUS / "recording.yml").read_text())["groups"]
    return {rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}


def queries() -> list[str]:
    panels = [panel for _, panels in DASHBOARDS.values() for panel in panels]
    of_panels = [query for panel in panels for query in panel.lines.values()]
    adapter = (ROOT / "deploy/kubernetes/prometheus-adapter.yml").read_text()
    return [*of_panels, *recorded().values(), *(rule["expr"] for rule in alerts()), adapter]


def test_the_page_of_metrics_is_what_the_code_declares() -> None:
    assert metrics_page.PAGE.read_text() == metrics_page.page(), "run: python -m deploy.metrics_page"
    assert {label for metric in declared().values() for label in metric.labels} == metrics_page.LABELS.keys()


def test_metrics_are_named_in_base_units() -> None:
    for metric in declared().values():
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert not re.search(r"_(ms|milliseconds|us|minutes|kib|mib|percent)\b", metric.name), metric.name
        assert not {"client", "peer", "user", "trace_id"} & set(metric.labels)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_dashboards_are_what_their_code_makes(name: str) -> None:
    assert (dashboards.FOLDER / f"{name}.json").read_text() == dashboards.text(name), "run: python -m deploy.dashboards"
    panels = json.loads(dashboards.text(name))["panels"]
    assert len(panels) >= 9
    assert all(panel["description"] for panel in panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)  # none covers another


def test_what_is_asked_for_exists() -> None:
    known = {metric.name + suffix for metric in declared().values() for suffix in SUFFIXES[metric.kind]}
    known |= {f"process_{name}" for name in ("cpu_seconds_total", "resident_memory_bytes")}
    known |= {"latentserve_busy"}  # what the adapter calls it
    for query in queries():
        for name in re.findall(r"(?<![:\w])(?:latentserve|process)_\w+", query):
            assert name in known, f"{name} in {query}"
        for name in re.findall(r"\w+:latentserve_\w+:\w+", query):
            assert name in recorded(), f"{name} in {query}"


def test_the_labels_asked_for_are_those_of_the_metrics() -> None:
    labels = {metric.name: set(metric.labels) | {"le", "job", "instance"} for metric in declared().values()}
    for query in queries():
        for name, selectors in re.findall(r"\b(latentserve_\w+?)(?:_bucket|_sum|_count)?\{([^}]*)\}", query):
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors):
                assert label in labels.get(name, labels.get(f"{name}_count", set())) | {"namespace", "pod"}, query


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    headings = set(re.findall(r"^### (Latentserve\w+)$", text, re.MULTILINE))
    assert headings == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/operating.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_every_alert_has_a_unit_test_that_raises_it() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    raised = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert raised == {rule["alert"] for rule in alerts()}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here: apt-get install prometheus")
@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")], ids=lambda one: one[0]
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
