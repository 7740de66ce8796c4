"""The methods by name. To add one: write its file, add its row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from training.methods.cpc import Cpc, CpcConfig
from training.methods.vae import Vae, VaeConfig


@dataclass(frozen=True)
class Method:
    """A method: its config, its module (made from config, loop, channels and image size), its defaults."""

    config: type[Any]
    module: Callable[..., Any]


METHODS: dict[str, Method] = {
    "cpc": Method(CpcConfig, Cpc),
    "vae": Method(VaeConfig, Vae),
}
