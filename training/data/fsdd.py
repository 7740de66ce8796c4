"""Free Spoken Digit Dataset: 3,000 clips of ten digits by six speakers, 8 kHz.

Read from `$LATENTSERVE_DATA/fsdd/recordings` if LATENTSERVE_DATA is set, else downloaded once to
`~/.cache/latentserve`. A file is called {digit}_{speaker}_{index}.wav; labels are digits,
groups are speakers, and index 0 to 4 is the official test split. Twenty clips are longer than the second that a row
holds by default and are cut around their centre.
Source: Jackson et al., https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
from torchvision.datasets.utils import download_and_extract_archive

from latentserve.audio import AudioError, decode_audio
from training.data.rows import Data, DataError, Rows, split_off
from training.data.source import CACHE, given_folder

SAMPLE_RATE_HZ = 8000
NUM_SAMPLES = 8000
NUM_CALIBRATION = 300
NUM_TEST_PER_DIGIT = 5
NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
ARCHIVE = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
ADVICE = "clone https://github.com/Jakobovski/free-spoken-digit-dataset to X/fsdd and set LATENTSERVE_DATA to X"


def load(sample_rate_hz: int | None, num_samples: int | None, seed: int) -> Data:
    """2,400 training rows, 300 of the official training split for calibration, the official 300 for test.

    Raises:
        DataError: the clips are not there or cannot be downloaded, one cannot be decoded, or another rate is asked for.
    """
    if sample_rate_hz not in (None, SAMPLE_RATE_HZ):
        raise DataError(f"sample_rate_hz: got {sample_rate_hz}, expected {SAMPLE_RATE_HZ}: fsdd has no other")
    given = given_folder()
    folder = given / "fsdd" / "recordings" if given else downloaded(ARCHIVE, CACHE)
    if not folder.is_dir():
        raise DataError(f"fsdd: got no folder {folder}, expected the clips there: {ADVICE}")
    named = [(file, found) for file in sorted(folder.glob("*.wav")) if (found := NAME.fullmatch(file.name))]
    if not named:
        raise DataError(f"fsdd: got no {{digit}}_{{speaker}}_{{index}}.wav in {folder}: {ADVICE}")
    values = np.empty((len(named), num_samples or NUM_SAMPLES), np.int16)
    for row, (file, _) in enumerate(named):
        try:
            values[row] = decode_audio(file.read_bytes(), SAMPLE_RATE_HZ, values.shape[1])
        except AudioError as error:
            raise DataError(f"{file}: {error}") from error
    digits, speakers, indices = zip(*(found.groups() for _, found in named), strict=True)
    order = np.random.default_rng([seed, len(named)]).permutation(len(named))
    groups_N = np.unique(speakers, return_inverse=True)[1].astype(np.int64)
    names_N = np.array([file.name for file, _ in named], np.object_)
    clips = Rows(values, np.array(digits, np.int64), groups_N, names_N=names_N).take(order)
    is_test_N = np.array(indices, np.int64)[order] < NUM_TEST_PER_DIGIT
    test = clips.take(is_test_N)
    rest = clips.take(~is_test_N).without(test).with_twins()
    train, calibration = split_off(rest, min(NUM_CALIBRATION, len(rest) // 2), seed)
    return Data("fsdd", train, calibration, test, SAMPLE_RATE_HZ)


def downloaded(url: str, cache: Path) -> Path:
    """The folder of the clips in the cache, filled by the archive if it is not there: whole, or not at all.

    Raises:
        DataError: the archive cannot be fetched, or is not what it should be.
    """
    folder = cache / "fsdd" / "recordings"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=cache) as beside:
            download_and_extract_archive(url, beside)
            found = next(Path(beside).glob("*/recordings"), None)
            if found is None:
                raise OSError("there is no folder of recordings in it")
            found.rename(folder)
    except (OSError, RuntimeError, ValueError, EOFError, zlib.error, tarfile.TarError) as error:
        if folder.is_dir():  # another process was faster
            return folder
        raise DataError(f"fsdd: the download of {url} to {cache} failed ({error}): {ADVICE}") from error
    return folder
