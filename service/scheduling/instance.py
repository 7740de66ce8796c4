"""What runs batches: one engine thread with sessions of its own, on a device."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

FIRST_PAUSE = 1.0
"""Seconds before the first proof of an instance that is out."""


@dataclass(eq=False)
class Instance:
    """One engine thread.

    Attributes:
        number: among all.
        device: as `--device` names it.
        of_device: number among those of its device.
        state: `free`; `busy`; `suspect`: what it ran failed, and who is to blame is being found out; `out` of service.
        since: when it came into this state.
        batch: the task of the batch that it runs; None: it runs none.
        pause: seconds before its next proof.
        returned: when it last came back.
        examined: when it was last proven because requests failed.
    """

    number: int = 0
    device: str = "cpu"
    of_device: int = 0
    state: Literal["free", "busy", "suspect", "out"] = "free"
    since: float = -math.inf
    batch: asyncio.Task[Any] | None = None
    pause: float = FIRST_PAUSE
    returned: float = -math.inf
    examined: float = -math.inf

    @property
    def name(self) -> str:
        """As health and the log name it."""
        return f"{self.device}/{self.of_device}"

    @property
    def is_out(self) -> bool:
        """Whether it is out of service."""
        return self.state == "out"


def instances_of(devices: Sequence[str], of_each: int) -> list[Instance]:
    """So many of each device, the devices by turns."""
    places = [(device, of_device) for of_device in range(of_each) for device in devices]
    return [Instance(number, device, of_device) for number, (device, of_device) in enumerate(places)]
