"""VQ-VAE: an autoencoder whose code is a grid of whole numbers, each the name of a vector that was learnt.

An encoder makes a vector z of each place of an image, z becomes the nearest of K codes e_k, and a decoder makes the
image of those. What codes cannot say is lost, so an image must be told in words that many images share. Choosing has no
gradient: the decoder's at e goes to z as if nothing had happened (straight-through), and the encoder is asked to stay
near the codes that it chose. The codes themselves follow by moving averages (training/networks/codebook.py).

    z_q  = z + sg[e - z]                                                                    (sg: no gradient flows)
    loss = |x - D(z_q)|^2 / |x - mean|^2 + beta mean (z - sg[e])^2      (eq. 3, its middle term by averages)

Sources: van den Oord, Vinyals and Kavukcuoglu, https://arxiv.org/abs/1711.00937; reconstruction over variance: their
code, Sonnet.

The *embedding* is what z is a linear map of, the encoder's last features, averaged over a grid of cells: they have more
numbers than z and are not quantised (`python -m benchmarks.results.vq_embeddings` compares what a probe reads from
each). The *latent* is z at each place, and `decode` quantises it, so that any latent, also one that was moved, is
decoded as codes. `codes` are the whole numbers.

What is ours: networks of the size of a digit; the variance is that of the batch; codes begin on vectors of the first
batch, and dead ones begin again.

With several processes the loss is a mean over rows but for the variance, which is that of the rows of all ranks; the
codebook's sums are of all ranks too, and BatchNorm sees all.

Shape legend: B rows, C channels, H height, W width, h and w places, N vectors (B h w), K codes, D numbers of a code,
M features of a place, S cells, L latent (D h w).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam
from torch.optim.lr_scheduler import LRScheduler

from training.data import DataError, ImageShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.codebook import Codebook, perplexity, usage
from training.networks.maps import MapDecoder, MapEncoder, pooled, sides
from training.networks.pixelcnn import GridPrior, PixelCnnSize
from training.networks.places import maps_of, patches_of
from training.preprocessing import image_from_uint8
from training.ranks import gathered, mean_of_all
from training.schedule import LoopConfig, warmup_then_cosine

MOST_CODES = 2**15  # codes are served as int16


@dataclass(frozen=True)
class VqVaeConfig:
    """Hyperparameters of the method.

    Attributes:
        codebook_size: number of codes, K, 2 to 32768.
        code_dim: numbers of a code, D.
        width: channels after the first convolution; doubled at each halving.
        halvings: how often the sides are halved: 28 pixels and 2 make 7 x 7 places.
        pooled_side: cells along a side over which the embedding averages, as far as there are places; 1 is one mean.
        commitment: weight of the term that keeps z near the codes, beta.
        decay: of the codebook's moving averages, 0 or greater, below 1.
        dead_share: a code used less than this share of even use begins again on a vector of the batch; 0: never.
        learning_rate: highest learning rate of Adam.
        prior_share: share of the steps, the last ones, in which a PixelCNN learns the codes and nothing else learns; 0:
            there is none.
        prior_width: features of its places.
        prior_layers: gated layers.
        prior_learning_rate: highest learning rate of its Adam.
    """

    codebook_size: int = 512
    code_dim: int = 16
    width: int = 16
    halvings: int = 2
    pooled_side: int = 5
    commitment: float = 0.25
    decay: float = 0.99
    dead_share: float = 0.02
    learning_rate: float = 2e-3
    prior_share: float = 0.0
    prior_width: int = 64
    prior_layers: int = 5
    prior_learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        for name in (
            *("code_dim", "width", "halvings", "pooled_side", "learning_rate"),
            *("prior_width", "prior_layers", "prior_learning_rate"),
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        if not 2 <= self.codebook_size <= MOST_CODES:
            raise ValueError(f"codebook_size: got {self.codebook_size}, expected 2 to {MOST_CODES}")
        if self.commitment < 0:
            raise ValueError(f"commitment: got {self.commitment}, expected 0 or greater")
        for name in ("decay", "dead_share", "prior_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or greater, below 1")


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """The value of e, the gradient of z."""
    # z_q = z + sg[e - z]
    return z + (e - z).detach()


def vq_loss(
    decoded_BCHW: Tensor, x_BCHW: Tensor, z_ND: Tensor, e_ND: Tensor, variance: Tensor, commitment: float
) -> tuple[Tensor, Tensor]:
    """Reconstruction error as a share of the variance, and the weighted commitment; their sum is the loss."""
    # mean_p (x - D(z_q))^2 / Var[x],   beta mean (z - sg[e])^2
    return F.mse_loss(decoded_BCHW, x_BCHW) / variance, commitment * F.mse_loss(z_ND, e_ND.detach())


def variance_of_all(x: Tensor) -> Tensor:
    """Of all pixels of the rows of all ranks; a ten-thousandth of a grey level's square where nothing varies."""
    mean, mean_square = mean_of_all(x.mean()), mean_of_all(x.square().mean())
    return (mean_square - mean.square()).clamp_min(1e-8)


