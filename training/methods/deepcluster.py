"""DeepCluster: an encoder and the clusters of its own features teach each other.

Before each epoch the encoder describes all training images, and k-means groups the descriptions. In the epoch a linear
head on the encoder learns to tell each image's cluster from a changed view of it. Convolutions of random weights
describe an image well enough to begin with; what the groups have in common is then learned, and the next groups are
better ones. What views change is not seen any more, and so is what never decides between clusters.

    min_C  1/N sum_n min_y |x_n - C y|^2        y in {0, 1}^K, 1'y = 1                  (eq. 2, the clusters y_n)
    min_W  1/N sum_n -log softmax_{y_n}(W h(view of image n))                           (eq. 1)
           x_n: h(image n), whitened by its principal components, of length 1

Source: Caron, Bojanowski, Joulin and Douze, Deep clustering for unsupervised learning of visual features,
https://arxiv.org/abs/1807.05520. As there (section 3.3), the two ways to cheat are closed: an empty cluster takes half
of the largest (`training.kmeans`), and rows are drawn so that all clusters come equally often, or one large cluster
would be the answer to everything. The head begins anew in each epoch: clusters have no order.

What is ours: images are described in eval mode, each by itself, so that a resumed run finds the same clusters; they
follow from the weights as the epoch begins, the seed and the epoch. The optimizer forgets the old head's moments.
Lloyd's algorithm is 60 lines of torch. The *embedding* is h; the head is thrown away, as after every epoch.

With several processes each describes its share of the rows and all go on with the clusters that rank 0 found. The loss
is a mean over rows; nothing is gathered. BatchNorm sees all ranks.

An epoch costs one pass without gradient over all rows beside the training, and [N, D] floats of memory: 240 MB for
60,000 images and 1,024 features.

Shape legend: B rows of a batch, N training rows, C channels, H height, W width, D embedding, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.augmentations import ViewConfig, Views
from training.data import DataError, ImageShape
from training.kmeans import balanced_order, kmeans, whitened
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.backbones import SMALL, build_backbone, with_patches
from training.preprocessing import image_from_uint8
from training.schedule import LoopConfig, warmup_then_cosine

HEAD_DEVIATION = 0.01  # of the head's first weights, as in the paper's code


@dataclass(frozen=True)
class DeepClusterConfig:
    """Hyperparameters of the method.

    Attributes:
        backbone: `small`, or the name of a timm model.
        backbone_weights: file of weights that the backbone starts with (safetensors, or .pth of tensors alone).
        width: channels after the stem of `small` (its own: 16) and of timm's ResNets (64).
        num_clusters: clusters, K; several times as many as there are kinds of images.
        pca_dim: principal components of the features that are clustered, at most.
        iterations: steps of k-means in each epoch, at most.
        learning_rate: highest learning rate, of AdamW.
        weight_decay: weight decay of weights; biases and BatchNorm have none.
        views: what a view may differ in from the image whose cluster is asked for.
    """

    backbone: str = SMALL
    backbone_weights: str | None = None
    width: int | None = None
    num_clusters: int = 100
    pca_dim: int = 64
    iterations: int = 20
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    views: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        for name in ("width", "pca_dim", "iterations", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: got {value}, expected above 0")
        if self.num_clusters < 2:
            raise ValueError(f"num_clusters: got {self.num_clusters}, expected 2 or more")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: got {self.weight_decay}, expected 0 or greater")


def cluster_loss(logits_BK: Tensor, clusters_B: Tensor) -> Tensor:
    """Mean over rows, nats; who cannot tell has log K. In float32 whatever the precision of the network."""
    # -log softmax_{y_n}(W h)
    return F.cross_entropy(logits_BK.float(), clusters_B)


class DeepCluster(LightningModule):
    """The model and its training step. `encode` is what is exported."""

    def __init__(self, config: DeepClusterConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        self.views = Views(config.views, shape.channels)
        self.encoder, embedding_dim = build_backbone(config.backbone, shape.channels, shape.size, config.width)
        self.head = nn.Linear(embedding_dim, config.num_clusters)
        self.clusters_used = 0

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, D]: h."""
        h_BD, patches = with_patches(self.encoder, x_BCHW)
        return Encoding(h_BD, patches=patches)

    def survey(self, values: Any) -> None:
        """See `training.methods.encoding.Surveyor`."""
        if len(values) < self.config.num_clusters:
            got = f"{self.config.num_clusters} for {len(values)} training rows"
            raise DataError(f"num_clusters: got {got}, expected at most one for each")

    def features(self, x_BHWC: Tensor) -> Tensor:
        """See `training.methods.encoding.Regrouped`: h of the image itself."""
        h_BD: Tensor = self.encoder(image_from_uint8(x_BHWC))
        return h_BD.float()

    def regroup(self, features_ND: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """See `training.methods.encoding.Regrouped`: clusters for the epoch, and a head that knows none of them."""
        generator = torch.Generator().manual_seed(self.loop.seed * 1_000_003 + epoch)
        self._begin_head(generator)
        x_NP = whitened(features_ND, self.config.pca_dim)
        clusters_N = kmeans(x_NP, self.config.num_clusters, self.config.iterations, generator)
        self.clusters_used = int(clusters_N.bincount().count_nonzero())
        return balanced_order(clusters_N, generator), clusters_N

    @torch.no_grad()
    def _begin_head(self, generator: torch.Generator) -> None:
        weight_KD = torch.randn(self.head.weight.shape, generator=generator, dtype=self.head.weight.dtype)
        self.head.weight.copy_(HEAD_DEVIATION * weight_KD)
        self.head.bias.zero_()
        for parameter in self.head.parameters():
            self.trainer.optimizers[0].state.pop(parameter, None)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step on uint8 images and their clusters."""
        x_BHWC, clusters_B = batch
        logits_BK = self.head(self.encoder(self.views(image_from_uint8(x_BHWC))))
        loss = cluster_loss(logits_BK, clusters_B)
        told = (logits_BK.argmax(dim=1) == clusters_B).float().mean()
        figures = {"loss": loss, "cluster_accuracy": told, "clusters_used": float(self.clusters_used)}
        self.log_dict(figures, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """How often the head puts an unseen image and a view of it into the same of the last epoch's clusters."""
        x_BCHW = image_from_uint8(x_BHWC)
        of_image_B, of_view_B = (self.head(self.encoder(x)).argmax(dim=1) for x in (x_BCHW, self.views(x_BCHW)))
        self.log("test_same_cluster", (of_image_B == of_view_B).float().mean(), batch_size=len(x_BHWC))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with a warm-up, then a cosine to zero; biases and norms, which are vectors, do not decay."""
        weights = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": weights, "weight_decay": self.config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate)
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))
