from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.serving.encoders import ENCODERS


@pytest.mark.parametrize(("name", "least", "most"), [("small", 4e6, 6e6), ("r18", 1.0e9, 1.2e9)])
def test_the_encoders_cost_what_is_said_of_them(name: str, least: float, most: float) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ENCODERS[name]().eval()(torch.zeros(1, 3, 32, 32))
    assert least < counter.get_total_flops() < most
