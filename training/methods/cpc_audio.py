"""Contrastive predictive coding (CPC) of sound: predict what is heard next, among other moments of the same speaker.

An encoder turns a waveform into a feature z_t every 10 ms; a causal context network sums up all features so far in
c_t. From c_t a linear map for each step k predicts z_{t+k}, and the loss asks to tell that feature from those of other
moments of the same row. All of them are of one speaker in one room, so knowing either does not help: what helps is
what is being said.

    loss = -mean_k mean_t log [exp(f_k(c_t, z_{t+k})) / sum_j exp(f_k(c_t, z_j))],  f_k(c, z) = cos(W_k c, z) / T

Source: van den Oord, Li and Vinyals, https://arxiv.org/abs/1807.03748, sections 2.3 and 3.1, eqs. 3 and 4.

What is ours, because the data are minutes and not hundreds of hours. The encoder's first layer starts as Gabor filters
spaced like the ear's, whose log power goes on (as LEAF's, Zeghidour et al., https://arxiv.org/abs/2101.08596), where
the paper learns five layers of filters from noise. The context hears features with holes (`dropout`), the targets have
none: changing only what is heard before the prediction is from Kharitonov et al., https://arxiv.org/abs/2007.00991.
`speed` plays context and targets at different speeds, which moves pitch and formants as another throat would; the
true target is then the frame at the same moment of the original. Similarity is a cosine. The context is
convolutional, or the paper's GRU. No BatchNorm: it would let one row peek at another.

The embedding is the mean, the standard deviation and the maximum of c over the frames that hold sound, and the mean
over each third of them: what comes first and what comes last is part of a word. Every layer is causal and frames of
exact zeros are left out, so padding at the end of a clip changes nothing.

With several processes the targets of all ranks are gathered, with gradient, if negatives are of the batch; of the row,
nothing is. A prediction past the end has no target, so ranks may have unlike many: all count alike, as in one mean.

Shape legend: B rows, T samples, N frames, M frames of targets, K steps, F filters, C channels, D embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data import AudioShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.cpc import info_nce
from training.methods.encoding import Encoding
from training.preprocessing import waveform_from_int16
from training.ranks import among_all, gathered, mean_of_all, mine, num_of_all, num_ranks, rank
from training.schedule import LoopConfig, warmup_then_cosine

FRAMES_PER_SECOND = 100
HOPS_PER_FILTER = 2.5
"""A filter hears 25 ms, as is common for speech."""
LOWEST_HZ = 60.0
TINY_POWER = 1e-7
"""Below the rounding of 16 bits: keeps the logarithm of silence finite."""


@dataclass(frozen=True)
class CpcAudioConfig:
    """Hyperparameters of the method.

    Attributes:
        num_filters: pairs of filters of the first layer, F.
        width: channels of features and contexts, C; the embedding has 6 C.
        context: `conv`, causal dilated convolutions over 0.3 s, or `gru`, over all that was heard.
        num_steps: how many frames of 10 ms ahead are predicted, K.
        temperature: what cosine similarities are divided by, T.
        negatives: other frames of the same `row` (one speaker), or of the whole `batch`.
        crop: share of a training row that is cut away, at random places, so that frames never fall on the same samples.
        dropout: share of the features that the context does not hear in training.
        speed: context and target are each played exp(-speed) to exp(speed) times as fast; 0: as they are.
        learning_rate: highest learning rate of AdamW.
        weight_decay: weight decay of AdamW.
    """

    num_filters: int = 48
    width: int = 128
    context: Literal["conv", "gru"] = "conv"
    num_steps: int = 6
    temperature: float = 0.1
    negatives: Literal["row", "batch"] = "row"
    crop: float = 0.2
    dropout: float = 0.3
    speed: float = 0.0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("num_filters", "width", "temperature", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        if not 1 <= self.num_steps <= 12:
            raise ValueError(f"num_steps: got {self.num_steps}, expected 1 to 12")
        for name in ("crop", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or greater and below 1")
        if not 0 <= self.speed <= 0.5:
            raise ValueError(f"speed: got {self.speed}, expected 0 to 0.5")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: got {self.weight_decay}, expected 0 or greater")


def prediction_loss(
    predictions_KBNC: Tensor,
    targets_BMC: Tensor,
    positives_KBN: Tensor,
    temperature: float,
    negatives: Literal["row", "batch"],
) -> tuple[Tensor, Tensor]:
    """The loss [], nats, and how often the true frame scores highest [].

    Args:
        predictions_KBNC: of unit length.
        targets_BMC: of unit length.
        positives_KBN: int64, the frame of the same row that each prediction is meant to find; M or more: there is none.
        temperature: what cosine similarities are divided by, T.
        negatives: `row`: the frames of the same row; `batch`: of all rows.
    """
    rows, frames = targets_BMC.shape[:2]
    found_KBN = positives_KBN < frames
    positives_KBN = positives_KBN.clamp(max=frames - 1)
    if negatives == "batch":
        first_frame_B1 = (rank() * rows + torch.arange(rows, device=targets_BMC.device)[:, None]) * frames
        positives_KBN = positives_KBN + first_frame_B1
        targets_BMC = gathered(targets_BMC).flatten(0, 1).expand(rows, -1, -1)
    # -log [exp(cos(W_k c_t, z_{t+k}) / T) / sum_j exp(cos(W_k c_t, z_j) / T)]
    loss_KBN = info_nce(predictions_KBNC, targets_BMC, positives_KBN, temperature)
    right_KBN = (predictions_KBNC @ targets_BMC.mT).argmax(dim=-1) == positives_KBN
    return _mean_of_found(loss_KBN[found_KBN]), _mean_of_found(right_KBN[found_KBN].float())


def _mean_of_found(values_N: Tensor) -> Tensor:
    """The mean of values [], such that its mean over ranks is the mean of all of theirs."""
    if num_ranks() == 1:
        return values_N.mean()
    return values_N.sum() / mean_of_all(values_N.new_tensor(len(values_N)))


class ChannelNorm(nn.Module):
    """Each frame to mean 0 and variance 1 over its channels, then scaled: no frame hears of another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Float [B, C, N]."""
        centred_BCN = x_BCN - x_BCN.mean(dim=1, keepdim=True)
        variance_B1N = centred_BCN.square().mean(dim=1, keepdim=True)
        return centred_BCN * (variance_B1N + 1e-5).rsqrt() * self.weight + self.bias


class GaborFilters(nn.Module):
    """waveform [B, T] -> log power of each filter [B, F, N], one frame every 10 ms, each of what was heard so far."""

    def __init__(self, num_filters: int, sample_rate_hz: int) -> None:
        super().__init__()
        self.hop = sample_rate_hz // FRAMES_PER_SECOND
        length = int(HOPS_PER_FILTER * self.hop)
        # O'Shaughnessy's mel scale: 2595 log10(1 + f / 700)
        lowest_mel, highest_mel = (2595 * math.log10(1 + hertz / 700) for hertz in (LOWEST_HZ, sample_rate_hz / 2))
        mel = torch.linspace(lowest_mel, highest_mel, num_filters + 2)
        edges_hz = 700 * (10 ** (mel / 2595) - 1)
        centre_hz, width_hz = edges_hz[1:-1, None], (edges_hz[2:, None] - edges_hz[:-2, None]) / 2
        seconds = (torch.arange(length) - (length - 1) / 2) / sample_rate_hz
        # A Gaussian of this deviation has half its power at half the filter's width, if it fits into the window.
        deviation = (math.sqrt(math.log(2)) / (math.pi * width_hz)).clamp_max(length / sample_rate_hz / 5)
        envelope = torch.softmax(-0.5 * (seconds / deviation).square(), dim=1)
        phase = 2 * math.pi * centre_hz * seconds
        self.weight = nn.Parameter(torch.cat([envelope * phase.cos(), envelope * phase.sin()])[:, None])

    def forward(self, x_BT: Tensor) -> Tensor:
        """The window of frame n ends with sample (n + 1) * hop."""
        before = self.weight.shape[-1] - self.hop
        pairs = F.conv1d(F.pad(x_BT[:, None], (before, 0)), self.weight, stride=self.hop)
        real_BFN, imaginary_BFN = pairs.chunk(2, dim=1)
        return (real_BFN.square() + imaginary_BFN.square() + TINY_POWER).log()


class CausalBlock(nn.Module):
    """x + relu(norm(conv(x))) over this frame and two before it, `dilation` apart."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.before = 2 * dilation
        self.conv = nn.Conv1d(channels, channels, 3, dilation=dilation)
        self.norm = ChannelNorm(channels)

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Float [B, C, N]."""
        h_BCN: Tensor = self.norm(self.conv(F.pad(x_BCN, (self.before, 0))))
        return x_BCN + h_BCN.relu()


class GruContext(nn.Module):
    """The paper's context: a GRU over the frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, channels, batch_first=True)

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Float [B, C, N]."""
        h_BNC: Tensor = self.gru(x_BCN.mT)[0]
        return h_BNC.mT


def played(x_BT: Tensor, speed_B: Tensor, num_samples: int) -> Tensor:
    """The beginning of each row at another speed, [B, num_samples], linear between samples."""
    at_BT = torch.arange(num_samples, device=x_BT.device) * speed_B[:, None]
    left_BT = at_BT.long().clamp(max=x_BT.shape[1] - 2)
    share_BT = at_BT - left_BT
    return x_BT.gather(1, left_BT) * (1 - share_BT) + x_BT.gather(1, left_BT + 1) * share_BT


def _mean(c_BCN: Tensor, weight_B1N: Tensor) -> Tensor:
    """The mean over frames of weight 1, [B, C]; where there are none 0, not NaN."""
    return (c_BCN * weight_B1N).sum(dim=2) / weight_B1N.sum(dim=2).clamp_min(1)


class CpcAudio(LightningModule):
    """The model and its training step. `encode` is what is exported."""

    def __init__(self, config: CpcAudioConfig, loop: LoopConfig, shape: AudioShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        filters, width = config.num_filters, config.width
        self.filters = GaborFilters(filters, shape.sample_rate_hz)
        if shape.num_samples < self.filters.hop:
            raise ValueError(f"num_samples: got {shape.num_samples}, expected {self.filters.hop} (10 ms) or more")
        layers: list[nn.Module] = [ChannelNorm(filters)]
        for before in (filters, width):
            layers += [nn.Conv1d(before, width, 1), ChannelNorm(width), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        if config.context == "gru":
            self.context: nn.Module = GruContext(width)
        else:
            self.context = nn.Sequential(*(CausalBlock(width, 2**layer) for layer in range(4)))  # hears 31 frames
        self.predictors = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(config.num_steps))

    def features(self, x_BT: Tensor) -> Tensor:
        """z, float [B, C, N]."""
        z_BCN: Tensor = self.encoder(self.filters(x_BT))
        return z_BCN

    def encode(self, x_BT: Tensor) -> Encoding:
        """Embedding [B, D]: mean, standard deviation, maximum and thirds of c over the frames that hold sound."""
        c_BCN = self.context(self.features(x_BT))
        num_frames, hop = c_BCN.shape[2], self.filters.hop
        frames_BNS = x_BT[:, : num_frames * hop].reshape(-1, num_frames, hop)
        sound_B1N = (frames_BNS != 0).any(dim=2).to(x_BT.dtype)[:, None]
        mean_BC = _mean(c_BCN, sound_B1N)
        deviation_BC = (_mean((c_BCN - mean_BC[..., None]).square(), sound_B1N) + 1e-6).sqrt()
        maximum_BC = c_BCN.masked_fill(sound_B1N == 0, -torch.inf).amax(dim=2)
        maximum_BC = torch.where(sound_B1N.any(dim=2), maximum_BC, 0.0)
        # 0.5, 1.5, ... of the frames with sound, times 3: its whole part is the third
        third_B1N = (3 * (sound_B1N.cumsum(dim=2) - 0.5) / sound_B1N.sum(dim=2, keepdim=True).clamp_min(1)).floor()
        thirds = [_mean(c_BCN, sound_B1N * (third_B1N == third)) for third in range(3)]
        return Encoding(embedding=torch.cat([mean_BC, deviation_BC, maximum_BC, *thirds], dim=1))

    def loss_of(self, heard_BT: Tensor, asked_BT: Tensor, ratio_B: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy; frame n of `heard` is the moment of frame n * ratio of `asked`."""
        heard_BCN = self.features(heard_BT)
        kept_BCN = mine(F.dropout(torch.ones_like(among_all(heard_BCN)), self.config.dropout, self.training))
        c_BNC = self.context(heard_BCN * kept_BCN).mT
        targets_BMC = F.normalize(self.features(asked_BT).mT, dim=2)
        predictions = torch.stack([F.normalize(predictor(c_BNC), dim=2) for predictor in self.predictors])
        ahead_K11 = torch.arange(1, self.config.num_steps + 1, device=c_BNC.device)[:, None, None]
        now_N = torch.arange(c_BNC.shape[1], device=c_BNC.device)
        positives_KBN = ((now_N + ahead_K11) * ratio_B[:, None]).round().long()
        return prediction_loss(predictions, targets_BMC, positives_KBN, self.config.temperature, self.config.negatives)

    def training_step(self, x_BT: Tensor, batch_idx: int) -> Tensor:
        """One step on long int16 rows."""
        spare = int(x_BT.shape[1] * self.config.crop)
        start = int(torch.randint(spare + 1, ()))
        waveform_BT = waveform_from_int16(x_BT[:, start : x_BT.shape[1] - spare + start])
        num_samples = int(waveform_BT.shape[1] * math.exp(-self.config.speed))
        draws_2B = mine(torch.rand(2, num_of_all(len(x_BT)), device=x_BT.device), dim=1)
        speeds_2B = torch.exp((2 * draws_2B - 1) * self.config.speed)
        heard_BT, asked_BT = (played(waveform_BT, speed_B, num_samples) for speed_B in speeds_2B)
        loss, accuracy = self.loss_of(heard_BT, asked_BT, speeds_2B[0] / speeds_2B[1])
        figures = {"loss": loss, "accuracy": accuracy}
        self.log_dict(figures, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BT))
        return loss

    def test_step(self, x_BT: Tensor, batch_idx: int) -> None:
        """Loss and accuracy on rows that were not trained on, at their own speed."""
        waveform_BT = waveform_from_int16(x_BT)
        loss, accuracy = self.loss_of(waveform_BT, waveform_BT, torch.ones(len(x_BT), device=x_BT.device))
        figures = {"test_prediction_nats": loss, "test_prediction_accuracy": accuracy}
        self.log_dict(figures, batch_size=len(x_BT))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with a short warm-up, then a cosine to zero."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))
