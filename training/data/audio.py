"""A user's own folder of WAV and FLAC files, read at any depth.

If all clips lie in subfolders, the first folder's name is the label (only ever used to report figures). A file that
cannot be decoded, or holds no sample, is skipped, counted and named. Files go through `latentserve.audio`, the same
as in the service, so that a file sent there gives the samples that were trained on.

A file of another sample rate than the rest is an error: nothing is resampled. With --sample-rate-hz the files of
that rate are taken and the others skipped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentserve import records
from latentserve.audio import SUFFIXES, AudioError, decode_audio, sample_rate_of
from training.data.files import files_in
from training.data.folder import with_names
from training.data.grouping import GroupBy
from training.data.rows import Data, DataError, Rows, three_splits
from training.data.shares import Calibration

MIN_CLIPS = 20
LARGEST_SET_BYTES = 8 * 2**30
"""Clips are held in memory, whatever their number."""


def load(
    path: str,
    sample_rate_hz: int | None,
    num_samples: int | None,
    seed: int,
    group_by: GroupBy | None = None,
    calibration: Calibration | None = None,
) -> Data:
    """80 % training rows, 10 % for calibration, 10 % for test, drawn by the seed.

    Args:
        path: of the folder.
        sample_rate_hz: of the clips to take; None for the one rate that all of them have.
        num_samples: of a row; None for one second.
        seed: draws the splits and the order.
        group_by: which clips are of one recording.
        calibration: how many calibrate.

    Raises:
        DataError: no such folder, too few clips in it, clips of several rates, more than memory should hold, or what to
            group by says nothing about them.
    """
    clips, rate = read(path, sample_rate_hz, num_samples, group_by)
    order = np.random.default_rng([seed, len(clips)]).permutation(len(clips))
    return three_splits(f"audio:{path}", clips.take(order), seed, rate, calibration=calibration)


def read(
    path: str,
    sample_rate_hz: int | None,
    num_samples: int | None,
    group_by: GroupBy | None = None,
    at_least: int = MIN_CLIPS,
) -> tuple[Rows, int]:
    """All clips of a folder, and their sample rate.

    Raises:
        DataError: as `load`, of fewer than `at_least` clips.
    """
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        raise DataError(f"audio: got {path!r}, expected a folder of WAV or FLAC files (audio:PATH)")
    files = files_in(folder, SUFFIXES)
    if group_by and files:
        group_by.of_files(files)  # an error of it must not come after an hour of decoding
    rows, kept, rate = _decode_all(files, sample_rate_hz, num_samples)
    if len(kept) < at_least:
        raise DataError(f"audio: got {len(kept)} readable clips under {folder}, expected at least {at_least}")
    units_N = group_by.of_files(kept) if group_by else None
    named = [file.relative_to(folder) for file in kept]
    return with_names(Rows(rows, units_N=units_N), named), rate


def _decode_all(
    files: list[Path], wanted_hz: int | None, num_samples: int | None
) -> tuple[NDArray[np.int16], list[Path], int]:
    """The rows, the files they came from, and their sample rate."""
    rows: list[NDArray[np.int16]] = []
    kept: list[Path] = []
    rate = wanted_hz
    for file in files:
        try:
            data = file.read_bytes()
            got = sample_rate_of(data)
            if wanted_hz is None and rate not in (None, got):
                raise DataError(
                    f"{file}: sample rate: got {got} Hz, expected {rate} Hz as in {kept[0]};"
                    " resample it, or name the rate of the clips to take with --sample-rate-hz"
                )
            row = decode_audio(data, rate or got, num_samples or rate or got)
        except (AudioError, OSError) as error:
            print(records.printable(f"skipped {file}: {error}"), file=sys.stderr)
            continue
        rate = rate or got
        rows.append(row)
        kept.append(file)
        if (size := len(files) * row.nbytes) > LARGEST_SET_BYTES:
            raise DataError(f"audio: {len(files)} rows are {size} bytes, expected at most {LARGEST_SET_BYTES}")
    if len(kept) < len(files):
        print(f"skipped {len(files) - len(kept)} of {len(files)} clips", file=sys.stderr)
    return np.stack(rows) if rows else np.zeros((0, 0), np.int16), kept, rate or 0
