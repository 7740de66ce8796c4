"""The methods by name. To add one: write its file, add its row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from training.lightning import LightningModule
from training.methods.acn import Acn, AcnConfig
from training.methods.bigan import BiGan, BiGanConfig
from training.methods.bigbigan import BigBiGan, BigBiGanConfig
from training.methods.colorization import Colorization, ColorizationConfig
from training.methods.cpc import Cpc, CpcConfig
from training.methods.cpc_audio import CpcAudio, CpcAudioConfig
from training.methods.dbn import Dbn, DbnConfig
from training.methods.deepcluster import DeepCluster, DeepClusterConfig
from training.methods.distill import Distill, DistillConfig
from training.methods.pixelcnn import PixelCnnConfig, PixelDensity
from training.methods.pixelvae import PixelVae, PixelVaeConfig
from training.methods.relative_position import RelativePosition, RelativePositionConfig
from training.methods.rotation import Rotation, RotationConfig
from training.methods.simclr import SimClr, SimClrConfig
from training.methods.sparse_autoencoder import SparseAutoencoder, SparseAutoencoderConfig
from training.methods.vae import Vae, VaeConfig
from training.methods.vqvae import VqVae, VqVaeConfig
from training.options import Dataclass


@dataclass(frozen=True)
class Method:
    """A method: its config, its module (made from config, loop and the shape of a row), what rows it takes.

    Attributes:
        config: its hyperparameters.
        module: its model and training step.
        modality: of its rows.
        colour: whether it takes RGB images alone.
    """

    config: type[Dataclass]
    module: Callable[..., LightningModule]
    modality: Literal["image", "audio"] = "image"
    colour: bool = False


METHODS: dict[str, Method] = {
    "acn": Method(AcnConfig, Acn),
    "cpc": Method(CpcConfig, Cpc),
    "bigan": Method(BiGanConfig, BiGan),
    "bigbigan": Method(BigBiGanConfig, BigBiGan),
    "cpc_audio": Method(CpcAudioConfig, CpcAudio, "audio"),
    "deepcluster": Method(DeepClusterConfig, DeepCluster),
    "dbn": Method(DbnConfig, Dbn),
    "distill": Method(DistillConfig, Distill),
    "colorization": Method(ColorizationConfig, Colorization, colour=True),
    "relative_position": Method(RelativePositionConfig, RelativePosition),
    "rotation": Method(RotationConfig, Rotation),
    "pixelcnn": Method(PixelCnnConfig, PixelDensity),
    "pixelvae": Method(PixelVaeConfig, PixelVae),
    "simclr": Method(SimClrConfig, SimClr),
    "sparse_autoencoder": Method(SparseAutoencoderConfig, SparseAutoencoder),
    "vae": Method(VaeConfig, Vae),
    "vqvae": Method(VqVaeConfig, VqVae),
}
