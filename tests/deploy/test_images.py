"""Images and docker-compose.yml, as far as they can be tried without a Docker engine."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.config import Config

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
DOCKERFILES = ("serve", "train")


def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_compose_names_files_and_ports_that_exist() -> None:
    for service in compose()["services"].values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), port
    assert compose()["services"]["service"]["ports"] == ["127.0.0.1:50051:50051", "127.0.0.1:9464:9464"]


def test_settings_in_compose_and_images_are_settings_of_the_service() -> None:
    known = {f"LATENTSERVE_{name.upper()}" for name in Config.model_fields}
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "deploy/docker/serve.Dockerfile").read_text()
    assert set(re.findall(r"LATENTSERVE_\w+", text)) <= known


@pytest.mark.parametrize("name", ["serve", "train"])
def test_images_copy_what_exists_and_what_the_build_context_holds(name: str) -> None:
    text = (ROOT / f"deploy/docker/{name}.Dockerfile").read_text()
    context = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in shlex.split(line)[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in context, source


@pytest.mark.parametrize("name", ["serve", "serve-cpu"])
def test_the_serving_image_installs_no_torch(name: str) -> None:
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE)
    assert {"grpcio", "protobuf", "numpy", "pillow", "prometheus-client"} <= set(pinned)
    assert not {"torch", "lightning", "onnx", "scikit-learn"} & set(pinned)


def test_compose_is_what_its_schema_says() -> None:
    command = [TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    command = [TOOLS / "hadolint", f"deploy/docker/{name}.Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_serving_container_can_write_nothing_and_has_time_to_drain() -> None:
    services = compose()["services"]
    for name in ("service", "replica", "gpu"):
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        settings = service["environment"]
        needed = float(settings["LATENTSERVE_LAME_DUCK_SECONDS"]) + float(settings["LATENTSERVE_DRAIN_SECONDS"])
        assert needed < float(service["stop_grace_period"].removesuffix("s"))
    dockerfile = (ROOT / "deploy/docker/serve.Dockerfile").read_text()
    assert re.search(r"^USER \d+$", dockerfile, re.MULTILINE)
    assert "latentserve.health" in dockerfile.split("HEALTHCHECK")[1]


def test_profiles_are_those_that_readme_names() -> None:
    services = compose()["services"]
    always = {name for name, service in services.items() if "profiles" not in service}
    assert always == {"bundle", "service", "prometheus", "grafana"}
    assert {name for name, service in services.items() if service.get("profiles") == ["scale"]} == {"replica", "envoy"}
    assert {name for name, service in services.items() if service.get("profiles") == ["gpu"]} == {"gpu"}