class VqVae(LightningModule):
    """The model and its training step. `encode` and `decode` are what is exported."""

    used_K: Tensor

    def __init__(self, config: VqVaeConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.automatic_optimization = False  # optimizers that take turns
        self.config = config
        self.loop = loop
        self.places = sides(shape.size, config.halvings)[-1]
        sizes = (shape.channels, shape.size, config.halvings, config.width, config.code_dim)
        self.encoder = MapEncoder(*sizes)
        self.codebook = Codebook(config.codebook_size, config.code_dim, config.decay, config.dead_share)
        self.decoder = MapDecoder(*sizes)
        size = PixelCnnSize(config.prior_width, config.prior_layers)
        self.prior = GridPrior(config.codebook_size, size) if config.prior_share else None
        self.register_buffer("used_K", torch.zeros(config.codebook_size))  # of an epoch

    def survey(self, values: Any) -> None:
        """See `training.methods.encoding.Surveyor`: there must be a vector for each code to be put on."""
        num_codes, num_rows = self.config.codebook_size, len(values)
        if num_codes > (num_vectors := num_rows * math.prod(self.places)):
            raise DataError(
                f"codebook_size: got {num_codes}, expected at most {num_vectors}: {num_rows} training rows have"
                " {} x {} places each".format(*self.places)
            )

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, M S S], latent [B, L], patches, codes, int16 [B, h, w], with a prior also -log p(codes)."""
        *layers, to_codes = self.encoder
        h_BMhw, maps = maps_of(layers, x_BCHW)
        z_BDhw = to_codes(h_BMhw)
        codes_Bhw = self.codebook.nearest(flat(z_BDhw)).view(-1, *self.places)
        return Encoding(
            pooled(h_BMhw, self.config.pooled_side),
            z_BDhw.flatten(1),
            patches=patches_of(maps),
            codes=codes_Bhw.to(torch.int16),
            nll=None if self.prior is None else self.prior.nll(codes_Bhw)[:, None],
        )

    def decode(self, z_BL: Tensor) -> Tensor:
        """The image of the codes nearest to the latent's vectors, float [B, C, H, W], 0 to 1."""
        z_BDhw = z_BL.view(-1, self.config.code_dim, *self.places)
        return self.reconstruction(self.vectors(self.codebook.nearest(flat(z_BDhw)).view(-1, *self.places)))

    def vectors(self, codes_Bhw: Tensor) -> Tensor:
        """The codes' vectors, [B, D, h, w]."""
        return self.codebook.codes_KD[codes_Bhw.long()].permute(0, 3, 1, 2)

    def reconstruction(self, z_BDhw: Tensor) -> Tensor:
        """D(z_q), 0 to 1."""
        logits_BCHW: Tensor = self.decoder(z_BDhw)
        return logits_BCHW.sigmoid()

    def margin(self, x_BCHW: Tensor) -> Tensor:
        """How clearly each row's least clear place chose its code, [B]: below rounding it may choose another."""
        return self.codebook.margin(flat(self.encoder(x_BCHW))).view(len(x_BCHW), -1).amin(dim=1)

    def samples(self, num_rows: int) -> Tensor:
        """Images of grids drawn from the prior; none without one."""
        if self.prior is None:
            return torch.empty(0)
        return self.reconstruction(self.vectors(self.prior.sample(num_rows, *self.places)))

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step of the autoencoder, or of the prior, on uint8 images."""
        x_BCHW, trainer = image_from_uint8(x_BHWC), self.trainer
        step = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx
        turn = int(step >= self._first_of_prior)
        loss, figures, codes_N = self.autoencoder_loss(x_BCHW) if not turn else self.prior_loss(x_BCHW)
        self.count(codes_N)
        optimizers, schedulers = self.optimizers(), self.lr_schedulers()
        optimizer = optimizers[turn] if isinstance(optimizers, list) else optimizers
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        cast(LRScheduler, schedulers[turn] if isinstance(schedulers, list) else schedulers).step()
        self.log_dict({"loss": loss, **figures}, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        if trainer.is_last_batch:
            self.log_dict(self.codebook_figures(), on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss.detach()  # the loop stops on what is no number

    @property
    def _first_of_prior(self) -> int:
        """The step at which the prior's turn comes."""
        return round((1 - self.config.prior_share) * int(self.trainer.estimated_stepping_batches))

    def autoencoder_loss(self, x_BCHW: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss, figures for the log, and the codes [N]. In training mode the codebook learns, too."""
        z_ND = flat(self.encoder(x_BCHW))
        codes_N, e_ND = self.codebook(z_ND)
        z_q_BDhw = straight_through(z_ND, e_ND).view(-1, *self.places, self.config.code_dim).permute(0, 3, 1, 2)
        decoded_BCHW = self.reconstruction(z_q_BDhw)
        variance = variance_of_all(x_BCHW)
        share, commitment = vq_loss(decoded_BCHW, x_BCHW, z_ND, e_ND, variance, self.config.commitment)
        figures = {"reconstruction_squared_error": F.mse_loss(decoded_BCHW, x_BCHW), "commitment": commitment}
        if self.prior is not None:  # what a prior has that knows nothing yet
            num_codes = torch.tensor(float(self.config.codebook_size), device=x_BCHW.device)
            figures["prior_nats"] = math.prod(self.places) * num_codes.log()
        return share + commitment, figures, codes_N

    def prior_loss(self, x_BCHW: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """-log p(codes), nats, mean over rows; figures and codes as above. The codes are those that are served."""
        assert self.prior is not None
        self.eval()
        with torch.no_grad():
            _, figures, codes_N = self.autoencoder_loss(x_BCHW)
        self.train()
        nats = self.prior.nll(codes_N.view(-1, *self.places)).mean()
        return nats, figures | {"prior_nats": nats}, codes_N

    @torch.no_grad()
    def count(self, codes_N: Tensor) -> None:
        """Which codes were chosen, by all ranks."""
        counts_K = torch.bincount(codes_N, minlength=len(self.used_K)).to(self.used_K.dtype)
        self.used_K += gathered(counts_K[None]).sum(dim=0)

    def codebook_figures(self) -> dict[str, Tensor]:
        """Of the codes that were counted."""
        return {"codebook_usage": usage(self.used_K), "codebook_perplexity": perplexity(self.used_K)}

    def on_train_epoch_start(self) -> None:
        """Counting begins."""
        self.used_K.zero_()

    def on_test_epoch_start(self) -> None:
        """Counting begins."""
        self.used_K.zero_()

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """Reconstruction error of rows that were not trained on."""
        x_BCHW = image_from_uint8(x_BHWC)
        z_BDhw = self.encoder(x_BCHW)
        self.count(self.codebook.nearest(flat(z_BDhw)))
        figures = {"test_reconstruction_squared_error": F.mse_loss(self.decode(z_BDhw.flatten(1)), x_BCHW)}
        if self.prior is not None:
            codes_Bhw = self.codebook.nearest(flat(z_BDhw)).view(-1, *self.places)
            figures["test_prior_nats"] = self.prior.nll(codes_Bhw).mean()
        self.log_dict(figures, batch_size=len(x_BHWC))

    def on_test_epoch_end(self) -> None:
        """Of all test rows together."""
        self.log_dict({f"test_{name}": value for name, value in self.codebook_figures().items()})

    def configure_optimizers(self) -> Sequence[OptimizerLRSchedulerConfig]:
        """Adam for the autoencoder, and one for the prior, each with a short warm-up, then a cosine to zero."""
        config, num_steps = self.config, int(self.trainer.estimated_stepping_batches)
        weights = [*self.encoder.parameters(), *self.decoder.parameters()]
        made = [warmup_then_cosine(Adam(weights, lr=config.learning_rate), self.loop, self._first_of_prior)]
        if self.prior is not None:
            adam = Adam(self.prior.parameters(), lr=config.prior_learning_rate)
            made.append(warmup_then_cosine(adam, self.loop, num_steps - self._first_of_prior))
        return made


def flat(z_BDhw: Tensor) -> Tensor:
    """A vector a place, [N, D], the places of a row one after another."""
    return z_BDhw.permute(0, 2, 3, 1).reshape(-1, z_BDhw.shape[1])
