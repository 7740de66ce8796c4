"""Envoy's configuration: taken by Envoy, and true to the service, the client and docker-compose.yml."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from benchmarks.processes.envoy import CONFIG, binary, config
from latentserve.rpc import MODEL_HEADER
from service.api.calls import SERVICE
from service.config import Config

ROOT = Path(__file__).resolve().parents[2]


def resources() -> Any:
    return yaml.safe_load(CONFIG.read_text())["static_resources"]


def routes() -> list[Any]:
    (listener,) = resources()["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    found: list[Any] = manager["route_config"]["virtual_hosts"][0]["routes"]
    return found


def test_envoy_takes_it_as_it_is_deployed_and_as_it_is_tried(tmp_path: Path) -> None:
    tried = tmp_path / "tried.yml"
    tried.write_text(yaml.safe_dump(config(1, 2, (3, 4))))
    for path in (CONFIG, tried):
        command = [str(binary()), "--mode", "validate", "-c", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_it_asks_for_the_services_that_health_knows() -> None:
    asked = {
        one["name"]: one["health_checks"][0]["grpc_health_check"]["service_name"] for one in resources()["clusters"]
    }
    assert asked["latentserve"] == SERVICE.full_name
    assert asked["latentserve-digits-vae"] == "digits-vae"  # the model of the first bundle
    assert {route["route"]["cluster"] for route in routes()} == asked.keys()


def test_models_are_found_by_the_header_that_clients_send() -> None:
    named = [header["name"] for route in routes() for header in route["match"].get("headers", [])]
    assert named == [MODEL_HEADER]


def test_streams_of_scores_are_not_asked_again_and_all_else_is() -> None:
    again = {str(route["match"]): "retry_policy" in route["route"] for route in routes()}
    assert [kept for match, kept in again.items() if "ScoreStream" in match] == [False]
    assert all(kept for match, kept in again.items() if "ScoreStream" not in match)


def test_its_ports_are_those_of_compose() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    (listener,) = resources()["listeners"]
    admin = yaml.safe_load(CONFIG.read_text())["admin"]
    ports = [one["address"]["socket_address"]["port_value"] for one in (listener, admin)]
    assert services["envoy"]["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]
    for cluster in resources()["clusters"]:
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        assert address["address"] in services
        assert address["port_value"] == Config.model_fields["port"].default
