"""Long rows of sound: what a method trains on that hears further than a clip.

Shape legend: N clips, T samples of a clip, M long rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LONG_ROW_SECONDS = 2.56
"""20,480 samples at 8 kHz: as many as a row of van den Oord et al., section 3.1, https://arxiv.org/abs/1807.03748."""


def long_rows(values_NT: NDArray[Any], groups_N: NDArray[np.int64] | None, num_samples: int) -> NDArray[np.int16]:
    """Clips of one group after another, without their padding, int16 [M, num_samples].

    Each sample is used at most once; what is left of a group at its end and fills no row is dropped. Where no clip
    holds any sound silence is not padding: it is what a microphone heard that was switched off.
    """
    silent = not values_NT.any()
    groups_N = np.zeros(len(values_NT), np.int64) if groups_N is None else groups_N
    parts = []
    for group in np.unique(groups_N):
        of_group = values_NT[groups_N == group]
        sound_T = np.concatenate([clip_T if silent else np.trim_zeros(clip_T, "b") for clip_T in of_group])
        num_rows = len(sound_T) // num_samples
        parts.append(sound_T[: num_rows * num_samples].reshape(num_rows, num_samples))
    return np.concatenate(parts)
