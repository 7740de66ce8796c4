"""What layer-wise pretraining is worth where labels are few: a DBN's layers fine-tuned, against random ones.

    python -m benchmarks.results.dbn_labels build/recipes/dbn_mnist/.../seed0 --record
    python -m benchmarks.results.dbn_labels --table

A softmax goes on top of the last layer and everything is fine-tuned on so many labels, as many of each class. The same
network from random weights (PyTorch's own for a linear layer, also Glorot's for sigmoids, whichever does better) is
trained alike. Of some learning rates each start takes the one that a fifth of its labels, held out, prefers; then it
learns from all of them. Test rows are looked at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from latentserve import records
from training.methods.dbn import Dbn
from training.running.run import load_model, open_run

RECORD = Path(__file__).resolve().parents[2] / "docs" / "results" / "dbn_labels.json"
RATES = (3e-4, 1e-3, 3e-3)
EPOCHS, BATCH_ROWS = 100, 100
HELD_OUT = 5
"""One label of so many chooses the rate."""


@dataclass(frozen=True)
class Options:
    """Fine-tunes both starts on few labels.

    Attributes:
        run: folder of a finished run of `dbn`.
        num_labels: in all.
        draws: of the labels.
        record: keep the figures in docs/results/dbn_labels.json.
        table: print what was recorded, and do nothing else.
    """

    run: Annotated[Path, tyro.conf.Positional] = Path()
    num_labels: int = 1000
    draws: tuple[int, ...] = (0, 1, 2)
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Figures:
    """Test errors of one draw, by where the weights started.

    Attributes:
        draw: of the labels.
        num_labels: in all.
        errors: share of the test rows that is wrong, by start.
        rates: learning rate that was chosen, by start.
    """

    draw: int
    num_labels: int
    errors: dict[str, float]
    rates: dict[str, float]


@dataclass(frozen=True)
class Record:
    """What is kept.

    Attributes:
        data: of the run.
        layers: units of each.
        git_revision: of the code that trained the DBN.
        figures: by draw.
    """

    data: str
    layers: tuple[int, ...]
    git_revision: str
    figures: tuple[Figures, ...]


def layers_of(model: Dbn) -> nn.Sequential:
    """A copy of the way up."""
    copy = nn.Sequential(nn.Flatten())
    for layer in (one for one in model.encoder if isinstance(one, nn.Linear)):
        copied = nn.Linear(layer.in_features, layer.out_features)
        copied.load_state_dict(layer.state_dict())
        copy.extend([copied, nn.Sigmoid()])
    return copy


def started(model: Dbn, start: str) -> nn.Sequential:
    """The way up with the weights of a start, and a softmax on top whose weights are 0."""
    net = layers_of(model)
    for layer in (one for one in net if isinstance(one, nn.Linear)):
        if start == "random":
            layer.reset_parameters()
        if start == "Glorot":
            nn.init.xavier_uniform_(
                layer.weight, gain=4.0
            )  # for sigmoids: Glorot and Bengio, AISTATS 2010, section 4.2
            nn.init.zeros_(layer.bias)
    top = nn.Linear(model.config.layers[-1], 10)
    nn.init.zeros_(top.weight)
    nn.init.zeros_(top.bias)
    return net.append(top)


def tuned(net: nn.Sequential, x_NCHW: Tensor, labels_N: Tensor, rate: float, seed: int) -> nn.Sequential:
    """The same network after training with a cosine to zero."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), rate)
    num_steps = EPOCHS * -(-len(x_NCHW) // BATCH_ROWS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(x_NCHW), generator=generator), BATCH_ROWS):
            optimizer.zero_grad()
            F.cross_entropy(net(x_NCHW[rows]), labels_N[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return net


@torch.no_grad()
def error(net: nn.Sequential, x_NCHW: Tensor, labels_N: Tensor) -> float:
    """Share of the rows that are wrong."""
    return float((net(x_NCHW).argmax(dim=1) != labels_N).float().mean())


def best_rate(start: Callable[[], nn.Sequential], x_NCHW: Tensor, labels_N: Tensor, seed: int) -> float:
    """The rate with the lowest error on labels that were held out."""
    held = torch.arange(len(x_NCHW)) % HELD_OUT == 0

    def held_error(rate: float) -> float:
        net = tuned(start(), x_NCHW[~held], labels_N[~held], rate, seed)
        return error(net, x_NCHW[held], labels_N[held])

    return min(RATES, key=held_error)


def drawn(labels_N: np.ndarray, num: int, draw: int) -> np.ndarray:
    """Rows with as many labels of each class, in random order."""
    random, classes = np.random.default_rng(draw), np.unique(labels_N)
    chosen = [random.choice(np.flatnonzero(labels_N == one), num // len(classes), replace=False) for one in classes]
    rows: np.ndarray = random.permutation(np.concatenate(chosen))
    return rows


def measured(options: Options) -> Record:
    """Both starts, for each draw of labels."""
    run, _ = open_run(options.run)
    model, data = load_model(options.run, run), run.load_data()
    if not isinstance(model, Dbn):
        raise ValueError(f"run: got one of {run.method}, expected one of dbn")
    labels_N, test_labels_N = data.train.labels_N, data.test.labels_N
    assert labels_N is not None
    assert test_labels_N is not None
    test = _images(data.test.values), torch.from_numpy(np.asarray(test_labels_N)).long()
    found = []
    for draw in options.draws:
        rows = drawn(labels_N, options.num_labels, draw)
        given = _images(data.train.values[rows]), torch.from_numpy(labels_N[rows]).long()
        errors, rates = dict[str, float](), dict[str, float]()
        for name in ("DBN", "random", "Glorot"):

            def start(name: str = name, draw: int = draw) -> nn.Sequential:
                torch.manual_seed(draw)
                return started(model, name)

            rates[name] = best_rate(start, *given, draw)
            errors[name] = error(tuned(start(), *given, rates[name], draw), *test)
        found.append(Figures(draw, options.num_labels, errors, rates))
        print(found[-1], file=sys.stderr, flush=True)
    return Record(data.spec, model.config.layers, run.git_revision, tuple(found))


def _images(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values)).permute(0, 3, 1, 2).float() / 255


def table(record: Record) -> str:
    """As Markdown."""
    rows = ["| weights start at | labels | test error, mean | draws |", "| --- | ---: | ---: | --- |"]
    for name in record.figures[0].errors:
        errors = [one.errors[name] for one in record.figures]
        each = ", ".join(f"{value:.2%}" for value in errors)
        rows.append(f"| {name} | {record.figures[0].num_labels} | {np.mean(errors):.2%} | {each} |")
    return "\n".join(rows)


def main(options: Options) -> int:
    """Prints the table."""
    record = records.read(Record, RECORD) if options.table else measured(options)
    if options.record:
        records.write(record, RECORD)
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.dbn_labels")))
