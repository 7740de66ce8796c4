"""KServe's manifest: its pod is valid, its settings are ours, and runtime and service fit each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from service.config import Config
from tests.deploy.test_kubernetes import API_VERSION

FILE = Path(__file__).resolve().parents[2] / "deploy" / "kserve" / "inferenceservice.yml"


def objects() -> tuple[Any, Any]:
    runtime, service = yaml.safe_load_all(FILE.read_text())
    return runtime, service


def test_the_container_is_valid_and_its_settings_are_settings_of_the_service() -> None:
    runtime, service = objects()
    grace = {"terminationGracePeriodSeconds": service["spec"]["predictor"]["terminationGracePeriodSeconds"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "photos"}}
    spec = {"containers": runtime["spec"]["containers"], **grace}
    kubernetes_validate.validate(pod | {"spec": spec}, API_VERSION, strict=True)
    (container,) = runtime["spec"]["containers"]
    settings = {one["name"].removeprefix("LATENTSERVE_").lower(): one["value"] for one in container["env"]}
    config = Config(**settings)
    assert config.models == Path("/mnt/models")
    assert config.lame_duck_seconds + config.drain_seconds < grace["terminationGracePeriodSeconds"]
    assert [port["containerPort"] for port in container["ports"]] == [config.port]


def test_the_service_asks_for_what_the_runtime_has() -> None:
    runtime, service = objects()
    model, (known,) = service["spec"]["predictor"]["model"], runtime["spec"]["supportedModelFormats"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"] == {"name": known["name"], "version": known["version"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
