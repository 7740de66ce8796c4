"""MLServer with a runtime of our own that calls ONNX Runtime, adaptive batching on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.serving.peers.peer import PEERS, Peer, make_environment
from benchmarks.serving.peers.triton import grpc_message, infer_request

PACKAGES = ("mlserver==1.7.1", "uvloop<0.22", "onnxruntime==1.31.1", "numpy<3")
PORT = 47011

RUNTIME = """
import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Runtime(MLModel):
    async def load(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = {threads}
        self.session = ort.InferenceSession("{graph}", options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.uint8)
        embedding = self.session.run(["embedding"], {{"input": rows}})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("embedding", embedding)])
"""


def mlserver(name: str, graph: Path, threads: int, images: dict[int, bytes]) -> Peer:
    """MLServer serving one graph; `images` are raw uint8 rows by their number."""
    python = make_environment("mlserver", PACKAGES)
    folder = PEERS / f"mlserver-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    (folder / "runtime.py").write_text(RUNTIME.format(threads=threads, graph=graph.absolute()))
    settings = {"host": "127.0.0.1", "grpc_port": PORT, "http_port": PORT + 1, "metrics_port": PORT + 2, "debug": False}
    model = {"name": name, "implementation": "runtime.Runtime", "max_batch_size": 64, "max_batch_time": 0.001}
    (folder / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0}))
    (folder / "model" / "model-settings.json").write_text(json.dumps(model))
    return Peer(
        name="MLServer",
        folder=folder,
        command=(str(python.with_name("mlserver")), "start", "."),
        url=f"http://127.0.0.1:{PORT}/inference.GRPCInferenceService/ModelInfer",
        body={rows: grpc_message(infer_request(name, rows, data)) for rows, data in images.items()},
        headers=("content-type: application/grpc", "te: trailers"),
        environment={"PYTHONPATH": str(folder.absolute())},
    )
