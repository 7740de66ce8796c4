"""The manifests: valid for the API, and true to the service's own settings."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.config import Config

KUBERNETES = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
API_VERSION = "1.33"
NOT_OF_THE_API = {"ServiceMonitor"}
OVERLAYS = ("cpu", "gpu")


def base() -> dict[tuple[str, str], Any]:
    files = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["resources"]
    found = [one for file in files for one in yaml.safe_load_all((KUBERNETES / "base" / file).read_text())]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def merged(onto: Any, patch: Any) -> Any:
    """Strategic merge: objects by key, lists of named things by name, other lists and scalars replaced."""
    if isinstance(onto, dict) and isinstance(patch, dict):
        return onto | {key: merged(onto[key], value) if key in onto else value for key, value in patch.items()}
    named = isinstance(onto, list) and isinstance(patch, list) and all(isinstance(one, dict) for one in onto + patch)
    if named and all("name" in one for one in onto + patch):
        by_name = {one["name"]: one for one in onto}
        for one in patch:
            by_name[one["name"]] = merged(by_name.get(one["name"], {}), one)
        return list(by_name.values())
    return patch


def overlay(name: str) -> dict[tuple[str, str], Any]:
    folder = KUBERNETES / "overlays" / name
    found = base()
    for patch in yaml.safe_load((folder / "kustomization.yaml").read_text())["patches"]:
        change = yaml.safe_load((folder / patch["path"]).read_text())
        key = change["kind"], change["metadata"]["name"]
        found[key] = merged(found[key], change)
    return found


def pod(name: str) -> Any:
    return overlay(name)["Deployment", "latentserve"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_is_valid(name: str) -> None:
    objects = overlay(name)
    assert len(objects) == 7
    for (kind, _), one in objects.items():
        if kind not in NOT_OF_THE_API:
            kubernetes_validate.validate(one, API_VERSION, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_settings_are_settings_of_the_service(name: str) -> None:
    (container,) = pod(name)["containers"]
    known = {f"LATENTSERVE_{setting.upper()}" for setting in Config.model_fields}
    names = [one["name"] for one in container["env"]]
    assert set(names) <= known
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_pod_has_time_to_drain_and_is_not_killed_meanwhile(name: str) -> None:
    spec = pod(name)
    (container,) = spec["containers"]
    settings = {one["name"]: one["value"] for one in container["env"]}
    needed = float(settings["LATENTSERVE_LAME_DUCK_SECONDS"]) + float(settings["LATENTSERVE_DRAIN_SECONDS"])
    grace = spec["terminationGracePeriodSeconds"]
    assert needed + 5 <= grace
    liveness = container["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > grace
    readiness = container["readinessProbe"]
    assert readiness["periodSeconds"] <= float(settings["LATENTSERVE_LAME_DUCK_SECONDS"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_pod_may_do_nothing_but_serve(name: str) -> None:
    spec = pod(name)
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False  # else Kubernetes sets LATENTSERVE_PORT to something of its own
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_gpu_is_asked_for_and_required() -> None:
    (container,) = pod("gpu")["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "LATENTSERVE_DEVICE", "value": "cuda"} in container["env"]


def test_ports_and_selectors_fit_each_other() -> None:
    objects = base()
    deployment = objects["Deployment", "latentserve"]["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in deployment["template"]["spec"]["containers"][0]["ports"]}
    assert ports == {
        "grpc": Config.model_fields["port"].default,
        "metrics": Config.model_fields["metrics_port"].default,
    }
    for service in ("latentserve", "latentserve-headless"):
        spec = objects["Service", service]["spec"]
        assert spec["selector"].items() <= labels
        assert all(port["targetPort"] in ports for port in spec["ports"])
    for kind, path in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert objects[kind, "latentserve"]["spec"][path]["matchLabels"].items() <= labels
    monitored = objects["ServiceMonitor", "latentserve"]["spec"]
    headless = objects["Service", "latentserve-headless"]
    assert monitored["selector"]["matchLabels"].items() <= headless["metadata"]["labels"].items()
    assert {one["port"] for one in monitored["endpoints"]} <= {port["name"] for port in headless["spec"]["ports"]}
    assert headless["metadata"]["labels"][monitored["jobLabel"]] == "latentserve"  # the rules ask for this job


def test_the_autoscaler_asks_for_what_the_adapter_gives() -> None:
    (metric,) = base()["HorizontalPodAutoscaler", "latentserve"]["spec"]["metrics"]
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yml").read_text())
    assert metric["pods"]["metric"]["name"] == adapter["rules"]["custom"][0]["name"]["as"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
@pytest.mark.parametrize("name", OVERLAYS)
def test_kustomize_builds_what_we_check(name: str) -> None:
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / name)]
    built = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    found = {(one["kind"], one["metadata"]["name"]): one for one in built}
    ours = overlay(name)
    assert found.keys() == ours.keys()
    theirs = found["Deployment", "latentserve"]["spec"]["template"]["spec"]
    (container,), (expected,) = theirs["containers"], pod(name)["containers"]
    assert container["resources"] == expected["resources"]
    assert {one["name"]: one["value"] for one in container["env"]} == {
        one["name"]: one["value"] for one in expected["env"]
    }
    assert container["image"].startswith("latentserve:")
