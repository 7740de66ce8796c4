"""What several tests share: one small trained run, its bundle, and the real server over it."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import inspect
import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from benchmarks.processes.served import ServedProcess
from latentserve import bundle, records
from latentserve.bundle import Manifest
from latentserve.client import Client
from latentserve.lock import held

hypothesis.settings.register_profile("shared", deadline=None)  # these machines' cores are others', too
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "shared")


SLOW_SECONDS = 300
"""For a slow test, where cores are shared; others have pyproject.toml's limit."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: whatever comes last is short, and no worker is left alone with minutes of work."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def common(factory: pytest.TempPathFactory) -> Path:
    """The folder that all workers of this test run see."""
    of_worker = factory.getbasetemp()
    return of_worker.parent if "PYTEST_XDIST_WORKER" in os.environ else of_worker


def made_once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], object]) -> Path:
    """A copy of a folder that one worker of this test run makes for all.

    Args:
        name: of the folder.
        factory: of this worker.
        make: fills a folder that is there and empty; it gets its final name once it is whole.
    """
    shared, locked = common(factory) / f"shared-{name}", common(factory) / f"lock-{name}"
    locked.mkdir(exist_ok=True)
    with held(locked, wait=True):
        if not shared.exists():
            half = factory.mktemp(name) / "half"
            half.mkdir()
            make(half)
            half.rename(shared)
    return Path(shutil.copytree(shared, factory.mktemp(name), dirs_exist_ok=True))


@contextlib.contextmanager
def written_once(folder: Path) -> Iterator[None]:
    """Within, exports write one graph of modules that are equal, all weights included; what `folder` has is copied."""
    import torch

    from export import exporter, graphs

    write = exporter.export_graph

    def once(module: Any, example: Any, outputs: Any, path: Path) -> Any:
        torch.save((module, example, list(outputs)), held := io.BytesIO())
        kept = folder / hashlib.sha256(held.getvalue()).hexdigest()
        if kept.exists():
            shutil.copy(kept, path)
            return graphs.graph_of(path)
        graph = write(module, example, outputs, path)
        half = Path(shutil.copy(path, kept.with_suffix(f".{os.getpid()}")))
        half.rename(kept)
        return graph

    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "export_graph", once)
        yield


@pytest.fixture(scope="module")
def graphs_are_written_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For tests that export one run again and again, and change nothing of how a module computes."""
    with written_once(common(tmp_path_factory) / "graphs"):
        yield


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run: the VAE on digits, two epochs on 512 rows; not to be changed."""

    def make(folder: Path) -> None:
        from training.__main__ import Options, run_training
        from training.methods.vae import VaeConfig

        config = VaeConfig(latent_dim=8, embedding_dim=32, width=8)
        run_training("vae", config, Options(smoke=True, run=folder / "vae"))

    return made_once("runs", tmp_path_factory, make) / "vae"


@pytest.fixture(scope="session")
def repository(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with digits-vae version 1; not to be changed."""

    def make(folder: Path) -> None:
        from export.exporter import export_run

        with written_once(common(tmp_path_factory) / "graphs"):
            export_run(run_folder, folder)

    return made_once("models", tmp_path_factory, make)


@pytest.fixture(scope="session")
def bundle_folder(repository: Path) -> Path:
    """The bundle in it; not to be changed."""
    return repository / "digits-vae" / "1"


@pytest.fixture(scope="session")
def versions(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits-vae version 1 and, by another number, the same as version 2; not to be changed."""
    model = tmp_path_factory.mktemp("versions") / "digits-vae"
    for number in (1, 2):
        shutil.copytree(bundle_folder, model / str(number))
    manifest = records.read(Manifest, model / "2" / bundle.MANIFEST)
    records.write(replace(manifest, version=2), model / "2" / bundle.MANIFEST)
    return model


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


@pytest.fixture(autouse=True, scope="session")
def _classes_are_found_once() -> Iterator[None]:
    """At each call of a command tyro looks for each class of options in its file: half the time that a call takes."""
    find = inspect.findsource
    of_class = functools.cache(find)

    def found(one: Any) -> Any:
        if inspect.isclass(one) and one.__module__ == "types":  # made by make_dataclass: it stands in no file
            raise OSError("could not find class definition")
        return of_class(one) if inspect.isclass(one) else find(one)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "findsource", found)
        yield


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()


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
