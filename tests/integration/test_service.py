"""The real server in its own process, asked over a real channel."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from numpy.typing import NDArray
from PIL import Image

from benchmarks.processes.served import ServedProcess
from export.graphs import GraphRunner
from latentserve import bundle
from latentserve.client import AsyncClient, Client
from latentserve.conformal import conditional_p_values, p_values, rejected
from latentserve.errors import (
    BundleError,
    DeadlineExceeded,
    InvalidInput,
    LatentserveError,
    ModelNotFound,
    Unavailable,
    Unsupported,
)
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from latentserve.v1 import embedding_pb2_grpc as pb_grpc


@pytest.fixture(scope="module")
def expected(bundle_folder: Path, digits: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """What the bundle's graphs give for the digits, without a server."""
    return GraphRunner(bundle_folder, bundle.load(bundle_folder).graphs.values()).run(digits, 1)


def test_served_numbers_are_those_of_the_bundle_bit_for_bit(
    client: Client, digits: NDArray[np.uint8], expected: dict[str, NDArray[Any]]
) -> None:
    np.testing.assert_array_equal(client.embed(digits), expected["embedding"])
    np.testing.assert_array_equal(client.reconstruct(digits), expected["reconstruction"])
    np.testing.assert_array_equal(client.score(digits).scores, expected["scores"])
    np.testing.assert_array_equal(client.decode(expected["latent"]), expected["reconstruction"])


def test_p_values_and_decisions_are_those_of_the_calibration(
    client: Client, digits: NDArray[np.uint8], expected: dict[str, NDArray[Any]], bundle_folder: Path
) -> None:
    calibration = bundle.load_calibration(bundle_folder, bundle.load(bundle_folder))["weighted"]
    p = p_values(expected["scores"][:, 0], calibration)
    scores = client.score(digits, alpha=0.2)
    np.testing.assert_array_equal(scores.p_values, p)
    np.testing.assert_array_equal(scores.flagged, p <= 0.2)
    assert (scores.alpha, scores.deciding_detector) == (0.2, "weighted")
    assert client.score(digits).alpha == 0.05
    assert scores.detectors[:3] == ("weighted", "cauchy", "bonferroni")
    assert scores.detector_p_values.shape == (len(digits), len(scores.detectors))
    np.testing.assert_allclose(scores.detector_p_values[:, 0], p, rtol=1e-6)


def test_what_alpha_promises_is_the_callers_choice(
    client: Client, digits: NDArray[np.uint8], bundle_folder: Path
) -> None:
    detector = bundle.load(bundle_folder).detectors[0]
    marginal = client.score(digits, alpha=0.05).p_values
    careful = client.score(digits, alpha=0.05, guarantee="conditional").p_values
    expected = conditional_p_values(marginal, detector.num_calibration_rows, detector.delta, detector.adjustment)
    np.testing.assert_array_equal(careful, expected)
    assert (careful >= marginal).all()
    beside = client.analyze(digits, ["embedding", "score"], alpha=0.05, guarantee="conditional").scores
    assert beside is not None
    np.testing.assert_array_equal(beside.p_values, careful)
    with pytest.raises(InvalidInput, match="guarantee: got 2, expected none without OUTPUT_SCORE"):
        client.analyze(digits, ["embedding"], guarantee="conditional")
    with pytest.raises(InvalidInput, match="guarantee: got 'sure', expected one of"):
        client.score(digits, guarantee="sure")  # type: ignore[arg-type]
    described = client.get_model().model.detectors[0]
    assert described.smallest_conditional_p_value == detector.smallest_conditional_p_value
    assert (described.delta, described.calibration_sha256) == (detector.delta, detector.calibration_sha256)
    with pytest.raises(InvalidInput, match="the smallest conditional p-value"):
        client.score(digits, alpha=1 / 301, guarantee="conditional")


def test_the_false_discovery_rate_is_over_all_rows_of_a_call(client: Client, digits: NDArray[np.uint8]) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (100, *digits.shape[1:]), dtype=np.uint8)  # two requests of the client
    rows = np.concatenate([noise, digits])
    scores = client.score(rows, alpha=0.05, decision="false_discovery_rate")
    np.testing.assert_array_equal(scores.flagged, rejected(scores.p_values, 0.05))
    assert scores.flagged[:100].all()


def test_analyze_gives_what_was_asked_and_nothing_else(
    client: Client, digits: NDArray[np.uint8], expected: dict[str, NDArray[Any]]
) -> None:
    got = client.analyze(digits, ["embedding", "latent", "reconstruction", "score"], alpha=0.1)
    np.testing.assert_array_equal(got.embeddings, expected["embedding"])
    np.testing.assert_array_equal(got.latents, expected["latent"])
    np.testing.assert_array_equal(got.reconstructions, expected["reconstruction"])
    assert got.scores is not None
    np.testing.assert_array_equal(got.scores.scores, expected["scores"])
    only = client.analyze(digits[:3], ["latent"])
    assert (only.embeddings, only.reconstructions, only.scores) == (None, None, None)
    assert only.model.embedding_space == got.model.embedding_space


