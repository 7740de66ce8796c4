"""The devices on which graphs run, and ONNX Runtime's options for both calibration and serving.

Export and service use the same options: a p-value holds only for scores that are computed as the calibration scores.
"""

from __future__ import annotations

from typing import Final

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

CUDA_OPTIONS: Final = {
    # TF32 would put ten bits of error into numbers that were trained and calibrated in float32.
    "use_tf32": "0",
    # The default doubles the arena whenever it grows, and it never shrinks: half of a GPU's memory may be held unused.
    "arena_extend_strategy": "kSameAsRequested",
    # The default (EXHAUSTIVE) times all algorithms at each new shape: seconds for each batch size, and which one wins
    # depends on the moment, so that two starts of a server compute numbers that differ in their last bits.
    "cudnn_conv_algo_search": "HEURISTIC",
}
"""Options of the CUDA provider. Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html"""
