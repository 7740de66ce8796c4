"""Triton's own server with a Python backend that calls ONNX Runtime, out of the nvidia-pytriton wheel."""

from __future__ import annotations

import os
import shutil
import struct
import sysconfig
from pathlib import Path

from benchmarks.serving.peers.peer import PEERS, Peer, make_environment

PACKAGES = ("nvidia-pytriton==0.7.0", "onnxruntime==1.31.1", "numpy<3", "tritonclient[grpc]")
PORT = 47001

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 64
input [ {{ name: "input" data_type: TYPE_UINT8 dims: [ 32, 32, 3 ] }} ]
output [ {{ name: "embedding" data_type: TYPE_FP32 dims: [ {dim} ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
dynamic_batching {{ max_queue_delay_microseconds: 1000 }}
"""

MODEL = """
import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        options = ort.SessionOptions()
        options.intra_op_num_threads = {threads}
        self.session = ort.InferenceSession("{graph}", options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        rows = [pb_utils.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        embedding = self.session.run(["embedding"], {{"input": np.concatenate(rows)}})[0]
        answers, start = [], 0
        for part in rows:
            tensor = pb_utils.Tensor("embedding", embedding[start : start + len(part)])
            answers.append(pb_utils.InferenceResponse([tensor]))
            start += len(part)
        return answers
"""


def triton(name: str, graph: Path, dim: int, threads: int, images: dict[int, bytes]) -> Peer:
    """Triton serving one graph; `images` are raw uint8 rows by their number."""
    python = make_environment("triton", PACKAGES)
    site = next((python.parent.parent / "lib").glob("python3*")) / "site-packages"
    server = site / "pytriton" / "tritonserver"
    folder = PEERS / f"triton-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    backend, model = folder / "backends" / "python", folder / "models" / name
    shutil.copytree(server / "backends" / "python", backend)
    stub = server / "python_backend_stubs" / sysconfig.get_python_version() / "triton_python_backend_stub"
    shutil.copy(stub, backend)
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG.format(name=name, dim=dim))
    (model / "1" / "model.py").write_text(MODEL.format(threads=threads, graph=graph.absolute()))
    libraries = f"{sysconfig.get_config_var('LIBDIR')}:{site / 'nvidia_pytriton.libs'}"
    return Peer(
        name="Triton (Python backend)",
        folder=folder,
        command=(
            str(server / "bin" / "tritonserver"),
            *("--model-repository", str(folder.absolute() / "models")),
            *("--backend-directory", str(folder.absolute() / "backends")),
            *("--grpc-port", str(PORT), "--grpc-address", "127.0.0.1", "--allow-http=false", "--allow-metrics=false"),
        ),
        url=f"http://127.0.0.1:{PORT}/inference.GRPCInferenceService/ModelInfer",
        body={rows: grpc_message(infer_request(name, rows, data)) for rows, data in images.items()},
        headers=("content-type: application/grpc", "te: trailers"),
        # The backend embeds the first python on the PATH.
        environment={"LD_LIBRARY_PATH": libraries, "PATH": f"{python.parent}:{os.environ['PATH']}"},
    )


def grpc_message(message: bytes) -> bytes:
    """A message as gRPC frames it."""
    return struct.pack(">BI", 0, len(message)) + message


def infer_request(name: str, rows: int, data: bytes) -> bytes:
    """ModelInferRequest of the Open Inference Protocol, written by hand: its stubs are no dependency of ours.

    model_name = 1; inputs = 5 (name = 1, datatype = 2, shape = 3); outputs = 6 (name = 1); raw_input_contents = 7.
    """
    shape = b"".join(_varint(size) for size in (rows, 32, 32, 3))
    tensor = _field(1, b"input") + _field(2, b"UINT8") + _field(3, shape)
    return _field(1, name.encode()) + _field(5, tensor) + _field(6, _field(1, b"embedding")) + _field(7, data)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    return bytes([*encoded, value])
