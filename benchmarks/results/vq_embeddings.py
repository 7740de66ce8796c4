"""Which features of a VQ-VAE a linear probe reads most from: before or after a place was quantised, or both.

    python -m benchmarks.results.vq_embeddings build/recipes/vqvae_mnist/.../seed0 --record
    python -m benchmarks.results.vq_embeddings --table

Features of one trained run: the encoder's last ones, which are served, z, which is a linear map of them, the codes'
vectors, the first and the last beside each other, and how often each code occurs; pooled over the same cells. The probe
is that of the evaluation report.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from latentserve import records
from training.data.rows import Values
from training.evaluation.probes import linear_probe_accuracy
from training.methods.vqvae import VqVae
from training.networks.maps import pooled
from training.running.run import load_model, open_run

RECORD = Path(__file__).resolve().parents[2] / "docs" / "results" / "vq_embeddings.json"
AT_ONCE = 500


@dataclass(frozen=True)
class Options:
    """Probes the features of a run.

    Attributes:
        run: folder of a finished run of `vqvae`.
        record: keep the figures in docs/results/vq_embeddings.json.
        table: print what was recorded, and do nothing else.
    """

    run: Annotated[Path, tyro.conf.Positional] = Path()
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Record:
    """What is kept.

    Attributes:
        data: of the run.
        git_revision: of the code that trained.
        dims: numbers of each kind of features.
        accuracies: of a linear probe on test rows, by kind.
    """

    data: str
    git_revision: str
    dims: dict[str, int]
    accuracies: dict[str, float]


@torch.no_grad()
def features(model: VqVae, x_BCHW: Tensor) -> dict[str, Tensor]:
    """All kinds, of some rows."""
    cells, encoding = model.config.pooled_side, model.encode(x_BCHW)
    assert encoding.codes is not None
    assert encoding.latent is not None
    z = pooled(encoding.latent.view(len(x_BCHW), -1, *model.places), cells)
    z_q = pooled(model.vectors(encoding.codes), cells)
    one_hot = F.one_hot(encoding.codes.long(), model.config.codebook_size).float().mean(dim=(1, 2))
    found = {"last features": encoding.embedding, "z": z, "codes' vectors": z_q}
    return found | {
        "last features and codes' vectors": torch.cat([encoding.embedding, z_q], dim=1),
        "how often each code occurs": one_hot,
    }


def of_rows(model: VqVae, values: Values) -> dict[str, NDArray[Any]]:
    """All kinds, of all rows."""
    parts = []
    for start in range(0, len(values), AT_ONCE):
        x_BHWC = torch.from_numpy(np.asarray(values[start : start + AT_ONCE]))
        parts.append(features(model, x_BHWC.permute(0, 3, 1, 2) / 255))
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def measured(options: Options) -> Record:
    """A probe for each kind."""
    run, _ = open_run(options.run)
    model, data = load_model(options.run, run), run.load_data()
    if not isinstance(model, VqVae):
        raise ValueError(f"run: got one of {run.method}, expected one of vqvae")
    train, test = of_rows(model, data.train.values), of_rows(model, data.test.values)
    labels = data.train.labels_N, data.test.labels_N
    assert labels[0] is not None
    assert labels[1] is not None
    accuracies = {}
    for name in train:
        accuracies[name] = linear_probe_accuracy(train[name], labels[0], test[name], labels[1])
        print(f"{name}: {accuracies[name]:.4f}", file=sys.stderr, flush=True)
    return Record(data.spec, run.git_revision, {name: one.shape[1] for name, one in train.items()}, accuracies)


def table(record: Record) -> str:
    """As Markdown."""
    rows = ["| features | numbers | linear probe |", "| --- | ---: | ---: |"]
    rows += [f"| {name} | {record.dims[name]} | {value:.4f} |" for name, value in record.accuracies.items()]
    return "\n".join(rows)


def main(options: Options) -> int:
    """Prints the table."""
    record = records.read(Record, RECORD) if options.table else measured(options)
    if options.record:
        records.write(record, RECORD)
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.vq_embeddings")))
