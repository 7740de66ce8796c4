"""On which devices graphs run, and the options of ONNX Runtime under which numbers are calibrated and served.

Export and service take the same ones: a p-value holds for numbers that were computed as the calibration rows' were.
"""

from __future__ import annotations

from typing import Final

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

CUDA_OPTIONS: Final = {
    # TF32 would put ten bits of error into numbers that were trained and calibrated in float32.
    "use_tf32": "0",
    # The default doubles the arena whenever it grows, and it never shrinks: half of a card may be held for nothing.
    "arena_extend_strategy": "kSameAsRequested",
    # The default (EXHAUSTIVE) times all algorithms at each new shape: seconds for each batch size, and which one wins
    # depends on the moment, so that two starts of a server give numbers that differ in their last bits.
    "cudnn_conv_algo_search": "HEURISTIC",
}
"""Of the CUDA provider. Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html"""
