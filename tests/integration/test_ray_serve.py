"""The service under Ray Serve: the same answers and the same errors through Ray's proxy (`make ray-test`)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from latentserve.client import Client
from latentserve.errors import ModelNotFound

ray = pytest.importorskip("ray", reason="the extra `ray`: make ray-test")
serve = pytest.importorskip("ray.serve", reason="ray[serve]: make ray-test")
from ray.serve.config import gRPCOptions  # noqa: E402

from deploy.ray.serve_app import app  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore")]  # of Ray itself


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def target(bundle_folder: Path) -> Iterator[str]:
    port = free_port()
    settings = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yml").read_text())
    functions = settings["grpc_options"]["grpc_servicer_functions"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            serve.start(
                http_options={"host": "127.0.0.1", "port": free_port()},
                grpc_options=gRPCOptions(port=port, grpc_servicer_functions=functions),
            )
            serve.run(app({"models": str(bundle_folder.parents[1])}), name="latentserve")
            yield f"127.0.0.1:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()


def test_answers_are_those_of_a_server(target: str, digits_server: ServedProcess, digits: NDArray[np.uint8]) -> None:
    rows = digits[:5]
    with Client(target) as ours, Client(digits_server.target) as theirs:
        np.testing.assert_array_equal(ours.embed(rows), theirs.embed(rows))
        through, directly = ours.score(rows, alpha=0.1), theirs.score(rows, alpha=0.1)
        np.testing.assert_array_equal(through.p_values, directly.p_values)
        assert [one.name for one in ours.list_models().models] == [one.name for one in theirs.list_models().models]


def test_errors_come_through_with_status_and_words(target: str, digits: NDArray[np.uint8]) -> None:
    with Client(target) as client, pytest.raises(ModelNotFound, match="none"):
        client.embed(digits[:1], model="none")
