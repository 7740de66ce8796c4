"""Asks a server through NVIDIA's own client and writes down what it heard: a process of its own.

    python triton_calls.py HOST:PORT MODEL FOLDER    FOLDER has rows.npy and one.png, and gets heard.npz and heard.json
    python triton_calls.py --descriptors             prints every message of NVIDIA's protocol as JSON

The client's messages have the names that ours have, so one process cannot hold both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient import grpc as triton
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException


def tensor(name: str, array: Any, datatype: str) -> triton.InferInput:
    given = triton.InferInput(name, array.shape, datatype)
    given.set_data_from_numpy(array)
    return given


def wanted(*names: str) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name) for name in names]


def status_of(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return ["OK", ""]


def main(target: str, model: str, folder: Path) -> None:
    rows = np.load(folder / "rows.npy")
    file = np.array([(folder / "one.png").read_bytes()], np.object_)
    client = triton.InferenceServerClient(target)
    images = [tensor("input", rows, "UINT8")]
    everything = client.infer(model, images, request_id="seven")
    arrays = {f"all/{output.name}": everything.as_numpy(output.name) for output in everything.get_response().outputs}
    asked = {"alpha": 0.2, "guarantee": "conditional", "decision": "false_discovery_rate"}
    some = client.infer(
        model, images, "1", wanted("flagged", "embedding"), priority=1, timeout=5_000_000, parameters=asked
    )
    arrays |= {f"some/{output.name}": some.as_numpy(output.name) for output in some.get_response().outputs}
    from_file = client.infer(model, [tensor("input", file, "BYTES")], outputs=wanted("embedding"))
    arrays["file/embedding"] = from_file.as_numpy("embedding")
    latents = arrays["all/latent"]
    arrays["decoded"] = client.infer(model, [tensor("latent", latents, "FP32")]).as_numpy("reconstruction")
    np.savez(folder / "heard.npz", **arrays)
    response = some.get_response()
    heard = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready(model), client.is_model_ready(model, "1"), client.is_model_ready("x")],
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata(model, as_json=True),
        "config": client.get_model_config(model, as_json=True),
        "index": client.get_model_repository_index(as_json=True),
        "id": everything.get_response().id,
        "parameters": {name: str(value).strip() for name, value in response.parameters.items()},
        "order": [output.name for output in response.outputs],
        "errors": {
            "unknown model": status_of(lambda: client.infer("x", images)),
            "version": status_of(lambda: client.infer(model, images, "one")),
            "unknown output": status_of(lambda: client.infer(model, images, outputs=wanted("logits"))),
            "unknown parameter": status_of(lambda: client.infer(model, images, parameters={"beta": 1})),
            "alpha": status_of(lambda: client.infer(model, images, parameters={"alpha": "high"})),
            "shape": status_of(lambda: client.infer(model, [tensor("input", rows[:, 1:], "UINT8")])),
            "type": status_of(lambda: client.infer(model, [tensor("input", rows.astype(np.float32), "FP32")])),
            "name": status_of(lambda: client.infer(model, [tensor("image", rows, "UINT8")])),
            "timeout": status_of(lambda: client.infer(model, images, timeout=1)),
            "statistics": status_of(lambda: client.get_inference_statistics(model)),
            "long": status_of(lambda: client.infer("x" + "\N{GRINNING FACE}" * 100_000, images)),
            "digits": status_of(lambda: client.infer(model, images, "9" * 5000)),
        },
    }
    (folder / "heard.json").write_text(json.dumps(heard))


def descriptors() -> dict[str, Any]:
    found: dict[str, Any] = {}

    def add(message: Any) -> None:
        fields = {field.name: [field.number, field.type, field.label] for field in message.fields}
        found[message.full_name] = fields
        for nested in message.nested_types:
            add(nested)

    for file in (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR):
        for message in file.message_types_by_name.values():
            add(message)
        for enum in file.enum_types_by_name.values():
            found[enum.full_name] = {value.name: [value.number] for value in enum.values}
    return found


if __name__ == "__main__":
    if sys.argv[1] == "--descriptors":
        print(json.dumps(descriptors()))
    else:
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
