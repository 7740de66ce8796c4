"""How a WAV or FLAC file becomes the samples a model was trained on.

Training reads audio folders through this file and the service decodes requests through it, so that a clip becomes
the same samples on both sides: int16, one channel, cropped around its centre or padded with zeros at its end to the
model's window. Nothing is ever resampled: a clip of another rate is an error.

libsndfile decodes (`soundfile`; extras `serve` and `train`); why: ADR 15. What it silently accepts is checked here
first: truncated samples, and lengths that a writer to a pipe could not fill in.
Source: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (1991), RIFF and WAVE; EBU
Tech 3306 for RF64.
"""

from __future__ import annotations

import io
import struct

import numpy as np
import soundfile
from numpy.typing import NDArray

SUFFIXES = {".wav", ".wave", ".flac"}
CHANNELS = (1, 2)
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
ENCODINGS = {PCM: "PCM", 2: "MS ADPCM", FLOAT: "float", 6: "A-law", 7: "mu-law", 17: "IMA ADPCM"}
"""By format tag. The rest of what libsndfile reads in a WAV (MP3, GSM, G.721) is rare and has no sample boundaries."""
BYTE_ORDERS = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">"}
FLAC = b"fLaC"
UNKNOWN_BYTES = 0x7FFF_0000
"""A chunk of this stated length is as long as the file: sox writes 0x7FFFF000 into a pipe, ffmpeg 0xFFFFFFFF."""
NO_LENGTH = 2**62
"""libsndfile's number of samples where a FLAC says none is 2**63 - 1."""


class AudioError(ValueError):
    """The bytes are not audio that is supported. The message says what was got and expected."""


def decode_audio(data: bytes, sample_rate_hz: int, num_samples: int) -> NDArray[np.int16]:
    """Decodes one WAV or FLAC to int16 [num_samples]; of a longer clip only the window around its centre is decoded.

    Args:
        data: the bytes of the file: WAV (RIFF, RIFX, RF64) of PCM, float, A-law, mu-law or ADPCM, or FLAC; stereo is
            averaged.
        sample_rate_hz: that the clip must have.
        num_samples: of the result.

    Raises:
        AudioError: empty, neither WAV nor FLAC, another encoding or rate, more than two channels, truncated, corrupt,
            without a sample, or with one that is NaN or infinite.
    """
    with _opened(data) as clip:
        if clip.samplerate != sample_rate_hz:
            raise AudioError(f"sample rate: got {clip.samplerate} Hz, expected {sample_rate_hz} Hz; resample the clip")
        if clip.channels not in CHANNELS:
            raise AudioError(f"got {clip.channels} channels, expected 1 or 2")
        if clip.frames >= NO_LENGTH:
            raise AudioError("got a FLAC that does not say how long it is, as if from a pipe; write it to a file")
        is_float = clip.subtype in ("FLOAT", "DOUBLE")
        wanted = min(num_samples, clip.frames)
        try:
            if (first := _centre(clip.frames, num_samples)) > 0:
                clip.seek(first)
            window_TC = clip.read(wanted, dtype="float64" if is_float else "int16", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"got a corrupt {clip.format} of {len(data)} bytes: {error.error_string}") from error
        if len(window_TC) < wanted:
            raise AudioError(f"truncated: got {len(window_TC)} samples from sample {first} on, expected {wanted}")
    return fit_clip(_to_int16(window_TC) if is_float else window_TC, num_samples)


def sample_rate_of(data: bytes) -> int:
    """The rate in Hz that a WAV or FLAC says it has. Raises AudioError if the bytes are neither."""
    with _opened(data) as clip:
        rate: int = clip.samplerate
    return rate


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


def _opened(data: bytes) -> soundfile.SoundFile:
    """Opens it with libsndfile. The thirty other formats that libsndfile reads are rejected before."""
    if data[:4] != FLAC:
        data = _with_true_length(data)
    try:
        return soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        kind = "FLAC" if data[:4] == FLAC else "WAV"
        said = error.error_string.strip()
        raise AudioError(f"got a {kind} of {len(data)} bytes that libsndfile does not read: {said}") from error


def _with_true_length(data: bytes) -> bytes:
    """The WAV unchanged if all its samples are there, with the length filled in where its writer could not."""
    if len(data) < 12 or data[:4] not in BYTE_ORDERS or data[8:12] != b"WAVE":
        raise AudioError(f"got {len(data)} bytes beginning {data[:12]!r}, expected a WAV file or a FLAC file")
    order = BYTE_ORDERS[data[:4]]
    frame_bytes, long_size, start = 0, UNKNOWN_BYTES, 12
    (riff_bytes,) = struct.unpack_from(f"{order}I", data, 4)  # without the first eight
    while start + 8 <= len(data):
        name, size = struct.unpack_from(f"{order}4sI", data, start)
        body = memoryview(data)[start + 8 : start + 8 + size]
        if name == b"ds64" and len(body) >= 16:
            (long_size,) = struct.unpack_from(f"{order}Q", body, 8)
        elif name == b"fmt ":
            frame_bytes = _frame_bytes(body, size, order)
        elif name == b"data":
            if not frame_bytes:
                raise AudioError("got samples without a 'fmt ' chunk before them")
            there = len(data) - start - 8
            if (size == 0 and riff_bytes <= start) or min(size, long_size) >= UNKNOWN_BYTES:
                return data[: start + 4] + struct.pack(f"{order}I", there) + data[start + 8 :]
            _check_samples(there, min(size, long_size), frame_bytes)
            return data
        start += 8 + size + size % 2  # chunks begin at even offsets
    raise AudioError(f"got {len(data)} bytes without a 'data' chunk, expected samples")


def _frame_bytes(body: memoryview, size: int, order: str) -> int:
    """Bytes of one frame, the samples of all channels at one time; 1 where they are compressed."""
    if len(body) < size:
        raise AudioError(f"truncated: got {len(body)} bytes in chunk 'fmt ', expected {size}")
    if size < 16:
        raise AudioError(f"got {size} bytes of 'fmt ', expected 16 or more")
    tag, channels, _, _, frame_bytes, bits = struct.unpack_from(f"{order}HHIIHH", body)
    if tag == EXTENSIBLE and size >= 28:
        (tag,) = struct.unpack_from(f"{order}I", body, 24)  # the sub-format's identifier begins with the tag
    if channels not in CHANNELS:
        raise AudioError(f"got {channels} channels, expected 1 or 2")
    if tag not in ENCODINGS:
        raise AudioError(f"got format tag {tag} with {bits} bits, expected {', '.join(ENCODINGS.values())}")
    if tag not in (PCM, FLOAT):
        return 1
    if frame_bytes != (expected := channels * -(-bits // 8)) or not expected:
        raise AudioError(f"got {frame_bytes} bytes a frame, expected {expected}")
    return int(expected)


def _check_samples(got: int, size: int, frame_bytes: int) -> None:
    """Raises AudioError for samples that libsndfile would silently shorten. One byte too many is padding."""
    rest = size % frame_bytes
    if got < size - rest:
        raise AudioError(f"truncated: got {got} bytes in chunk 'data', expected {size}")
    if rest > 1:
        raise AudioError(f"got {size} bytes of samples, expected a multiple of {frame_bytes}")


def _to_int16(floats_TC: NDArray[np.float64]) -> NDArray[np.int16]:
    """Floats of -1 to 1 rounded, beyond that clipped."""
    if not np.isfinite(floats_TC).all():
        raise AudioError("got NaN or infinite samples, expected finite numbers")
    return np.rint(np.clip(np.clip(floats_TC, -1, 1) * 32768, -32768, 32767)).astype(np.int16)
