"""docs/guides/wrong.md: each usual mistake is made, and what the user sees is what the page says."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

from benchmarks.processes.served import ServedProcess
from latentserve.cli.main import main
from tests.export.sources import files
from tests.mapped import with_map
from training.running.run_folder import held

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guides" / "wrong.md"
BROKEN = b"hello"


def sections() -> dict[str, str]:
    """Of each mistake what the page says one sees."""
    parts = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    found = {part.splitlines()[0]: re.search(r"```\{\.text \.wrap\}\n(.*?)\n```", part, re.DOTALL) for part in parts}
    return {name: block[1] for name, block in found.items() if block}


class Scene:
    """A user in a folder with some files, beside a server.

    Args:
        server: of digits; ports are told as the usual ones.
        capsys: of the test.
    """

    def __init__(self, server: ServedProcess, capsys: pytest.CaptureFixture[str]) -> None:
        self.target = server.target
        self.metrics = server.metrics_url.split("/")[2]
        self._capsys = capsys

    def told(self, *arguments: str, target: str = "", status: int = 1) -> str:
        """What a command of the client says, its first line."""
        assert main([*arguments, "--target", target or self.target]) == status
        return self.first(*self._capsys.readouterr())

    def said(self, *arguments: str, status: int = 1) -> str:
        """What another command says last."""
        assert main(list(arguments)) == status
        return self._capsys.readouterr().err.strip().splitlines()[-1]

    def err(self) -> str:
        """What stands on standard error."""
        return self._capsys.readouterr().err.strip()

    @staticmethod
    def first(out: str, err: str) -> str:
        """Of the item if it is its fault, else of all."""
        return (out or err).strip().splitlines()[0]


def no_server(scene: Scene) -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = scene.told("score", "digit.png", "--timeout", "2", target=f"127.0.0.1:{port}")
    return said.replace(f":{port}", ":50051")


def wrong_port(scene: Scene) -> str:
    return scene.told("score", "digit.png", target=scene.metrics).replace(scene.metrics, "127.0.0.1:9464")


def missing_extra(_: Scene) -> str:
    code = "import sys; sys.modules['torch'] = None; from latentserve.cli.main import main; sys.exit(main(['train']))"
    return python("-c", code, status=1)


def at_work(scene: Scene) -> str:
    folder = Path("runs/digits")
    folder.mkdir(parents=True)
    with held(folder):
        return scene.said("train", "vae", "--data", "digits", "--run", str(folder), "--smoke")


def run_exists(scene: Scene) -> str:
    folder = Path("runs/digits")
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    return scene.said("train", "vae", "--data", "digits", "--run", str(folder), "--smoke")


def ctrl_c(_: Scene) -> str:
    command = [sys.executable, "-m", "latentserve", "train", "vae", "--epochs", "500", "--run", "runs/digits"]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a shell's background jobs ignore it
    ) as training:
        assert training.stderr is not None
        assert training.stderr.readline().startswith("epoch 1/500")
        training.send_signal(signal.SIGINT)
        said = training.stderr.read().strip().splitlines()[-1]
        assert training.wait(60) == 130
    return said


def full_disk(scene: Scene) -> str:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    given = [*("score", "digit.png", "--format", "csv", "--target"), scene.target]
    with Path("/dev/full").open("w") as full:
        return python("-m", "latentserve", *given, status=1, stdout=full)


def unknown_option(scene: Scene) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(["score", "digit.png", "--alph", "0.1"])
    return scene.err()


def port_taken(scene: Scene) -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        Path("models").mkdir()
        said = scene.said("serve", "--models", "models", "--port", port, "--metrics-port", "0")
    return said.replace(port, "50051")


def no_bundle(scene: Scene) -> str:
    Path("models").mkdir()
    return scene.said("serve", "--models", "models", "--port", "0", "--metrics-port", "0")


def imported(scene: Scene, source: str, *options: str, data: str = "digits") -> str:
    return scene.said("import", source, "--data", data, "--to", "models", *options)


def of_another_network(scene: Scene) -> str:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), "squeezenet.pth")
    return imported(scene, "torchvision:resnet18=squeezenet.pth")


def wants_code(scene: Scene) -> str:
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), "net.pth")
    return imported(scene, "torchvision:resnet18=net.pth")


def tokens(scene: Scene) -> str:
    flat = files.node("Reshape", ["map", "flat_shape"], ["flat"])
    nodes = [*files.features(), flat, files.node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1])]
    shape = {"flat_shape": np.array([0, files.DIM, -1])}
    outputs = [files.output("tokens", "n", files.HEIGHT * files.WIDTH, files.DIM)]
    files.write(Path("tokens.onnx"), [files.images()], nodes, outputs, weights=shape)
    return imported(scene, "onnx:tokens.onnx")


def two_inputs(scene: Scene) -> str:
    inputs = [files.images(name="left"), files.images(name="right")]
    outputs = [files.output("sum", "n", 3, files.HEIGHT, files.WIDTH)]
    files.write(Path("two.onnx"), inputs, [files.node("Add", ["left", "right"], ["sum"])], outputs)
    return imported(scene, "onnx:two.onnx")


def any_size(scene: Scene) -> str:
    given = files.output("pixels", "n", 3, "height", "width", dtype=files.FLOAT)
    outputs = [files.output("features", "n", files.DIM)]
    files.write(Path("any.onnx"), [given], [*files.features(), *files.vector()], outputs)
    return imported(scene, "onnx:any.onnx")


def too_few_to_calibrate(scene: Scene) -> str:
    Path("few").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (60, 24, 24, 3), np.uint8)):
        Image.fromarray(pixels).save(f"few/{number}.png")
    network = "python:tests.export.sources.tiny:net"
    return imported(scene, network, "--image-size", "24", "--alpha", "0.01", data="folder:few")


def missing_in_list(scene: Scene) -> str:
    Path("list.csv").write_text("path\ndigit.jpg\n")
    return scene.said("train", "vae", "--data", "csv:list.csv")


def no_transformers(scene: Scene) -> str:
    Path("dinov2").mkdir()
    for name in ("config.json", "model.safetensors"):
        Path("dinov2", name).touch()
    with mock.patch.dict(sys.modules, {"transformers": None}):
        return imported(scene, "hf:dinov2")


def another_job(scene: Scene) -> str:
    pytest.importorskip("pyarrow", reason="the extra `bulk`")
    scene.told("embed", "digit.png", "--to", "out.parquet", status=0)
    return scene.told("score", "digit.png", "--to", "out.parquet")


def no_job(scene: Scene) -> str:
    pytest.importorskip("pyarrow", reason="the extra `bulk`")
    Path("mine.parquet").mkdir()
    Path("mine.parquet/rows.parquet").touch()
    return scene.told("embed", "digit.png", "--to", "mine.parquet")


def two_jobs(scene: Scene) -> str:
    pytest.importorskip("pyarrow", reason="the extra `bulk`")
    Path("out.parquet").mkdir()
    with held(Path("out.parquet")):
        return scene.told("embed", "digit.png", "--to", "out.parquet")


def another_space(scene: Scene) -> str:
    pytest.importorskip("pyarrow", reason="the extra `bulk`")
    from tests.latentserve.bulk.writing import write_job

    write_job(Path("out.parquet"), np.ones((3, 4), np.float32))
    said = scene.told("neighbours", "out.parquet", "--query", "digit.png")
    return re.sub(r"'es1-[0-9a-f]+'", "'es1-b'", said).replace("es-fake", "es1-a")


def no_pyarrow(scene: Scene) -> str:
    with mock.patch.dict(sys.modules, {"pyarrow": None, "pyarrow.parquet": None}):
        return scene.told("embed", "digit.png", "--to", "out.parquet")


def python(*arguments: str, status: int, stdout: Any = subprocess.PIPE) -> str:
    done = subprocess.run([sys.executable, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stderr.strip().splitlines()[-1]


MISTAKES: dict[str, Callable[[Scene], str]] = {
    "No server is running": no_server,
    "Wrong port": wrong_port,
    "Wrong model": lambda scene: scene.told("score", "digit.png", "--model", "photos"),
    "Images as floats from 0 to 1": lambda scene: scene.told("score", "float.npy"),
    "Wrong channels": lambda scene: scene.told("score", "colour.npy"),
    "Wrong size": lambda scene: scene.told("score", "large.npy"),
    "Alpha below the smallest p-value": lambda scene: scene.told("score", "digit.png", "--alpha", "0.001"),
    "Empty folder": lambda scene: scene.told("score", "empty"),
    "Too few images to train on": lambda scene: scene.said("train", "vae", "--data", "folder:empty"),
    "An extra is not installed": missing_extra,
    "A run is there already": run_exists,
    "Two trainings in one run folder": at_work,
    "Ctrl-C": ctrl_c,
    "The disk is full": full_disk,
    "Unknown option": unknown_option,
    "Unknown command": lambda scene: scene.said("scor", "digit.png", status=2),
    "A file that cannot be read": lambda scene: scene.told("score", "broken.jpg"),
    "A path that is not there": lambda scene: scene.told("score", "digts.png"),
    "The port is taken": port_taken,
    "No bundle to serve": no_bundle,
    "Weights of another network": of_another_network,
    "A checkpoint that wants code": wants_code,
    "A vector for each place, none for the image": tokens,
    "A network with two inputs": two_inputs,
    "A network for images of any size": any_size,
    "Too few images to calibrate": too_few_to_calibrate,
    "A folder that is no MVTec folder": lambda scene: scene.said("train", "vae", "--data", "mvtec:empty"),
    "A list that names a missing file": missing_in_list,
    "A share that cannot calibrate": lambda scene: scene.said("train", "vae", "--calibration-share", "1.5"),
    "A library of the source is missing": no_transformers,
    "A folder of another job": another_job,
    "A folder that is no job's": no_job,
    "Two jobs on one folder": two_jobs,
    "Parquet without its library": no_pyarrow,
    "A query of another embedding space": another_space,
}
OF_SOUND = "Wrong sample rate"
OF_NO_MAP = "A map of a model that has none"


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: NDArray[np.uint8], encode: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("digit.png").write_bytes(encode(digits[0]))
    Path("broken.jpg").write_bytes(BROKEN)
    Path("empty").mkdir()
    np.save("float.npy", np.full((2, 8, 8, 1), 0.5, np.float32))
    np.save("colour.npy", np.zeros((2, 8, 8, 3), np.uint8))
    np.save("large.npy", np.zeros((2, 28, 28, 1), np.uint8))
    soundfile.write("clip.wav", np.zeros(8000, np.int16), 16000)


@pytest.mark.parametrize("name", MISTAKES)
def test_what_a_user_sees_is_what_the_page_says(
    name: str, digits_server: ServedProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert MISTAKES[name](Scene(digits_server, capsys)) == sections()[name]


@pytest.mark.slow
def test_a_clip_of_another_rate(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from export.exporter import export_run
    from training.__main__ import Options, run_training
    from training.methods.cpc_audio import CpcAudioConfig
    from training.schedule import LoopConfig

    options = Options(f"audio:{tones}", num_samples=4000, run=tmp_path / "run", loop=LoopConfig(1, 2))
    export_run(
        run_training("cpc_audio", CpcAudioConfig(num_filters=8, width=16, num_steps=3), options),
        Path("models"),
        report="none",
    )
    with ServedProcess(Path("models"), tmp_path / "log") as server:
        assert Scene(server, capsys).told("embed", "clip.wav") == sections()[OF_SOUND]


def test_a_map_where_there_is_none(
    bundle_folder: Path, digits: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("digits-plain", "digits-vae"):
        folder = tmp_path / "models" / name / "1"
        shutil.copytree(bundle_folder, folder)
        with_map(folder, digits[:50], name, has_map=name == "digits-vae")
    with ServedProcess(tmp_path / "models", tmp_path / "log") as server:
        scene = Scene(server, capsys)
        assert scene.told("score", "digit.png", "--model", "digits-plain", "--maps") == sections()[OF_NO_MAP]


def test_the_page_has_no_other_mistakes() -> None:
    assert list(sections()) == [*MISTAKES, OF_SOUND, OF_NO_MAP]
