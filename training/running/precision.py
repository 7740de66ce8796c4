"""What the network's products are computed in.

bfloat16 halves the time of a step, or better, where the hardware multiplies it. Where it does not, PyTorch emulates it
and a step takes many times as long, so a recipe that names it is a recipe for some machines only: `auto` asks first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from training.schedule import Precision

Exact = Literal["32-true", "bf16-mixed"]

CPU_CAPABILITIES = ("amx_bf16", "avx512_bf16", "bf16")
"""Names of `torch.cpu.get_capabilities` that mean products of bfloat16: Intel's two, Arm's."""


def multiplies_bfloat16(device_type: str, cpu_capabilities: Mapping[str, object]) -> bool:
    """Whether products of bfloat16 are computed as such, not emulated. Apple's GPUs are not asked: no.

    Args:
        device_type: of a torch.device.
        cpu_capabilities: `torch.cpu.get_capabilities()`.
    """
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device_type == "cpu" and any(cpu_capabilities.get(name, False) for name in CPU_CAPABILITIES)


def bfloat16_here() -> bool:
    """`multiplies_bfloat16` of the device that trains here."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return multiplies_bfloat16(accelerator.type if accelerator is not None else "cpu", torch.cpu.get_capabilities())


def exact_precision(asked: Precision, bfloat16: bool) -> Exact:
    """What `auto` means where bfloat16 is multiplied, or is not."""
    if asked != "auto":
        return asked
    return "bf16-mixed" if bfloat16 else "32-true"


def warning(asked: Precision, bfloat16: bool) -> str | None:
    """A warning if products of bfloat16 will be emulated, else None."""
    if asked == "bf16-mixed" and not bfloat16:
        return "precision: got bf16-mixed where bfloat16 is emulated, many times as slow; auto takes float32 here"
    return None
