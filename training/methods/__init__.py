"""The methods by name. To add one: write its file, add its row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from training.lightning import LightningModule
from training.methods.acn import Acn, AcnConfig
from training.methods.bigbigan import BigBiGan, BigBiGanConfig
from training.methods.cpc import Cpc, CpcConfig
from training.methods.cpc_audio import CpcAudio, CpcAudioConfig
from training.methods.distill import Distill, DistillConfig
from training.methods.pixelcnn import PixelCnnConfig, PixelDensity
from training.methods.pixelvae import PixelVae, PixelVaeConfig
from training.methods.simclr import SimClr, SimClrConfig
from training.methods.vae import Vae, VaeConfig
from training.options import Dataclass


@dataclass(frozen=True)
class Method:
    """A method: its config, its module (made from config, loop and the shape of a row), what rows it takes."""

    config: type[Dataclass]
    module: Callable[..., LightningModule]
    modality: Literal["image", "audio"] = "image"


METHODS: dict[str, Method] = {
    "acn": Method(AcnConfig, Acn),
    "cpc": Method(CpcConfig, Cpc),
    "bigbigan": Method(BigBiGanConfig, BigBiGan),
    "cpc_audio": Method(CpcAudioConfig, CpcAudio, "audio"),
    "distill": Method(DistillConfig, Distill),
    "pixelcnn": Method(PixelCnnConfig, PixelDensity),
    "pixelvae": Method(PixelVaeConfig, PixelVae),
    "simclr": Method(SimClrConfig, SimClr),
    "vae": Method(VaeConfig, Vae),
}