def test_files_are_served_as_their_pixels(
    client: Client, digits: NDArray[np.uint8], expected: dict[str, NDArray[Any]], encode: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(encode(digits[0]))
    files = [tmp_path / "a.png", str(tmp_path / "a.png"), encode(digits[1])]
    np.testing.assert_array_equal(client.embed(files), expected["embedding"][[0, 0, 1]])


def test_the_async_client_gives_the_same(
    server: ServedProcess, digits: NDArray[np.uint8], expected: dict[str, NDArray[Any]]
) -> None:
    async def ask() -> None:
        async with AsyncClient(server.target) as client:
            several = await asyncio.gather(*(client.embed(digits) for _ in range(4)))
            for embeddings in several:
                np.testing.assert_array_equal(embeddings, expected["embedding"])
            np.testing.assert_array_equal((await client.score(digits)).scores, expected["scores"])
            np.testing.assert_array_equal(await client.reconstruct(digits), expected["reconstruction"])
            np.testing.assert_array_equal(await client.decode(expected["latent"]), expected["reconstruction"])
            analysis = await client.analyze(digits, ["latent"])
            np.testing.assert_array_equal(analysis.latents, expected["latent"])
            assert (await client.get_model()).model.name == "digits-vae"
            assert len((await client.list_models()).models) == 1
            with pytest.raises(ModelNotFound):
                await client.embed(digits, model="nobody")

    asyncio.run(ask())


def test_a_model_describes_itself(client: Client) -> None:
    got = client.get_model()
    model = got.model
    assert (model.name, model.version, model.method, model.data) == ("digits-vae", 1, "vae", "digits")
    assert model.execution_provider in ("CPUExecutionProvider", "CUDAExecutionProvider")
    assert list(model.input.shape) == [8, 8, 1]
    assert model.resize.startswith("the largest centred box of this shape is cut out and resized to 8 x 8 pixels")
    assert {spec.name for spec in model.outputs} >= {"embedding", "latent", "reconstruction", "scores"}
    assert model.detectors[0].num_calibration_rows == 300
    assert any(figure.name == "linear_probe_accuracy" for figure in model.evaluations)
    assert got.limits.max_pixels_per_item == 50_000_000
    assert got.limits.max_pixels_per_request == 500_000_000
    listed = client.list_models()
    assert [one.name for one in listed.models] == ["digits-vae"]
    assert not listed.rejected


def request(**fields: Any) -> pb.Input:
    return pb.Input(tensor=pb.Tensor(**fields))


UINT8 = pb.DATA_TYPE_UINT8
BAD: list[tuple[str, Any, type[LatentserveError], str]] = [
    ("dtype", request(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, 8, 8, 1], data=bytes(256)), InvalidInput, "got float32"),
    ("NaN", pb.Input(tensor=to_tensor(np.full((1, 8, 8, 1), np.nan, np.float32))), InvalidInput, "expected uint8"),
    ("shape", request(dtype=UINT8, shape=[1, 8, 9, 1], data=bytes(72)), InvalidInput, r"got uint8 \[1, 8, 9, 1\]"),
    (
        "channels",
        request(dtype=UINT8, shape=[1, 8, 8, 3], data=bytes(192)),
        InvalidInput,
        r"expected uint8 \[n, 8, 8, 1\]",
    ),
    ("size 0", request(dtype=UINT8, shape=[0, 8, 8, 1]), InvalidInput, "expected axes of size 1 or more"),
    ("truncated", request(dtype=UINT8, shape=[1, 8, 8, 1], data=bytes(63)), InvalidInput, "got 63 bytes, expected 64"),
    ("nothing", pb.Input(), InvalidInput, "got no rows"),
    ("no image", pb.Input(encoded=pb.EncodedItems(items=[b"?"])), InvalidInput, "expected a JPEG or PNG"),
]


