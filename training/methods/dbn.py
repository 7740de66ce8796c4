"""Deep belief network: restricted Boltzmann machines (RBMs) stacked one by one, then fine-tuned as an autoencoder.

Each RBM learns the distribution of what the one below makes of the data, without labels and without a gradient through
the others; that is how deep networks were first trained. Its gradient of log p(v) needs samples of the model, for which
a Gibbs chain of a few steps must do. Then the stack is unrolled, the same weights up and, transposed, down again, and
all of them learn to reconstruct the image.

    -d log p(v) / d theta = dF(v)/d theta - E_p(v')[dF(v')/d theta]                           (F: free energy of an RBM)
    loss of layer l       = F(v) - F(v'),  v = sigmoid layers below (x),  v' (a constant):
        CD-k              k steps of the chain that begins at v                                          ([1], [2])
        PCD-k             k steps of a chain that goes on from step to step                                     ([4])
    loss of the stack     = -sum_p [x log x' + (1 - x) log(1 - x')],  x' = decoder(encoder(x))                  ([3])

Sources: [1] Hinton, Osindero and Teh, A fast learning algorithm for deep belief nets, Neural Computation 18 (2006);
[2] Hinton, Training products of experts, Neural Computation 14 (2002); [3] Hinton and Salakhutdinov, Reducing the
dimensionality of data with neural networks, Science 313 (2006); [4] Tieleman, ICML 2008. Momentum, weight decay:
Hinton, A practical guide to training RBMs, UTML TR 2010-003, sections 9 and 10.

Pixels, and probabilities of a layer that the next one learns, stand for units that are 1 with that probability, as in
[1] and [3]. The *latent* is the probabilities of the last layer, the *embedding* what their sigmoids are taken of: near
0.5 probabilities hardly differ, and a cosine of them says nothing.

What is ours: all layers are of sigmoids, also the last; a phase is a share of the steps, not of epochs, so that any
number of epochs has them all; each phase has its own warm-up and cosine.

With several processes the losses are means over rows, which DDP averages; a rank draws the chains of its own rows, and
persistent chains, which are as many as the rows of a batch, are parted like rows and gathered again.

Shape legend: B rows, C channels, H height, W width, V units of a layer's input, L latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from training.data import ImageShape
from training.lightning import LightningModule, LightningOptimizer, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.boltzmann import Rbm
from training.preprocessing import image_from_uint8
from training.ranks import gathered, mine
from training.schedule import LoopConfig, warmup_then_cosine

MOMENTUM = 0.9  # practical guide, section 9
FIRST_DEVIATION = 0.01  # of weights: practical guide, section 8


@dataclass(frozen=True)
class DbnConfig:
    """Hyperparameters of the method.

    Attributes:
        layers: units of each hidden layer, from the pixels up; the last is the embedding.
        sampling: where the model's samples come from: `cd` or `pcd`.
        gibbs_steps: k, steps of the chain.
        pretraining: share of the steps in which layers learn one after another, each as long as the others, above 0, at
            most 1; in the rest all learn together.
        rbm_learning_rate: highest learning rate of a layer alone (SGD).
        weight_decay: of a layer's weights while it learns alone.
        learning_rate: highest learning rate of all together (Adam).
    """

    layers: tuple[int, ...] = (512, 512)
    sampling: Literal["cd", "pcd"] = "cd"
    gibbs_steps: int = 1
    pretraining: float = 0.7
    rbm_learning_rate: float = 0.1
    weight_decay: float = 2e-4
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not self.layers or min(self.layers) < 1:
            raise ValueError(f"layers: got {self.layers}, expected one or more, each of 1 unit or more")
        for name in ("gibbs_steps", "rbm_learning_rate", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: got {self.weight_decay}, expected 0 or greater")
        if not 0 < self.pretraining <= 1:
            raise ValueError(f"pretraining: got {self.pretraining}, expected above 0, at most 1")


def contrastive_loss(rbm: Rbm, v_BV: Tensor, sampled_BV: Tensor) -> Tensor:
    """What has the gradient of -log p(v), if the samples are the model's; its value means nothing by itself."""
    # mean F(v) - mean F(v'), v' constant
    return rbm.free_energy(v_BV).mean() - rbm.free_energy(sampled_BV.detach()).mean()


def cross_entropy(logits_BP: Tensor, x_BP: Tensor) -> Tensor:
    """-sum_p [x log x' + (1 - x) log(1 - x')], mean over rows, nats."""
    return F.binary_cross_entropy_with_logits(logits_BP, x_BP, reduction="none").sum(dim=1).mean()


def phase_of(step: int, num_steps: int, num_layers: int, pretraining: float) -> int:
    """Which layer learns alone in a step, from 0; `num_layers`: all together."""
    ends = [round(pretraining * num_steps * (layer + 1) / num_layers) for layer in range(num_layers)]
    return sum(step >= end for end in ends)


