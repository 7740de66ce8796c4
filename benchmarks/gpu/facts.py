"""Stage `facts`: what the machine is and has, and which library lacks where a provider does not load."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

from benchmarks.gpu.cells import Cells, Figures
from benchmarks.gpu.check import Check
from benchmarks.gpu.machine import Machine, cpu_name, cuda_of_onnxruntime, nvidia_smi, providers_here
from latentserve.devices import CUDA, TENSORRT
from service.engine.providers import why_not

PACKAGES = (
    "simplejpeg",
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "numpy",
    "timm",
    "kornia",
    "lightning",
    "grpcio",
    "protobuf",
)
GPU_FIELDS = ("name", "driver_version", "memory.total", "memory.used", "compute_cap", "pcie.link.gen.max")


def run(machine: Machine, _: Path, cells: Cells) -> list[Check]:
    """Nothing is measured here."""
    cells.measure("gpu", lambda: gpu(machine))
    cells.measure("software", software)
    cells.measure("providers", providers)
    return []


def gpu(machine: Machine) -> Figures:
    """What the driver says of the GPU."""
    if machine.rehearsal:
        return {"name": machine.name, "cpu": cpu_name()}
    return dict(zip(GPU_FIELDS, nvidia_smi(*GPU_FIELDS), strict=True)) | {"cpu": cpu_name()}


def software() -> Figures:
    """Versions of what takes part."""
    import onnxruntime

    found = {"python": platform.python_version(), "kernel": platform.release(), "platform": sys.platform}
    found |= {"onnxruntime": onnxruntime.__version__, "onnxruntime_cuda": cuda_of_onnxruntime()}
    for package in PACKAGES:
        try:
            found[package] = version_of(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    import torch

    return found | {"torch_cuda": str(torch.version.cuda), "torch_cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]


def providers() -> Figures:
    """Which load, and what lacks for those that do not."""
    found = {name: why_not(name) or "loads" for name in (CUDA, TENSORRT)}
    return {**found, "built_in": ", ".join(providers_here())}
