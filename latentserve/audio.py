"""How a WAV file becomes the samples a model was trained on.

Training reads audio folders through this file and the service decodes requests through it, so that a clip gives
the same samples on both sides: int16, one channel, cut around its centre or padded with zeros at its end to the
model's window. Nothing is ever resampled: a clip of another rate is an error.

The parser is ours because WAV is simple and needs no library: the standard library's `wave` reads no floats, and
`soundfile` would bring a C library that parses untrusted files into the service.
Source: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (1991), RIFF and WAVE.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
ENCODINGS = ((PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32))
"""Format tag and bits of a sample."""
CHANNELS = (1, 2)


class AudioError(ValueError):
    """The bytes are not audio we take. The message says what was got and expected."""


@dataclass(frozen=True)
class _Format:
    tag: int
    channels: int
    sample_rate_hz: int
    frame_bytes: int
    bits: int


def decode_audio(data: bytes, sample_rate_hz: int, num_samples: int) -> NDArray[np.int16]:
    """Decodes one WAV to int16 [num_samples]; of a longer clip only the window around its centre is ever touched.

    Args:
        data: the bytes of the file: PCM of 8, 16, 24 or 32 bits or float of 32 bits; stereo is averaged.
        sample_rate_hz: that the clip must have.
        num_samples: of the result.

    Raises:
        AudioError: empty, no WAV, another encoding or rate, more than two channels, truncated, no sample at all, or
            a sample that is NaN or infinite.
    """
    samples, form = _find_samples(data)
    if form.sample_rate_hz != sample_rate_hz:
        raise AudioError(f"sample rate: got {form.sample_rate_hz} Hz, expected {sample_rate_hz} Hz; resample the clip")
    num_frames, rest = divmod(len(samples), form.frame_bytes)
    if rest:
        raise AudioError(f"got {len(samples)} bytes of samples, expected a multiple of {form.frame_bytes}")
    first = _centre(num_frames, num_samples)
    window = samples[first * form.frame_bytes : (first + num_samples) * form.frame_bytes]
    return fit_clip(_to_int16(window, form).reshape(-1, form.channels), num_samples)


def fit_clip(frames_TC: NDArray[np.int16], num_samples: int) -> NDArray[np.int16]:
    """int16 [num_samples]: channels averaged, the centre of a longer clip, a shorter one with zeros at its end.

    Raises:
        AudioError: no sample at all, or more than two channels.
    """
    num_frames, channels = frames_TC.shape
    if channels not in CHANNELS:
        raise AudioError(f"got {channels} channels, expected 1 or 2")
    if num_frames == 0:
        raise AudioError("got no samples, expected at least one")
    first = _centre(num_frames, num_samples)
    kept_TC = frames_TC[first : first + num_samples]
    row_T = np.zeros(num_samples, np.int16)
    row_T[: len(kept_TC)] = np.rint(kept_TC.mean(axis=1, dtype=np.float32))
    return row_T


def _centre(got: int, num_samples: int) -> int:
    """Where the centred window of `num_samples` begins in a clip of `got` samples."""
    return max(0, (got - num_samples) // 2)


def _find_samples(data: bytes) -> tuple[memoryview, _Format]:
    """Walks the chunks of a RIFF file up to the samples."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise AudioError(f"got {len(data)} bytes beginning {data[:12]!r}, expected a WAV file")
    form = None
    start = 12
    while start + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, start)
        body = memoryview(data)[start + 8 : start + 8 + size]
        if len(body) < size and name in (b"fmt ", b"data"):
            raise AudioError(f"truncated: got {len(body)} bytes in chunk {name.decode()!r}, expected {size}")
        if name == b"fmt ":
            form = _read_format(body)
        elif name == b"data":
            if form is None:
                raise AudioError("got samples without a 'fmt ' chunk before them")
            return body, form
        start += 8 + size + size % 2  # chunks begin at even offsets
    raise AudioError(f"got {len(data)} bytes without a 'data' chunk, expected samples")


def _read_format(body: memoryview) -> _Format:
    if len(body) < 16:
        raise AudioError(f"got {len(body)} bytes of 'fmt ', expected 16 or more")
    tag, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", body)
    if tag == EXTENSIBLE and len(body) >= 26:
        (tag,) = struct.unpack_from("<H", body, 24)  # the sub-format's identifier begins with the tag
    if (tag, bits) not in ENCODINGS:
        raise AudioError(
            f"got format tag {tag} with {bits} bits, expected PCM of 8, 16, 24 or 32 bits or float of 32 bits"
        )
    if channels not in CHANNELS:
        raise AudioError(f"got {channels} channels, expected 1 or 2")
    if frame_bytes != channels * bits // 8:
        raise AudioError(f"got {frame_bytes} bytes a frame, expected {channels * bits // 8}")
    return _Format(tag, channels, rate, frame_bytes, bits)


def _to_int16(samples: memoryview, form: _Format) -> NDArray[np.int16]:
    """The upper 16 bits of integers; floats of -1 to 1 rounded, beyond that clipped."""
    if form.tag == FLOAT:
        floats = np.frombuffer(samples, "<f4")
        if not np.isfinite(floats).all():
            raise AudioError("got NaN or infinite samples, expected finite numbers")
        return np.rint(np.clip(floats.astype(np.float64) * 32768, -32768, 32767)).astype(np.int16)
    if form.bits == 8:
        return (np.frombuffer(samples, "u1").astype(np.int16) - 128) * np.int16(256)
    planes = np.frombuffer(samples, "u1").reshape(-1, form.bits // 8)
    return np.ascontiguousarray(planes[:, -2:]).view("<i2")[:, 0].astype(np.int16)