class Dbn(LightningModule):
    """The model and its training step. `encode` and `decode` are what is exported."""

    def __init__(self, config: DbnConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.automatic_optimization = False  # optimizers that take turns
        self.config = config
        self.loop = loop
        self.image_CHW = (shape.channels, *shape.size)
        sizes = (math.prod(self.image_CHW), *config.layers)
        self.encoder, self.decoder = nn.Sequential(nn.Flatten()), nn.Sequential()
        for before, after in pairwise(sizes):
            self.encoder.extend([_layer(before, after), nn.Sigmoid()])
        for before, after in pairwise(reversed(sizes)):
            self.decoder.extend([_layer(before, after), nn.Sigmoid()])
        for layer, num_visible in enumerate(sizes[:-1]):
            self._unroll(layer)
            if config.sampling == "pcd":
                self.register_buffer(f"chains_{layer}", torch.zeros(loop.batch_rows, num_visible))

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, L], the last layer before its sigmoid, and latent [B, L], after it."""
        logits_BL: Tensor = self.encoder[:-1](x_BCHW)
        return Encoding(logits_BL, logits_BL.sigmoid())

    def decode(self, z_BL: Tensor) -> Tensor:
        """Probabilities of the pixels, float [B, C, H, W], 0 to 1."""
        probabilities_BP: Tensor = self.decoder(z_BL)
        return probabilities_BP.view(-1, *self.image_CHW)

    def rbm(self, layer: int) -> Rbm:
        """The machine between a layer and the one below: its parameters are those of encoder and decoder."""
        up, down = self._pair(layer)
        return Rbm(up.weight, up.bias, down.bias)

    def _pair(self, layer: int) -> tuple[nn.Linear, nn.Linear]:
        """The way up through a layer, and the way down."""
        pair = self.encoder[1 + 2 * layer], self.decoder[2 * (len(self.config.layers) - 1 - layer)]
        return cast(tuple[nn.Linear, nn.Linear], pair)

    @torch.no_grad()
    def _unroll(self, layer: int) -> None:
        """The way down has the weights of the way up, transposed."""
        up, down = self._pair(layer)
        down.weight.copy_(up.weight.T)

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step of the layer whose turn it is, or of all, on uint8 images."""
        x_BCHW, trainer = image_from_uint8(x_BHWC), self.trainer
        step = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx
        phase = phase_of(step, self._num_steps, len(self.config.layers), self.config.pretraining)
        if phase < len(self.config.layers):
            loss, error = self.layer_loss(x_BCHW, phase)
        else:
            loss, error = self.stack_loss(x_BCHW)
        optimizer = cast(list[LightningOptimizer], self.optimizers())[phase]
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        cast(list[LRScheduler], self.lr_schedulers())[phase].step()
        if phase < len(self.config.layers):
            self._unroll(phase)
        figures: dict[str, Tensor | float] = {"loss": loss, "squared_error": error, "layer": float(phase + 1)}
        self.log_dict(figures, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss.detach()  # the loop stops on what is no number

    @property
    def _num_steps(self) -> int:
        return int(self.trainer.estimated_stepping_batches)

    def layer_loss(self, x_BCHW: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The loss of an RBM, and how far its input is from itself after one step up and down, for the log."""
        rbm = self.rbm(layer)
        with torch.no_grad():
            v_BV = self.encoder[: 1 + 2 * layer](x_BCHW)
            error = (rbm.visible(rbm.hidden(v_BV)) - v_BV).square().mean()
        return contrastive_loss(rbm, v_BV, self.sampled(rbm, v_BV, layer)), error

    @torch.no_grad()
    def sampled(self, rbm: Rbm, v_BV: Tensor, layer: int) -> Tensor:
        """The model's samples: of chains that begin at the rows, or that went on since the last step."""
        if self.config.sampling == "cd":
            return rbm.chain(v_BV, self.config.gibbs_steps)
        chains_AV = self.get_buffer(f"chains_{layer}")
        chains_BV = rbm.chain(mine(chains_AV), self.config.gibbs_steps)
        chains_AV.copy_(gathered(chains_BV))
        return chains_BV

    def stack_loss(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of the autoencoder, and its squared error for the log."""
        x_BP = x_BCHW.flatten(1)
        logits_BP = self.decoder[:-1](self.encoder(x_BCHW))
        return cross_entropy(logits_BP, x_BP), (logits_BP.detach().sigmoid() - x_BP).square().mean()

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """Reconstruction error of rows that were not trained on."""
        _, error = self.stack_loss(image_from_uint8(x_BHWC))
        self.log_dict({"test_reconstruction_squared_error": error}, batch_size=len(x_BHWC))

    def configure_optimizers(self) -> Sequence[OptimizerLRSchedulerConfig]:
        """SGD with momentum for each layer, then Adam for all, each with a warm-up and a cosine over its own steps."""
        config, num_layers = self.config, len(self.config.layers)
        phases = [phase_of(step, self._num_steps, num_layers, config.pretraining) for step in range(self._num_steps)]
        made = []
        for layer in range(num_layers):
            weight, *biases = self.rbm(layer)
            groups: list[dict[str, Any]] = [
                {"params": [weight], "weight_decay": config.weight_decay},
                {"params": biases},
            ]
            sgd = torch.optim.SGD(groups, lr=config.rbm_learning_rate, momentum=MOMENTUM)
            made.append(warmup_then_cosine(sgd, self.loop, phases.count(layer)))
        adam = torch.optim.Adam(self.parameters(), lr=config.learning_rate)
        return [*made, warmup_then_cosine(adam, self.loop, phases.count(num_layers))]


def _layer(before: int, after: int) -> nn.Linear:
    layer = nn.Linear(before, after)
    nn.init.normal_(layer.weight, std=FIRST_DEVIATION)
    nn.init.zeros_(layer.bias)
    return layer
