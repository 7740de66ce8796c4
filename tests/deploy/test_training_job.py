"""The job that trains on several machines: valid for the API, and a command line that training takes."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from training.__main__ import parse

JOB = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "training" / "job.yml"
API_VERSION = "1.33"


def objects() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(JOB.read_text())}


def variables() -> dict[str, str]:
    (container,) = objects()["Job"]["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one["value"] for one in container["env"]}


def command(tmp_path: Path, run: Path) -> list[str]:
    """What a pod of index 1 would start: its shell runs, torchrun is one that says what it is given."""
    (container,) = objects()["Job"]["spec"]["template"]["spec"]["containers"]
    torchrun = tmp_path / "torchrun"
    torchrun.write_text('#!/bin/sh\nfor one in "$@"; do echo "$one"; done\n')
    torchrun.chmod(0o755)
    given = variables() | {"RUN": str(run), "JOB_COMPLETION_INDEX": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    asked = [*container["command"], *container["args"]]
    return subprocess.run(asked, env=given, check=True, capture_output=True, text=True).stdout.splitlines()


def test_every_object_is_valid() -> None:
    assert objects().keys() == {"Service", "Job"}
    for one in objects().values():
        kubernetes_validate.validate(one, API_VERSION, strict=True)


def test_pods_find_the_first_of_them_by_the_service() -> None:
    service, job = objects()["Service"], objects()["Job"]
    spec = job["spec"]["template"]["spec"]
    assert spec["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert service["spec"]["clusterIP"] == "None"
    assert variables()["FIRST"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"


def test_as_many_pods_and_devices_as_torchrun_is_told() -> None:
    spec = objects()["Job"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["completions"] == spec["parallelism"] == int(variables()["NODES"])
    assert spec["completionMode"] == "Indexed"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == variables()["DEVICES"]
    devices, cpus = int(variables()["DEVICES"]), int(container["resources"]["requests"]["cpu"])
    assert int(variables()["OMP_NUM_THREADS"]) == cpus // devices


@pytest.mark.parametrize("begun", [False, True])
def test_the_command_begins_a_training_and_goes_on_with_it(begun: bool, tmp_path: Path) -> None:
    run = tmp_path / "photos"
    run.mkdir()
    if begun:
        (run / "run.json").touch()
    got = command(tmp_path, run)
    port = str(objects()["Service"]["spec"]["ports"][0]["port"])
    first, (name, *rest) = got[: got.index("training") + 1], got[got.index("training") + 1 :]
    told = "--nnodes 2 --node-rank 1 --nproc-per-node 8 --master-addr latentserve-training-0.latentserve-training"
    assert first == [*shlex.split(told), "--master-port", port, "-m", "--", "training"]
    if begun:
        assert [name, *rest] == ["--resume", "--run", str(run)]
        return
    options, _ = parse(name, rest)
    assert options.run == run
    assert options.loop.batch_rows % (int(variables()["NODES"]) * int(variables()["DEVICES"])) == 0
