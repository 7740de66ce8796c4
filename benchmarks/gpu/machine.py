"""The machine that is measured: an NVIDIA GPU, or in the rehearsal this machine's CPU behind the same code."""

from __future__ import annotations

import platform
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import onnxruntime as ort

from latentserve import bundle
from latentserve.devices import CPU, CUDA, CUDA_OPTIONS
from service.config import available_cpus
from service.engine.engine import Engine
from service.engine.providers import DeviceConfig, why_not

OLDEST_DRIVER = {"11": 450, "12": 525, "13": 580}
"""Of a CUDA. Source: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"""
REHEARSAL_CPUS = 2

T = TypeVar("T")


class NoGpu(RuntimeError):
    """There is no GPU that could be measured. The message says in one line what lacks."""


@dataclass(frozen=True)
class Machine:
    """Where graphs run.

    Attributes:
        name: of the GPU, or of the CPU.
        device: `cpu` in the rehearsal: small sizes, and no ratio is held against a target.
    """

    name: str
    device: Literal["cuda", "cpu"]

    @property
    def rehearsal(self) -> bool:
        """Whether all this only shows that the code runs."""
        return self.device == "cpu"

    def choose(self, measured: T, rehearsed: T) -> T:
        """One size for a GPU, another for the rehearsal."""
        return rehearsed if self.rehearsal else measured

    @property
    def session_providers(self) -> list[Any]:
        """For a session of one's own, under the options that the service takes."""
        return [CPU] if self.rehearsal else [(CUDA, dict(CUDA_OPTIONS))]

    def engine(self, folder: Path, max_batch_rows: int, **options: Any) -> Engine:
        """The service's engine on the device, between fixed buffers and padded, as on a GPU.

        Args:
            folder: of a bundle.
            max_batch_rows: largest batch.
            options: of `DeviceConfig`.
        """
        device = options.pop("device", self.device)
        threads = min(available_cpus(), REHEARSAL_CPUS) if self.rehearsal else available_cpus()
        manifest = bundle.load(folder)
        return Engine(folder, manifest, DeviceConfig(device, threads, max_batch_rows, **options), True, True)

    def memory_mib(self) -> float:
        """Memory of the GPU that is taken, by all processes; in the rehearsal this process's largest so far."""
        if self.rehearsal:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        return float(nvidia_smi("memory.used")[0])


def cpu_engine(folder: Path, max_batch_rows: int) -> Engine:
    """What the numbers of a device are held against: the same graphs on the CPU."""
    return Engine(folder, bundle.load(folder), DeviceConfig("cpu", available_cpus(), max_batch_rows))


def this_machine(rehearse: bool) -> Machine:
    """What will be measured.

    Raises:
        NoGpu: there is none that works.
    """
    if rehearse:
        return Machine(cpu_name(), "cpu")
    if (why := why_not(CUDA)) is not None:
        raise NoGpu(f"no GPU: {why}; `make gpu-rehearsal` runs the same stages on the CPU")
    name, driver = nvidia_smi("name", "driver_version")
    if (old := too_old(driver, cuda_of_onnxruntime())) is not None:
        raise NoGpu(old)
    return Machine(name, "cuda")


def too_old(driver: str, cuda: str) -> str | None:
    """What to say of a driver that does not run a CUDA, or None."""
    major = cuda.split(".")[0]
    oldest = OLDEST_DRIVER.get(major, 0)
    if int(driver.split(".")[0]) >= oldest:
        return None
    return f"driver: got {driver}, expected {oldest} or later, which CUDA {major} of this onnxruntime needs"


def cuda_of_onnxruntime() -> str:
    """The version of CUDA that ONNX Runtime was built for, empty where it was built for none."""
    try:
        from onnxruntime.capi import build_and_package_info
    except ImportError:
        return ""
    return str(getattr(build_and_package_info, "cuda_version", ""))


def nvidia_smi(*fields: str) -> list[str]:
    """What `nvidia-smi` says of the first GPU.

    Raises:
        NoGpu: it is not there, or knows of none.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoGpu(f"no GPU: nvidia-smi: {error}") from error
    lines = done.stdout.splitlines()
    if not lines:
        raise NoGpu("no GPU: nvidia-smi lists none")
    return [value.strip() for value in lines[0].split(",")]


def cpu_name() -> str:
    """As the kernel calls it, and how many of its cores we may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {available_cpus()} cores"


def providers_here() -> list[str]:
    """Of this onnxruntime."""
    return list(ort.get_available_providers())