@pytest.mark.parametrize(("message", "error", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_by_name_and_the_server_goes_on(
    client: Client, server: ServedProcess, digits: NDArray[np.uint8], message: Any, error: Any, said: str
) -> None:
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as refused:
        pb_grpc.EmbeddingServiceStub(channel).Embed(pb.EmbedRequest(input=message))
    assert refused.value.code().value[0] == error.code
    assert re.search(said, refused.value.details())
    assert client.embed(digits[:1]).shape == (1, 32)


def test_a_hundred_megapixels_are_refused_before_they_are_decoded(client: Client, encode: Any) -> None:
    with pytest.raises(InvalidInput, match="got 10000 x 10000 = 100000000 pixels, expected at most 50000000"):
        client.embed([encode(Image.new("L", (10_000, 10_000)))])


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda c, x: c.embed(x, model="nobody"), ModelNotFound, r"got 'nobody', expected one of \['digits-vae'\]"),
        (lambda c, x: c.embed(x, version=9), ModelNotFound, "got 9 of 'digits-vae'"),
        (lambda c, x: c.score(x, alpha=1e-6), InvalidInput, "alpha: got 1e-06, expected 0.00332"),
        (lambda c, x: c.score(x, alpha=1.5), InvalidInput, "alpha: got 1.5"),
        (lambda c, x: c.analyze(x, []), InvalidInput, "outputs: got none"),
        (lambda c, x: c.analyze(x, ["latent"], alpha=0.1), InvalidInput, "expected none without OUTPUT_SCORE"),
        (lambda c, x: c.decode(np.full((2, 8), np.nan, np.float32)), InvalidInput, r"latents\[0\]: got NaN"),
        (lambda c, x: c.decode(np.zeros((2, 9), np.float32)), InvalidInput, r"expected float32 \[n, 8\]"),
    ],
)
def test_bad_calls_raise_our_own_errors(
    client: Client, digits: NDArray[np.uint8], ask: Callable[[Client, Any], Any], error: Any, said: str
) -> None:
    with pytest.raises(error, match=said):
        ask(client, digits[:2])


def test_health_and_reflection_answer(server: ServedProcess) -> None:
    with grpc.insecure_channel(server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "latentserve.v1.EmbeddingService"):
            assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([ask]))
        assert "latentserve.v1.EmbeddingService" in [one.name for one in answer.list_services_response.service]


@pytest.mark.parametrize("transport", ["http2", "grpcio"])
def test_metrics_count_what_the_client_sent(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8], transport: str
) -> None:
    arguments = ("--transport", transport)
    with ServedProcess(repository, tmp_path / "log", arguments) as process, Client(process.target) as client:
        for _ in range(3):
            client.embed(digits[:5])
        flagged = client.score(digits[:40], alpha=0.5).flagged
        with pytest.raises(ModelNotFound):
            client.embed(digits[:1], model="nobody")
        with pytest.raises(InvalidInput):
            client.embed(digits[:1, :4])
        client.decode(np.zeros((4, 8), np.float32))
        metrics = process.metrics()

    def value(name: str) -> float:
        return metrics.get(f"latentserve_{name}", 0.0)

    assert value('requests_total{code="OK",method="Embed",model="digits-vae"}') == 3
    assert value('requests_total{code="OK",method="Score",model="digits-vae"}') == 1
    assert value('requests_total{code="NOT_FOUND",method="Embed",model=""}') == 1
    assert value('requests_total{code="INVALID_ARGUMENT",method="Embed",model="digits-vae"}') == 1
    assert value('request_seconds_count{method="Embed",model="digits-vae"}') == 4
    assert value('request_seconds_count{method="Embed",model=""}') == 1
    assert value('batch_rows_sum{model="digits-vae",queue="input",version="1"}') == 55
    assert value('padding_rows_total{model="digits-vae",queue="input",version="1"}') == 0
    assert value('decided_rows_total{flagged="true",model="digits-vae",version="1"}') == flagged.sum()
    assert value('decided_rows_total{flagged="false",model="digits-vae",version="1"}') == 40 - flagged.sum()
    assert value('dead_work_rows_total{model="digits-vae",queue="input",version="1"}') == 0
    queue = 'model="digits-vae",queue="input",version="1"'
    for name in ("queue_rows", "queue_bytes", "queue_oldest_seconds"):
        assert value(f"{name}{{{queue}}}") == 0
    for name in ("queue_seconds", "execute_seconds", "pad_seconds", "batch_rows"):
        assert value(f"{name}_count{{{queue}}}") == 4, name
    assert value(f'batches_total{{formed="free",{queue}}}') == 4
    assert value('batch_rows_sum{model="digits-vae",queue="latent",version="1"}') == 4
    assert value('request_rows_sum{method="Embed",model="digits-vae"}') == 15
    assert value('decode_seconds_count{model="digits-vae"}') == 4
    assert value("encode_seconds_count") == 5  # one for each call answered with OK
    assert value("deadline_slack_seconds_count") == 5
    assert 5 * 29 < value("deadline_slack_seconds_sum") < 5 * 31  # gRPC rounds timeouts up
    assert value("requests_in_flight") == 0
    assert value('p_value_count{model="digits-vae",version="1"}') == 40
    version = 'model="digits-vae",version="1"'
    assert value(f"monitor_rows{{{version}}}") == 40
    assert value(f"monitor_band_low{{{version}}}") <= value(f"monitor_window_share{{{version}}}")
    assert value(f'monitor_alarm{{kind="e_process",{version}}}') == 0
    assert value('not_finite_scores_total{model="digits-vae",version="1"}') == 0
    assert value("rejected_bundles") == 0
    assert value("ready") == 1
    assert any("CPUExecutionProvider" in name or "CUDA" in name for name in metrics if "model_info" in name)


