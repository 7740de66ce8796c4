"""A trained torch model as an `Encode`, and the untrained network that it began as."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from training.data import Data
from training.data.lazy import batch_rows, parts_of
from training.data.rows import Values
from training.evaluation.baselines import Encode
from training.methods.encoding import Encoder, as_encoder
from training.preprocessing import floats_from_rows
from training.running.run import Run


def encoders(model: Encoder, data: Data) -> tuple[Encode, Encode | None]:
    """Rows to embeddings, and to latents where the model has them."""
    latent = torch_encoder(model, "latent") if _has_latents(model.eval(), data) else None
    return torch_encoder(model), latent


def torch_encoder(model: Encoder, tensor: Literal["embedding", "latent"] = "embedding") -> Encode:
    """Rows to embeddings or latents through a model in eval mode, without gradients, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = model.eval().requires_grad_(False).to(device)

    def parts(rows: Values) -> Iterator[NDArray[np.float32]]:
        for some in parts_of(rows, batch_rows(rows)):
            part = torch.from_numpy(np.ascontiguousarray(some)).to(device)
            yield getattr(encoder.encode(floats_from_rows(part)), tensor).cpu().numpy()

    def encode(rows: Values) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.concatenate([*parts(rows)])

    return encode


def _has_latents(model: Encoder, data: Data) -> bool:
    with torch.no_grad():
        encoding = model.encode(floats_from_rows(torch.from_numpy(np.asarray(data.test.values[:2]))))
    return encoding.latent is not None


def untrained(run: Run) -> Encoder:
    """The network of a run as its training began."""
    torch.manual_seed(run.loop.seed)
    return as_encoder(run.build())


def weights_sha256(model: Encoder) -> str:
    """sha256 of every parameter and buffer, running statistics included, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
