"""Sound through the whole line: trained, exported, served, asked with WAV files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from export.exporter import export_run
from export.graphs import EncoderGraph, GraphRunner, export_graph
from latentserve import bundle
from latentserve.client import Client
from latentserve.errors import InvalidInput, Unsupported
from latentserve.inputs import AudioInput
from latentserve.v1 import embedding_pb2 as pb
from training.__main__ import Options, run_training
from training.data import AudioShape
from training.methods.cpc_audio import CpcAudio, CpcAudioConfig
from training.preprocessing import waveform_from_int16
from training.running.run import load_model, open_run
from training.schedule import LoopConfig

SMALL: dict[str, Any] = {"num_filters": 8, "width": 16, "num_steps": 3}
NUM_SAMPLES = 4000


@pytest.fixture(scope="module")
def audio_run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of CPC on tones."""
    loop = LoopConfig(epochs=2, batch_rows=2)
    run = tmp_path_factory.mktemp("runs") / "cpc_audio"
    options = Options(f"audio:{tones}", num_samples=NUM_SAMPLES, run=run, loop=loop)
    return run_training("cpc_audio", CpcAudioConfig(**SMALL), options)


@pytest.fixture(scope="module")
def audio_repository(audio_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with audio-cpc_audio version 1."""
    models = tmp_path_factory.mktemp("models")
    export_run(audio_run, models)
    return models


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def audio_client(
    audio_repository: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Client]:
    """A client of a server over it, once on each transport."""
    log = tmp_path_factory.mktemp("server") / "log"
    with (
        ServedProcess(audio_repository, log, ("--transport", request.param)) as process,
        Client(process.target) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def clips(audio_run: Path) -> NDArray[np.int16]:
    """Rows of different lengths, one of them all zeros."""
    rows = open_run(audio_run)[0].load_data().train.values[:9].copy()
    rows[4] = 0
    return rows


@pytest.fixture(scope="module")
def expected(audio_run: Path, clips: NDArray[np.int16]) -> NDArray[np.float32]:
    """What the trained torch model gives for them."""
    model: Any = load_model(audio_run, open_run(audio_run)[0])
    with torch.no_grad():
        embeddings: NDArray[np.float32] = model.encode(waveform_from_int16(torch.from_numpy(clips))).embedding.numpy()
    return embeddings


def wav(samples: NDArray[Any], rate: int = 8000, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype, format="WAV")
    return buffer.getvalue()


def close(got: NDArray[Any], expected: NDArray[Any]) -> None:
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_bundle_of_sound_says_so(audio_repository: Path) -> None:
    folder = audio_repository / "audio-cpc_audio" / "1"
    manifest = bundle.load(folder)
    assert manifest.input == AudioInput(8000, NUM_SAMPLES)
    assert {figure.name for figure in manifest.evaluations} >= {"linear_probe_accuracy", "knn_20_accuracy"}
    (given,) = onnx.load(folder / "encoder.onnx").graph.input
    assert given.type.tensor_type.elem_type == onnx.TensorProto.INT16
    assert [axis.dim_value for axis in given.type.tensor_type.shape.dim[1:]] == [NUM_SAMPLES]


def test_wav_files_and_arrays_get_the_embedding_of_the_trained_model(
    audio_client: Client, clips: NDArray[np.int16], expected: NDArray[np.float32], tones: Path, tmp_path: Path
) -> None:
    close(audio_client.embed(clips), expected)
    files = [wav(np.trim_zeros(clip, "b")) for clip in clips[:4]]
    (tmp_path / "clip.wav").write_bytes(files[0])
    close(audio_client.embed([*files, tmp_path / "clip.wav"]), expected[[0, 1, 2, 3, 0]])
    as_floats, stereo = clips[0] / 32768, np.stack([clips[1], clips[1]], axis=1)
    close(audio_client.embed([wav(as_floats, subtype="FLOAT"), wav(stereo)]), expected[:2])


def test_the_model_says_what_sound_it_takes(audio_client: Client) -> None:
    model = audio_client.get_model().model
    assert model.modality == pb.MODALITY_AUDIO
    assert (model.audio.sample_rate_hz, model.audio.num_samples) == (8000, NUM_SAMPLES)
    assert (model.input.dtype, list(model.input.shape)) == (pb.DATA_TYPE_INT16, [NUM_SAMPLES])
    assert audio_client.list_models().models[0] == model


def test_bad_sound_is_refused_by_item_and_the_server_goes_on(audio_client: Client, clips: NDArray[np.int16]) -> None:
    good = wav(clips[0])
    for bad, said in (
        (wav(clips[0], 16000), "sample rate: got 16000 Hz, expected 8000 Hz"),
        (wav(clips[0][:0]), "got no samples, expected at least one"),
        (good[:-10], "truncated: got 7990 bytes in chunk 'data', expected 8000"),
        (wav(np.full(9, np.nan), subtype="FLOAT"), "got NaN or infinite samples"),
        (b"\x89PNG, not sound", "expected a WAV file"),
    ):
        with pytest.raises(InvalidInput, match=rf"items\[1\]: .*{said}"):
            audio_client.embed([good, bad, good])
    with pytest.raises(InvalidInput, match=r"items: got uint8 \[1, 4000\], expected int16 \[n, 4000\]"):
        audio_client.embed(np.zeros((1, NUM_SAMPLES), np.uint8))
    with pytest.raises(Unsupported, match="has no output reconstruction"):
        audio_client.reconstruct(clips[:1])
    assert audio_client.embed([good]).shape == (1, 96)


@pytest.mark.parametrize("context", ["conv", "gru"])
def test_both_contexts_export(context: Any, clips: NDArray[np.int16], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CpcAudio(CpcAudioConfig(**SMALL, context=context), LoopConfig(), AudioShape(8000, NUM_SAMPLES)).eval()
    example = {"input": torch.from_numpy(clips[:2])}
    graph = export_graph(EncoderGraph(model), example, ["embedding"], tmp_path / "encoder.onnx")
    with torch.no_grad():
        expected = model.encode(waveform_from_int16(torch.from_numpy(clips))).embedding.numpy()
    for batch_rows in (1, 4, 9):
        close(GraphRunner(tmp_path, [graph]).run(clips, batch_rows)["embedding"], expected)