def test_the_callers_deadline_is_kept(server: ServedProcess, digits: NDArray[np.uint8]) -> None:
    with Client(server.target, timeout_seconds=0.0005) as client, pytest.raises(DeadlineExceeded):
        client.embed(np.repeat(digits, 10, axis=0))


@pytest.mark.parametrize("transport", ["http2", "grpcio"])
def test_sigterm_answers_what_was_accepted_and_exits_with_zero(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8], transport: str
) -> None:
    many = np.repeat(digits, 3, axis=0)
    arguments = ("--transport", transport)
    with (
        ServedProcess(repository, tmp_path / "log", arguments) as process,
        grpc.insecure_channel(process.target) as channel,
    ):
        stub = pb_grpc.EmbeddingServiceStub(channel)
        stub.GetModel(pb.GetModelRequest())
        call = stub.Embed.future(pb.EmbedRequest(input=pb.Input(tensor=to_tensor(many))))
        time.sleep(0.005)
        stopped = threading.Thread(target=process.stop)
        stopped.start()
        assert list(call.result().embeddings.shape) == [900, 32]
        stopped.join()
        assert process.stop() == 0
        with Client(process.target, timeout_seconds=1) as client, pytest.raises((Unavailable, DeadlineExceeded)):
            client.embed(digits[:1])
    log = (tmp_path / "log").read_text()
    assert "running on the CPU" in log or "warm on CUDA" in log
    assert "drained" in log


def test_a_model_without_a_decoder_cannot_reconstruct_and_a_broken_one_is_refused(
    copied_bundle: Path, tmp_path: Path, digits: NDArray[np.uint8], encode: Any
) -> None:
    models = copied_bundle.parents[1]
    strip_to_encoder(copied_bundle, models / "plain" / "1")
    (copied_bundle / "encoder.onnx").write_bytes(b"changed")
    with ServedProcess(models, tmp_path / "log") as process, Client(process.target) as client:
        assert client.embed(digits[:2]).shape == (2, 32)
        wide = np.pad(digits[0], ((0, 0), (4, 4), (0, 0)), constant_values=255)
        np.testing.assert_array_equal(client.embed([encode(wide)]), client.embed(digits[:1]))
        for ask in (client.reconstruct, client.score):
            with pytest.raises(Unsupported, match="plain version 1"):
                ask(digits[:2])
        with pytest.raises(Unsupported, match="has no output reconstruction"):
            client.decode(np.zeros((1, 8), np.float32))
        with pytest.raises(Unsupported, match="digits-vae version 1 was rejected: .*encoder.onnx: sha256"):
            client.embed(digits[:1], model="digits-vae")
        (rejected,) = client.list_models().rejected
        assert rejected.name == "digits-vae"


def strip_to_encoder(source: Path, target: Path) -> None:
    """Makes an embedding-only bundle of a whole one, of the schema that named no rule to resize by."""
    shutil.copytree(source, target)
    manifest = json.loads((target / bundle.MANIFEST).read_text())
    golden = bundle.load_arrays(target / bundle.GOLDEN)
    np.savez(target / bundle.GOLDEN, input=golden["input"], embedding=golden["embedding"])
    for name in ("decoder.onnx", "scorer.onnx", bundle.CALIBRATION):
        (target / name).unlink()
        del manifest["files"][name]
    manifest["files"][bundle.GOLDEN] = bundle.sha256_of_file(target / bundle.GOLDEN)
    manifest |= {"name": "plain", "graphs": {"encoder": manifest["graphs"]["encoder"]}, "detectors": []}
    del manifest["input"]["resize"]
    manifest |= {"default_alpha": 0.0, "schema_version": 2, "map_detector": ""}
    (target / bundle.MANIFEST).write_text(json.dumps(manifest))
    assert bundle.load(target).detectors == ()


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--models", "nowhere"], {}, "error: models: got nowhere, expected a folder"),
        (["--models", "nowhere"], {"LATENTSERVE_TYPO": "1"}, "unknown variable LATENTSERVE_TYPO"),
        (["--models", "nowhere", "--typo", "1"], {}, "--typo"),
        ([], {}, "models: missing"),
    ],
)
def test_a_start_that_cannot_be_says_why(arguments: list[str], environment: dict[str, str], said: str) -> None:
    command = [sys.executable, "-m", "service", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said_to_be(server: ServedProcess, repository: Path) -> None:
    port = server.target.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "service", "--models", str(repository), "--port", port, "--metrics-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert BundleError.__name__ not in done.stderr
