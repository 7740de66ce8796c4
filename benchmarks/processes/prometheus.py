"""Prometheus with the rules of deploy/prometheus, scraping servers on the loopback, and time that passes faster.

The rules are the files themselves with every duration divided by `SPEED`: a window of an hour takes a minute, which a
test can wait for.
"""

from __future__ import annotations

import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.processes.child import ChildProcess, free_port
from deploy.panels import Panel

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
SPEED = 60
SCRAPE = "500ms"
RATE_INTERVAL = "10s"
"""What stands for Grafana's variable: four scrapes at least."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\[|for: )(\d+)([smhd])\b")


def sped_up(rules: str) -> str:
    """Rule files with windows and waits divided by `SPEED`; names stay."""

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[2]) * _SECONDS[found[3]] / SPEED
        return f"{found[1]}{round(seconds * 1000)}ms"

    return _DURATION.sub(shorter, rules)


class PrometheusProcess(ChildProcess):
    """Prometheus as a child process; ready when entered.

    Args:
        targets: host:port of the servers' metrics.
        folder: for its configuration, data and log.
    """

    def __init__(self, targets: tuple[str, ...], folder: Path) -> None:
        for name in ("recording.yml", "alerts.yml"):
            (folder / name).write_text(sped_up((RULES / name).read_text()))
        config = {
            "global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE},
            "rule_files": ["recording.yml", "alerts.yml"],
            "scrape_configs": [{"job_name": "latentserve", "static_configs": [{"targets": list(targets)}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            *("prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=warn"),
        ]
        super().__init__(command, folder / "prometheus.log")

    def ready(self) -> bool:
        """It answers queries."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as page:
                return bool(page.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **parameters: Any) -> Any:
        """`data` of an answer of its API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as page:
            return json.load(page)["data"]

    def query(self, query: str) -> list[float]:
        """The values that an expression has now."""
        return [float(one["value"][1]) for one in self.ask("query", query=query)["result"]]

    def lines(self, query: str, legend: str, seconds: float) -> Iterator[tuple[str, NDArray[Any]]]:
        """Legend and [2, N] (seconds before now, value) of each series of an expression."""
        now = time.time()
        parameters = {"start": now - seconds, "end": now, "step": max(0.5, seconds / 400)}
        for one in self.ask("query_range", query=query, **parameters)["result"]:
            times, values = np.array(one["values"], np.float64).T
            yield _named(legend, one["metric"]), np.stack([times - now, values])

    def firing(self, severity: str = "page|ticket") -> set[str]:
        """Names of the alerts that are raised."""
        found = self.ask("alerts")["alerts"]
        names = [one for one in found if re.fullmatch(severity, one["labels"]["severity"])]
        return {one["labels"]["alertname"] for one in names if one["state"] == "firing"}


def _named(legend: str, labels: dict[str, str]) -> str:
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        legend = legend.replace(f"{{{{{label}}}}}", labels.get(label, ""))
    return legend


def as_asked(query: str) -> str:
    """A panel's query with Grafana's variables filled in."""
    return query.replace("$__rate_interval", RATE_INTERVAL).replace("$model", ".*")


def draw(prometheus: PrometheusProcess, title: str, panels: tuple[Panel, ...], seconds: float, path: Path) -> None:
    """A dashboard's panels over the last seconds, as PNG."""
    from matplotlib import pyplot as plt

    columns = 3
    figure, axes = plt.subplots(-(-len(panels) // columns), columns, figsize=(16, 3 * (-(-len(panels) // columns))))
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        for legend, query in panel.lines.items():
            for name, (times, values) in prometheus.lines(as_asked(query), legend, seconds):
                axis.plot(times, values, label=name, linewidth=1)
        axis.set_title(f"{panel.title} [{panel.unit}]", fontsize=9, loc="left")
        axis.set_xlim(-seconds, 0)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6, loc="upper left")
    figure.suptitle(title)
    figure.supxlabel("seconds before now", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
