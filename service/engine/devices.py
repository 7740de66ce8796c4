"""How `--device` names what graphs run on, and which GPUs there are."""

from __future__ import annotations

import ctypes
import os
import re
import stat
from collections.abc import Iterable
from functools import cache
from pathlib import Path

DEVICES = ("auto", "cpu", "cuda", "tensorrt")
GPU = re.compile(r"(cuda|tensorrt):\d{1,3}")


class DeviceError(RuntimeError):
    """The device that was required is not there."""


def devices_of(setting: str) -> list[str]:
    """The devices that a setting names. Raises ValueError, which says what is expected."""
    devices = [one.strip() for one in setting.split(",")]
    if devices[1:] and len({one.partition(":")[0] for one in devices}) > 1:
        raise ValueError("devices of one kind: answers of one server must not be quick or slow by chance")
    if not all(GPU.fullmatch(one) for one in devices) and (devices[1:] or devices[0] not in DEVICES):
        raise ValueError(f"{', '.join(DEVICES)}, or GPUs by number, as in cuda:0,cuda:1")
    if len(set(devices)) < len(devices):
        raise ValueError("each device once; several engines on one are --instances")
    return devices


@cache
def num_gpus() -> int:
    """GPUs that the driver shows this process: those of CUDA_VISIBLE_DEVICES, where that is set."""
    found = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        works = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(found)) == 0
    except (OSError, AttributeError):
        return 0
    return found.value if works else 0


def check_gpus(devices: Iterable[str]) -> None:
    """Raises DeviceError for a GPU that is named by a number and is not there."""
    for device in devices:
        kind, _, number = device.partition(":")
        if number and int(number) >= num_gpus():
            there = ", ".join(f"{kind}:{gpu}" for gpu in range(num_gpus())) or "no GPU"
            raise DeviceError(f"device: got {device}, expected one that is there: this machine shows {there}")


def checked_cache(folder: Path) -> Path:
    """The folder, if it is one or can be made. Raises ValueError, which says what is expected.

    TensorRT makes it; where it cannot, it would build its engines anew at each start, without a word.
    """
    whole = Path(os.path.expanduser(folder)).absolute()  # noqa: PTH111 (never raises)
    for one in (whole, *whole.parents):
        try:
            found = one.stat()
        except (FileNotFoundError, PermissionError):  # to be made, or nothing that must be settled without a GPU
            continue
        except OSError as error:
            raise ValueError(f"a folder ({error.strerror})") from error
        if not stat.S_ISDIR(found.st_mode):
            raise ValueError("a folder")
        break
    return folder
