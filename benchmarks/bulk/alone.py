"""What ONNX Runtime and decoding reach alone: no ids, no rows, no files are written.

    python -m benchmarks.bulk.alone models/large/1 photos/      prints images a second

A thread for each CPU, each of which decodes a batch and runs it: on a CPU the fastest way that we know.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from latentserve import bundle
from latentserve.cpus import available_cpus
from latentserve.images import decode_image
from latentserve.inputs import INPUT, ImageInput

PIXELS = 50_000_000
ROWS = 16
"""Of one run: more are slower, and take more memory."""


def rate(folder: Path, photographs: Path) -> float:
    """Images a second, from the first file to the last embedding."""
    manifest = bundle.load(folder)
    expected = manifest.input
    assert isinstance(expected, ImageInput)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    path = folder / manifest.graphs["encoder"].file
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    files = sorted(photographs.rglob("*.jpg"))

    def embedded(first: int) -> None:
        batch = files[first : first + ROWS]
        rows = np.stack([decode_image(file.read_bytes(), expected, PIXELS) for file in batch])
        session.run(["embedding"], {INPUT: rows})

    began = time.perf_counter()
    with ThreadPoolExecutor(available_cpus()) as pool:
        for _ in pool.map(embedded, range(0, len(files), ROWS)):
            pass
    return len(files) / (time.perf_counter() - began)


if __name__ == "__main__":
    print(rate(Path(sys.argv[1]).resolve(), Path(sys.argv[2])))
