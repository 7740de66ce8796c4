"""Several processes as a user starts them, and what is said of those that cannot be or that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.__main__ import main
from training.options import OptionError
from training.running.launching import THREADS, check_ranks, told
from training.running.processes import VARIABLES, check_devices, place
from training.running.run import CHECKPOINT, open_run

ROOT = Path(__file__).resolve().parents[3]
SECONDS_TO_END = 60
SMALL = ["--data", "digits[label=0,1]", "--batch-rows", "64", "--width", "4", "--latent-dim", "3"]


@pytest.fixture(autouse=True)
def started_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def as_of_torchrun(monkeypatch: pytest.MonkeyPatch, rank: int, num_ranks: int, local_ranks: int) -> None:
    numbers = (rank, num_ranks, rank % local_ranks, local_ranks)
    for name, value in zip(VARIABLES, [*map(str, numbers), "127.0.0.1", "1"], strict=True):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--devices", "0"], "devices: got 0, expected 1 or more"),
        (["--nodes", "-1"], "nodes: got -1, expected 1 or more"),
        (
            ["--devices", "2", "--batch-rows", "255"],
            "batch_rows: got 255 for 2 processes, expected a multiple of 2: each takes as many rows of a batch",
        ),
        (
            ["--devices", "2", "--compiled"],
            "compiled: got True with 2 processes, expected False: the two were never tried",
        ),
        (["--devices", "2", "--data", "nothing"], "data: got 'nothing', expected"),
        (
            ["--devices", "8", "--nodes", "2"],
            "nodes: got 2 without torchrun, expected on each of the 2 machines: torchrun --nnodes 2 --nproc-per-node 8"
            " --rdzv-backend c10d --rdzv-endpoint HOST:29400 -m -- training vae --devices 8 --nodes 2",
        ),
    ],
)
def test_what_cannot_be_is_said_before_any_process_is_started(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.__main__.launch", lambda *_: pytest.fail("it was started"))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert main(["vae", *arguments]) == 1
    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert not list(Path().iterdir())


def test_a_run_that_is_there_is_not_started_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.__main__.launch", lambda *_: pytest.fail("it was started"))
    Path("mine").mkdir()
    (Path("mine") / "run.json").write_text("{}")
    assert main(["vae", "--devices", "2", "--run", "mine"]) == 1
    assert (
        capsys.readouterr().err
        == "error: mine: there is a run already; pass --resume to go on with it, or another --run\n"
    )


def test_processes_are_those_that_torchrun_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place() is None
    as_of_torchrun(monkeypatch, 5, 8, 4)
    here = place()
    assert here is not None
    assert (here.rank, here.local_rank, here.num_nodes) == (5, 1, 2)
    for asked in ((None, None), (4, 2), (4, None)):
        assert not check_ranks(*asked, "vae")
    for devices, nodes, said in (
        (2, None, "devices: got 2, expected 4, as many as torchrun started, or none"),
        (None, 3, "nodes: got 3, expected 2, as many as torchrun started, or none"),
    ):
        with pytest.raises(OptionError, match=f"^{said}$"):
            check_ranks(devices, nodes, "vae")
    as_of_torchrun(monkeypatch, 0, 1, 1)
    assert place() is None


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(2)
    with pytest.raises(OptionError, match="^devices: got 3, expected at most 2: each process takes a cuda"):
        check_devices(3)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-9, "error: rank 1 (process 17) was ended by SIGKILL, the others with it; go on with --resume"),
        (1, "stopped: rank 1 (process 17) failed, the others were ended"),
    ],
)
def test_a_rank_that_failed_is_named(code: int, said: str) -> None:
    failure: Any = SimpleNamespace(pid=17, exitcode=code, signal_name=lambda: signal.Signals(-code).name)
    assert told(1, failure) == said


def ranks_of(launcher: int) -> dict[str, int]:
    """The processes of a launcher by their rank."""
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        variables = dict(one.partition("=")[::2] for one in Path(f"/proc/{child}/environ").read_text().split("\0"))
        if "RANK" in variables:
            found[variables["RANK"]] = int(child)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the processes")
def test_a_rank_that_dies_ends_the_job_with_its_name_and_the_run_goes_on_with_one_process() -> None:
    arguments = [*SMALL, "--epochs", "120", "--run", "mine"]
    command = [sys.executable, "-m", "training", "vae", *arguments, "--devices", "2"]
    environment = {name: value for name, value in os.environ.items() if name != THREADS} | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        while not (Path("mine") / CHECKPOINT).exists():
            assert job.poll() is None
            time.sleep(0.02)
        killed = ranks_of(job.pid)["1"]
        os.kill(killed, signal.SIGKILL)
        began = time.monotonic()
        _, errors = job.communicate(timeout=SECONDS_TO_END)
        assert time.monotonic() - began < SECONDS_TO_END
    assert job.returncode == 1
    assert f"error: rank 1 (process {killed}) was ended by SIGKILL, the others with it; go on with --resume" in errors
    assert main(["--resume", "--run", "mine"]) == 0
    _, trained = open_run(Path("mine"))
    assert [row["epoch"] for row in trained.history] == list(range(120))
