"""The Open Inference Protocol, spoken with NVIDIA's own client and held against ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from latentserve.client import Client
from service.api.open_inference.stubs import open_inference_grpc_pb2 as pb

CALLS = Path(__file__).with_name("triton_calls.py")
SERVICE = "/inference.GRPCInferenceService/"


def triton(*arguments: str) -> str:
    done = subprocess.run([sys.executable, CALLS, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_and_numbers_are_the_protocols() -> None:
    theirs = json.loads(triton("--descriptors"))

    def check(message: Any) -> None:
        fields = {field.name: [field.number, field.type, field.label] for field in message.fields}
        if message.full_name == "inference.ModelMetadataResponse":
            assert fields.pop("properties")[0] == 6  # KServe's, which Triton does not have
            assert 6 not in [number for number, *_ in theirs[message.full_name].values()]
        if not message.full_name.endswith("PropertiesEntry"):
            assert fields.items() <= theirs[message.full_name].items(), message.full_name
        for nested in message.nested_types:
            check(nested)

    for message in pb.DESCRIPTOR.message_types_by_name.values():
        check(message)
    for enum in pb.DESCRIPTOR.enum_types_by_name.values():
        values = {value.name: [value.number] for value in enum.values}
        assert values.items() <= theirs[enum.full_name].items()


@pytest.fixture(scope="module")
def heard(
    server: ServedProcess, digits: NDArray[np.uint8], encode: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    folder = tmp_path_factory.mktemp("triton")
    np.save(folder / "rows.npy", digits[:5])
    (folder / "one.png").write_bytes(encode(digits[0], "PNG"))
    triton(server.target, "digits-vae", str(folder))
    return json.loads((folder / "heard.json").read_text()), dict(np.load(folder / "heard.npz"))


Heard = tuple[dict[str, Any], dict[str, NDArray[Any]]]


def test_tensors_are_those_that_our_own_client_gets(heard: Heard, client: Client, digits: NDArray[np.uint8]) -> None:
    _, arrays = heard
    ours = client.analyze(digits[:5], ["embedding", "latent", "reconstruction", "score"])
    assert ours.scores is not None
    expected: dict[str, Any] = {
        "embedding": ours.embeddings,
        "latent": ours.latents,
        "reconstruction": ours.reconstructions,
        "scores": ours.scores.scores,
        "p_value": ours.scores.p_values[:, None],
        "flagged": ours.scores.flagged[:, None],
    }
    for name, array in expected.items():
        got = arrays[f"all/{name}"]
        assert got.dtype == array.dtype, name
        np.testing.assert_array_equal(got, array, err_msg=name)
    np.testing.assert_array_equal(arrays["file/embedding"], client.embed(digits[:1]))
    np.testing.assert_array_equal(arrays["decoded"], client.decode(arrays["all/latent"]))


def test_parameters_say_how_scores_are_judged(heard: Heard, client: Client, digits: NDArray[np.uint8]) -> None:
    said, arrays = heard
    ours = client.score(digits[:5], alpha=0.2, guarantee="conditional", decision="false_discovery_rate")
    np.testing.assert_array_equal(arrays["some/flagged"][:, 0], ours.flagged)
    assert said["order"] == ["flagged", "embedding"]
    assert said["parameters"]["alpha"] == "double_param: 0.2"
    assert said["parameters"]["guarantee"] == 'string_param: "conditional"'
    assert said["parameters"]["deciding_detector"] == f'string_param: "{ours.deciding_detector}"'
    assert said["id"] == "seven"


def test_the_server_and_its_models_describe_themselves(heard: Heard, client: Client, server: ServedProcess) -> None:
    said, _ = heard
    model = client.get_model().model
    assert said["live"] is said["ready"] is True
    assert said["model_ready"] == [True, True, False]
    assert said["server"]["name"] == "latentserve"
    assert said["model"]["versions"] == ["1"]
    assert said["model"]["inputs"] == [{"name": "input", "datatype": "UINT8", "shape": ["-1", "8", "8", "1"]}]
    names = [spec.name for spec in model.outputs]
    assert [output["name"] for output in said["model"]["outputs"]] == [*names, "p_value", "flagged"]
    config = said["config"]["config"]
    assert config["max_batch_size"] == client.get_model().limits.max_rows_per_request
    assert config["input"] == [{"name": "input", "data_type": "TYPE_UINT8", "dims": ["8", "8", "1"]}]
    assert config["dynamic_batching"] == {}
    with grpc.insecure_channel(server.target) as channel:
        ask = channel.unary_unary(
            f"{SERVICE}ModelMetadata",
            pb.ModelMetadataRequest.SerializeToString,
            pb.ModelMetadataResponse.FromString,
        )
        assert ask(pb.ModelMetadataRequest(name="digits-vae")).properties["resize"] == model.resize
    assert model.resize
    assert said["index"]["models"] == [{"name": "digits-vae", "version": "1", "state": "READY"}]


@pytest.mark.parametrize(
    ("case", "code", "message"),
    [
        ("unknown model", "NOT_FOUND", "model.name: got 'x', expected one of ['digits-vae']"),
        ("version", "INVALID_ARGUMENT", "model_version: got 'one', expected a whole number"),
        ("unknown output", "FAILED_PRECONDITION", "has no output logits; it outputs anomaly_map, embedding"),
        ("unknown parameter", "INVALID_ARGUMENT", "parameters['beta']: got it, expected among alpha"),
        ("alpha", "INVALID_ARGUMENT", "parameters['alpha']: got 'high', expected a number"),
        ("shape", "INVALID_ARGUMENT", "inputs['input']: got uint8 [5, 7, 8, 1], expected uint8 [n, 8, 8, 1]"),
        ("type", "INVALID_ARGUMENT", "inputs['input']: got float32 [5, 8, 8, 1], expected uint8"),
        ("name", "INVALID_ARGUMENT", "inputs: got ['image'], expected exactly one, 'input' or 'latent'"),
        ("timeout", "DEADLINE_EXCEEDED", "the deadline"),
        ("statistics", "UNIMPLEMENTED", ""),
        ("long", "NOT_FOUND", "model.name: got 'x"),  # though what it quotes would not fit into a header
        ("digits", "INVALID_ARGUMENT", "model_version: got '99999"),
    ],
)
def test_errors_have_the_codes_of_the_house(heard: Heard, case: str, code: str, message: str) -> None:
    status, said = heard[0]["errors"][case]
    assert status == f"StatusCode.{code}"
    assert message in said


def infer(server: ServedProcess, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary(
            SERVICE + "ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )
        response: pb.ModelInferResponse = call(request, timeout=10)
        return response


def test_elements_may_come_one_by_one(server: ServedProcess, client: Client, digits: NDArray[np.uint8]) -> None:
    request = pb.ModelInferRequest(model_name="digits-vae")
    given = request.inputs.add(name="input", datatype="UINT8", shape=digits[:2].shape)
    given.contents.uint_contents.extend(digits[:2].flatten().tolist())
    request.outputs.add(name="embedding")
    response = infer(server, request)
    (output,) = response.outputs
    got = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(output.shape)
    np.testing.assert_array_equal(got, client.embed(digits[:2]))
    assert not output.HasField("contents")


def test_calls_are_counted_by_name_and_model(server: ServedProcess, heard: Heard) -> None:
    metrics = server.metrics()
    answered = {
        code: metrics.get(f'latentserve_requests_total{{code="{code}",method="ModelInfer",model="digits-vae"}}', 0.0)
        for code in ("OK", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED")
    }
    assert answered["OK"] >= 4
    assert answered["INVALID_ARGUMENT"] >= 4
    assert answered["DEADLINE_EXCEEDED"] >= 1
