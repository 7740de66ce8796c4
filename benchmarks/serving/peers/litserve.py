"""LitServe: JSON over HTTP/1.1, images in base64, batching on."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

from benchmarks.serving.peers.peer import PEERS, Peer, make_environment

PACKAGES = ("litserve==0.2.19", "onnxruntime==1.31.1", "numpy<3")
PORT = 47021

SERVER = """
import base64

import litserve as ls
import numpy as np
import onnxruntime as ort


class Api(ls.LitAPI):
    def setup(self, device):
        options = ort.SessionOptions()
        options.intra_op_num_threads = {threads}
        self.session = ort.InferenceSession("{graph}", options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        return np.frombuffer(base64.b64decode(request["images"]), np.uint8).reshape(-1, 32, 32, 3)

    def batch(self, inputs):
        self.sizes = [len(rows) for rows in inputs]
        return np.concatenate(inputs)

    def predict(self, rows):
        return self.session.run(["embedding"], {{"input": rows}})[0]

    def unbatch(self, output):
        return np.split(output, np.cumsum(self.sizes)[:-1])

    def encode_response(self, output):
        return {{"embedding": base64.b64encode(output.tobytes()).decode()}}


if __name__ == "__main__":
    api = Api(max_batch_size=64, batch_timeout=0.001)
    ls.LitServer(api, accelerator="cpu").run(host="127.0.0.1", port={port}, generate_client_file=False)
"""


def litserve(name: str, graph: Path, threads: int, images: dict[int, bytes]) -> Peer:
    """LitServe serving one graph; `images` are raw uint8 rows by their number."""
    python = make_environment("litserve", PACKAGES)
    folder = PEERS / f"litserve-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "server.py").write_text(SERVER.format(threads=threads, graph=graph.absolute(), port=PORT))
    return Peer(
        name="LitServe",
        folder=folder,
        command=(str(python), "server.py"),
        url=f"http://127.0.0.1:{PORT}/predict",
        body={rows: json.dumps({"images": base64.b64encode(data).decode()}).encode() for rows, data in images.items()},
        headers=("content-type: application/json",),
        http1=True,
    )
