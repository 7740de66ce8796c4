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


def sized(data: bytes, riff_bytes: int, data_bytes: int) -> bytes:
    """A WAV with other lengths in its header."""
    return patched(patched(data, 4, "<I", riff_bytes), data.index(b"data") + 4, "<I", data_bytes)


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


@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        *(("WAV", subtype) for subtype in ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "DOUBLE")),
        *(("WAVEX", subtype) for subtype in ("ULAW", "DOUBLE")),
        *(("RF64", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT")),
        *(("FLAC", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24")),
    ],
)
def test_what_people_record_with_is_read_and_cut_as_libsndfile_reads_it(form: str, subtype: str) -> None:
    data = wav(tone(2000), subtype, form=form)
    oracle, _ = soundfile.read(io.BytesIO(data), dtype="float64")
    np.testing.assert_allclose(decode_audio(data, RATE, len(oracle)), oracle * 32768, atol=1)
    first = (len(oracle) - 300) // 2
    np.testing.assert_allclose(decode_audio(data, RATE, 300), oracle[first : first + 300] * 32768, atol=1)


def test_big_endian_wav_is_read() -> None:
    clip = np.arange(-300, 300, dtype=np.int16)
    header = struct.pack(
        ">4sI4s4sIHHIIHH4sI", b"RIFX", 1236, b"WAVE", b"fmt ", 16, 1, 1, RATE, 16000, 2, 16, b"data", 1200
    )
    samples = clip.astype(">i2").tobytes()
    np.testing.assert_array_equal(decode_audio(header + samples, RATE, 600), clip)
    pcm = struct.pack(">HHIIHHHHII8B", 0xFFFE, 1, RATE, 16000, 2, 16, 22, 16, 0, 1, 0, 0, 0, 16, 128, 0, 0, 170)
    extensible = b"RIFX" + struct.pack(">I", 1260) + b"WAVEfmt " + struct.pack(">I", 40) + pcm + b"\0\x38\x9b\x71"
    with_data = extensible + b"data" + struct.pack(">I", 1200) + samples
    np.testing.assert_array_equal(
        decode_audio(with_data, RATE, 600), soundfile.read(io.BytesIO(with_data), dtype="int16")[0]
    )


@pytest.mark.parametrize("data_bytes", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "IMA_ADPCM"])
def test_a_wav_from_a_pipe_is_read_to_its_end(data_bytes: int, subtype: str) -> None:
    whole = wav(tone(505), subtype)
    streamed = sized(whole, data_bytes, data_bytes)
    np.testing.assert_array_equal(decode_audio(streamed, RATE, 505), decode_audio(whole, RATE, 505))


def test_a_wav_whose_recorder_was_stopped_is_read_to_its_end() -> None:
    for riff_bytes in (0, 36):  # never filled in, or filled in before there were samples
        np.testing.assert_array_equal(
            decode_audio(sized(WHOLE, riff_bytes, 0), RATE, 500), decode_audio(WHOLE, RATE, 500)
        )
    with pytest.raises(AudioError, match="got no samples"):  # a file that says how long it is, and has none
        decode_audio(sized(WHOLE, len(WHOLE) - 8, 0), RATE, 500)


@pytest.mark.parametrize(("subtype", "num_samples"), [("PCM_16", 500), ("PCM_24", 501)])
def test_a_byte_of_padding_that_was_counted_is_no_sample(subtype: str, num_samples: int) -> None:
    whole = wav(tone(num_samples), subtype)
    at = whole.index(b"data")
    (size,) = struct.unpack_from("<I", whole, at + 4)
    whole = whole[: at + 8 + size]
    expected = decode_audio(whole, RATE, num_samples)
    for data in (whole + b"\0", whole):  # as counted, or counted and never written
        np.testing.assert_array_equal(decode_audio(sized(data, size + 37, size + 1), RATE, num_samples), expected)


def test_a_flac_that_is_cut_or_damaged_is_refused() -> None:
    whole = wav(np.random.default_rng(0).normal(size=4000) * 0.1, form="FLAC")
    damaged = patched(whole, len(whole) // 2, "B", whole[len(whole) // 2] ^ 0x10)
    for data in (whole[: len(whole) // 2], damaged):
        with pytest.raises(AudioError, match="got a corrupt FLAC|truncated"):
            decode_audio(data, RATE, 4000)


def test_a_flac_that_does_not_say_how_long_it_is_is_refused() -> None:
    whole = wav(tone(), form="FLAC")
    at = 8 + 13  # the number of samples: the lower 36 bits of 8 bytes; RFC 9639, section 8.2
    streamed = whole[:at] + bytes([whole[at] & 0xF0]) + bytes(4) + whole[at + 5 :]
    with pytest.raises(AudioError, match="got a FLAC that does not say how long it is"):
        decode_audio(streamed, RATE, 500)


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
STEREO = wav(np.stack([tone(), tone()], axis=1))
BAD: list[tuple[str, bytes, str]] = [
    ("empty", b"", "got 0 bytes beginning b'', expected a WAV file"),
    ("text", b"hello world, I am no sound", "got 26 bytes beginning b'hello world,', expected a WAV file"),
    ("AIFF", wav(tone(), form="AIFF"), "beginning b'FORM.*expected a WAV file or a FLAC file"),
    ("FLAC of another rate", wav(tone(), rate=16000, form="FLAC"), "sample rate: got 16000 Hz, expected 8000 Hz"),
    ("FLAC of three channels", wav(np.zeros((9, 3)), form="FLAC"), "got 3 channels, expected 1 or 2"),
    ("FLAC alone", b"fLaC and no more", "got a FLAC of 16 bytes that libsndfile does not read"),
    ("rate", wav(tone(), rate=16000), "sample rate: got 16000 Hz, expected 8000 Hz"),
    ("no samples", wav(np.zeros(0)), "got no samples, expected at least one"),
    ("truncated", WHOLE[:-100], "truncated: got 900 bytes in chunk 'data', expected 1000"),
    ("header only", WHOLE[:36], "got 36 bytes without a 'data' chunk"),
    ("half a header", WHOLE[:30], "truncated: got 10 bytes in chunk 'fmt ', expected 16"),
    ("no format", WHOLE[:12] + WHOLE[36:], "got samples without a 'fmt ' chunk"),
    ("short format", patched(WHOLE, 16, "<I", 4), "got 4 bytes of 'fmt ', expected 16 or more"),
    ("half a frame", sized(STEREO, len(STEREO) - 8, 1998), "got 1998 bytes of samples, expected a multiple of 4"),
    ("GSM", wav(tone(), "GSM610"), "got format tag 49 with 0 bits, expected PCM, MS ADPCM, float, A-law, mu-law, IMA"),
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
    outcome(b"fLaC" + data)


@settings(max_examples=300)
@given(
    st.sampled_from(["PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"]),
    st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255))),
)
def test_a_file_with_changed_bytes_gives_a_row_or_our_own_error(subtype: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(wav(tone(60), subtype))
    for offset, value in changes:
        data[offset] = value
    outcome(bytes(data))
