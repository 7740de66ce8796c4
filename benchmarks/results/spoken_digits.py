"""How much of the digit an audio encoder tells of a speaker whose labels the probe never saw, beside its baselines.

    python -m training cpc_audio --data fsdd --run runs/fsdd
    python -m benchmarks.results.spoken_digits runs/fsdd

One linear probe on standardised features for each speaker: fitted on all clips of the others, evaluated on
all of theirs; the figure is the mean over speakers. The encoder saw the training clips of all speakers, no labels.
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

from training.data import AudioShape, Rows
from training.evaluation.probes import leave_one_group_out_accuracies
from training.preprocessing import floats_from_rows
from training.running.run import load_model, open_run

NUM_MELS = 40
NUM_CEPSTRA = 13
TINY_POWER = 1e-7


@dataclass(frozen=True)
class Options:
    """Leave-one-speaker-out accuracy of a run.

    Attributes:
        run: folder that `python -m training cpc_audio` left behind.
    """

    run: Annotated[Path, tyro.conf.Positional]


def main(options: Options) -> int:
    """Prints one line for the encoder and one for each baseline; returns the exit status."""
    run, trained = open_run(options.run)
    assert isinstance(run.shape, AudioShape)
    data = run.load_data()
    clips = all_rows(data.train, data.calibration, data.test)
    torch.manual_seed(run.loop.seed)
    untrained = run.build().eval()
    assert clips.labels_N is not None
    assert clips.groups_N is not None
    features: dict[str, NDArray[Any]] = {
        f"{run.method}, {trained.epochs} epochs in {trained.seconds:.0f} s": embed(
            load_model(options.run, run), clips.values
        ),
        "baseline: the same network untrained": embed(untrained, clips.values),
        "baseline: log-mel": log_mel_statistics(clips.values, run.shape.sample_rate_hz),
        "baseline: MFCC": log_mel_statistics(clips.values, run.shape.sample_rate_hz, NUM_CEPSTRA),
    }
    for name, features_ND in features.items():
        accuracy = leave_one_group_out_accuracies(features_ND, clips.labels_N, clips.groups_N).mean()
        print(f"{name:<50} {features_ND.shape[1]:4d} features  {accuracy:.2%}", flush=True)
    return 0


def all_rows(*splits: Rows) -> Rows:
    """Several splits as one."""
    parts = {
        name: np.concatenate([getattr(split, name) for split in splits]) for name in ("values", "labels_N", "groups_N")
    }
    return Rows(parts["values"], parts["labels_N"], parts["groups_N"])


def embed(model: Any, values: NDArray[np.int16]) -> NDArray[np.float32]:
    """Embeddings in torch, [N, D]."""
    with torch.no_grad():
        parts = [model.encode(floats_from_rows(part)).embedding for part in torch.split(torch.from_numpy(values), 200)]
    embeddings: NDArray[np.float32] = torch.cat(parts).numpy()
    return embeddings


def log_mel_statistics(
    values_NT: NDArray[np.int16], sample_rate_hz: int, num_cepstra: int | None = None
) -> NDArray[np.float64]:
    """Mean and standard deviation over the frames with sound: of the log-mel spectrum, or of its first cepstra."""
    hop, length = sample_rate_hz // 100, sample_rate_hz // 40  # every 10 ms, 25 ms long
    hertz = np.linspace(0, sample_rate_hz / 2, length // 2 + 1)
    highest_mel = 2595 * np.log10(1 + sample_rate_hz / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest_mel, NUM_MELS + 2) / 2595) - 1)
    rising = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hertz) / np.diff(edges)[1:, None]
    filters_FW = np.minimum(rising, falling).clip(min=0)
    cosines_FK = np.cos(np.pi / NUM_MELS * np.outer(np.arange(NUM_MELS) + 0.5, np.arange(num_cepstra or 0)))
    rows = []
    for clip_T in values_NT / 32768:
        frames_NW = np.lib.stride_tricks.sliding_window_view(clip_T, length)[::hop]
        frames_NW = frames_NW[np.abs(frames_NW).sum(axis=1) > 0]
        power_NF = np.abs(np.fft.rfft(frames_NW * np.hanning(length))) ** 2 @ filters_FW.T
        x_NF = np.log(power_NF + TINY_POWER)
        x_NF = x_NF if num_cepstra is None else x_NF @ cosines_FK
        rows.append(np.concatenate([x_NF.mean(axis=0), x_NF.std(axis=0)]))
    return np.array(rows)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.spoken_digits")))
