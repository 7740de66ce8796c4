"""What several tests share: one small trained run, its bundle, and the real server over it."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from benchmarks.processes.served import ServedProcess
from latentserve.client import Client


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run: the VAE on digits, two epochs on 512 rows."""
    from training.__main__ import Options, run_training
    from training.methods.vae import VaeConfig

    folder = tmp_path_factory.mktemp("runs") / "vae"
    return run_training("vae", VaeConfig(latent_dim=8, embedding_dim=32, width=8), Options(smoke=True, run=folder))


@pytest.fixture(scope="session")
def repository(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with digits-vae version 1."""
    from export.exporter import export_run

    models = tmp_path_factory.mktemp("models")
    export_run(run_folder, models)
    return models


@pytest.fixture(scope="session")
def bundle_folder(repository: Path) -> Path:
    """The bundle in it; not to be changed."""
    return repository / "digits-vae" / "1"


@pytest.fixture(scope="session")
def versions(run_folder: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits-vae versions 1 and 2; not to be changed."""
    from export.exporter import export_run

    models = tmp_path_factory.mktemp("versions")
    shutil.copytree(repository, models, dirs_exist_ok=True)
    export_run(run_folder, models)
    return models / "digits-vae"


@pytest.fixture
def copied_bundle(bundle_folder: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be broken."""
    folder = tmp_path / "models" / "digits-vae" / "1"
    shutil.copytree(bundle_folder, folder)
    return folder


@pytest.fixture(scope="session", params=["http2", "grpcio"])
def server(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ServedProcess]:
    """The real server as its own process, once on each transport."""
    log = tmp_path_factory.mktemp("server") / "log"
    with ServedProcess(repository, log, ("--transport", request.param)) as process:
        yield process


@pytest.fixture(scope="session")
def digits_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    """The real server on its default transport, for tests to which transports are one."""
    with ServedProcess(repository, tmp_path_factory.mktemp("digits-server") / "log") as process:
        yield process


@pytest.fixture(scope="session")
def client(server: ServedProcess) -> Iterator[Client]:
    """A client of it."""
    with Client(server.target) as made:
        yield made


@pytest.fixture(scope="session")
def digits() -> NDArray[np.uint8]:
    """The test split of digits, uint8 [300, 8, 8, 1]."""
    from training.data import load_data

    return load_data("digits").test.values


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 clips at 8 kHz: up to half a second of a low or a high tone in noise."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    for i in range(40):
        kind, hertz = ("high", 1200) if i % 2 else ("low", 300)
        num_samples = 2000 + 50 * i
        tone = np.sin(2 * np.pi * hertz / 8000 * np.arange(num_samples)) * 8000
        (folder / kind).mkdir(exist_ok=True)
        clip = (tone + rng.normal(0, 500, num_samples)).astype(np.int16)
        soundfile.write(folder / kind / f"{i}.wav", clip, 8000)
    return folder


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LATENTSERVE_") and name != "LATENTSERVE_DATA":
            monkeypatch.delenv(name)


Encode = Callable[..., bytes]


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Encodes an image: `encode(array_or_image, "PNG")`."""

    def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return encoded
