from __future__ import annotations

import contextlib
import io
import struct
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from latentserve.audio import AudioError, decode_audio, fit_clip

RATE = 8000


def wav(samples: Any, subtype: str = "PCM_16", rate: int = RATE, form: str = "WAV") -> bytes:
    """A WAV as libsndfile writes it."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype, format=form)
    return buffer.getvalue()


def tone(num_samples: int = 500) -> Any:
    return np.sin(np.arange(num_samples) * 0.1) * 0.7


def patched(data: bytes, offset: int, layout: str, value: int) -> bytes:
    return data[:offset] + struct.pack(layout, value) + data[offset + struct.calcsize(layout) :]


@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_every_encoding_gives_the_samples_that_libsndfile_reads(subtype: str, form: str) -> None:
    data = wav(tone(), subtype, form=form)
    oracle, _ = soundfile.read(io.BytesIO(data), dtype="float64")
    steps = 256 if subtype == "PCM_U8" else 1
    np.testing.assert_allclose(decode_audio(data, RATE, 500), oracle * 32768, atol=steps)
    if subtype != "FLOAT":
        exact, _ = soundfile.read(io.BytesIO(data), dtype="int16")
        np.testing.assert_array_equal(decode_audio(data, RATE, 500), exact)


def test_stereo_is_averaged() -> None:
    both = np.stack([np.full(10, 100, np.int16), np.full(10, 300, np.int16)], axis=1)
    assert decode_audio(wav(both), RATE, 10).tolist() == [200] * 10


def test_loud_floats_are_clipped() -> None:
    samples = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    assert decode_audio(wav(samples, "FLOAT"), RATE, 5).tolist() == [-32768, -32768, 0, 32767, 32767]


def test_a_long_clip_is_cut_at_its_centre_and_a_short_one_padded_at_its_end() -> None:
    clip = np.arange(1, 11, dtype=np.int16)
    assert decode_audio(wav(clip), RATE, 4).tolist() == [4, 5, 6, 7]
    assert decode_audio(wav(clip), RATE, 12).tolist() == [*range(1, 11), 0, 0]
    np.testing.assert_array_equal(fit_clip(clip[:, None], 4), decode_audio(wav(clip), RATE, 4))


def test_chunks_before_and_after_the_samples_are_stepped_over() -> None:
    data = wav(np.arange(6, dtype=np.int16))
    note = b"note" + struct.pack("<I", 3) + b"odd\0"  # a body of odd size has a byte of padding
    assert decode_audio(data[:12] + note + data[12:] + note, RATE, 6).tolist() == [0, 1, 2, 3, 4, 5]


WHOLE = wav(tone())
BAD: list[tuple[str, bytes, str]] = [
    ("empty", b"", "got 0 bytes beginning b'', expected a WAV file"),
    ("text", b"hello world, I am no sound", "got 26 bytes beginning b'hello world,', expected a WAV file"),
    ("FLAC", wav(tone(), form="FLAC"), "beginning b'fLaC.*expected a WAV file"),
    ("rate", wav(tone(), rate=16000), "sample rate: got 16000 Hz, expected 8000 Hz"),
    ("no samples", wav(np.zeros(0)), "got no samples, expected at least one"),
    ("truncated", WHOLE[:-100], "truncated: got 900 bytes in chunk 'data', expected 1000"),
    ("header only", WHOLE[:36], "got 36 bytes without a 'data' chunk"),
    ("half a header", WHOLE[:30], "truncated: got 10 bytes in chunk 'fmt ', expected 16"),
    ("no format", WHOLE[:12] + WHOLE[36:], "got samples without a 'fmt ' chunk"),
    ("short format", patched(WHOLE, 16, "<I", 4), "got 4 bytes of 'fmt ', expected 16 or more"),
    ("half a sample", patched(WHOLE, 40, "<I", 999), "got 999 bytes of samples, expected a multiple of 2"),
    ("mu-law", wav(tone(), "ULAW"), "got format tag 7 with 8 bits, expected PCM"),
    ("double", wav(tone(), "DOUBLE"), "got format tag 3 with 64 bits"),
    ("channels", wav(np.zeros((9, 3))), "got 3 channels, expected 1 or 2"),
    ("frame size", patched(WHOLE, 32, "<H", 4), "got 4 bytes a frame, expected 2"),
    ("NaN", wav(np.full(9, np.nan), "FLOAT"), "got NaN or infinite samples"),
    ("infinity", wav(np.full(9, np.inf), "FLOAT"), "got NaN or infinite samples"),
]


@pytest.mark.parametrize(("data", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_no_clip_of_the_model_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(AudioError, match=said):
        decode_audio(data, RATE, 500)


def outcome(data: bytes) -> None:
    with contextlib.suppress(AudioError):
        assert decode_audio(data, RATE, 50).shape == (50,)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_row_or_our_own_error(data: bytes) -> None:
    outcome(data)
    outcome(b"RIFF\0\0\0\0WAVE" + data)


@settings(max_examples=300)
@given(st.sampled_from(["PCM_U8", "PCM_24", "FLOAT"]), st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255))))
def test_a_file_with_changed_bytes_gives_a_row_or_our_own_error(subtype: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(wav(tone(60), subtype))
    for offset, value in changes:
        data[offset] = value
    outcome(bytes(data))
