"""`make gpu`: its stages and time boxes, with fakes where only a GPU could answer; the whole of it is in
`test_gpu_rehearsal`."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import cells as cells_module
from benchmarks.gpu import engine as engine_stage
from benchmarks.gpu import machine as machine_module
from benchmarks.gpu import parity, preparing, serve, stage, table, train
from benchmarks.gpu.cells import Cells, Record, one_line, read_record, write_record
from benchmarks.gpu.check import Check
from benchmarks.gpu.machine import Machine, NoGpu, this_machine, too_old
from benchmarks.gpu.prepared import GREY, MODELS, SOUND, fresh_rows, models_of, rows_of
from benchmarks.gpu.preparing import splits
from latentserve import bundle
from latentserve.bundle import Parity
from service.scheduling.queue import Piece
from training.running.checkpoint import CheckpointError

GPU = Machine("a GPU", "cuda")
REHEARSAL = Machine("a CPU", "cpu")


def options(out: Path, seconds: float = 60.0, again: bool = False) -> stage.Options:
    return stage.Options("parity", seconds, out, out / "bundles", rehearse=True, again=again)


def recorded(out: Path) -> Record:
    record = read_record(out / "parity.json")
    assert record is not None
    return record


def run(figures: dict[str, Callable[[], Any]], checks: list[Check] | None = None) -> stage.Run:
    """A stage with these cells."""

    def of(machine: Machine, folder: Path, cells: Cells) -> list[Check]:
        for name, one in figures.items():
            cells.measure(name, one)
        return checks or []

    return of


def failing(error: BaseException) -> Callable[[], Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def test_a_cell_is_measured_once_and_one_that_failed_again(tmp_path: Path) -> None:
    counts = {"good": 0, "bad": 0}

    def good() -> dict[str, Any]:
        counts["good"] += 1
        return {"x": 1.5}

    def bad() -> dict[str, Any]:
        counts["bad"] += 1
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0\nfile=somewhere.cc line=300\n")

    cells = {"good": good, "bad": bad}
    assert stage.run_stage(run(cells), REHEARSAL, options(tmp_path)) == 1
    record = recorded(tmp_path)
    assert (record.status, record.why) == ("failed", "failed: bad")
    assert record.cells["good"]["x"] == 1.5
    assert record.cells["bad"]["error"] == "RuntimeError: CUDA failure 2: out of memory ; GPU=0"
    stage.run_stage(run(cells), REHEARSAL, options(tmp_path))
    assert counts == {"good": 1, "bad": 2}
    stage.run_stage(run(cells), REHEARSAL, options(tmp_path, again=True))
    assert counts == {"good": 2, "bad": 3}


def test_the_figures_of_another_machine_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    stage.run_stage(run({"x": lambda: {"v": 1}}), Machine("H100", "cuda"), options(tmp_path))
    stage.run_stage(run({"x": lambda: {"v": 2}}), Machine("H200", "cuda"), options(tmp_path))
    assert (recorded(tmp_path).machine, recorded(tmp_path).cells["x"]["v"]) == ("H200", 2)


def test_what_does_not_fit_into_the_time_box_is_left_and_measured_the_next_time(tmp_path: Path) -> None:
    cells = {"first": lambda: {"v": 1}, "second": lambda: {"v": 2}}
    assert stage.run_stage(run(cells), REHEARSAL, options(tmp_path, seconds=-1)) == 0
    record = recorded(tmp_path)
    assert (record.status, record.why) == ("partial", "no time left for 2 cells, first the first")
    stage.run_stage(run(cells), REHEARSAL, options(tmp_path))
    assert (recorded(tmp_path).status, len(recorded(tmp_path).cells)) == ("done", 2)


def test_ctrl_c_in_a_cell_keeps_the_cells_before_it(tmp_path: Path) -> None:
    cells: dict[str, Callable[[], Any]] = {"first": lambda: {"v": 1}, "second": failing(KeyboardInterrupt())}
    assert stage.run_stage(run(cells), REHEARSAL, options(tmp_path)) == stage.INTERRUPTED
    record = recorded(tmp_path)
    assert (record.status, record.why) == ("partial", "interrupted")
    assert record.cells["first"]["v"] == 1


def test_a_stage_that_breaks_says_why_in_one_line(tmp_path: Path) -> None:
    def breaks(machine: Machine, folder: Path, cells: Cells) -> list[Check]:
        raise ImportError("libcudnn.so.9: cannot open shared object file\nand a page more")

    assert stage.run_stage(breaks, REHEARSAL, options(tmp_path)) == 1
    assert recorded(tmp_path).why == "ImportError: libcudnn.so.9: cannot open shared object file"
    data = FileNotFoundError(errno.ENOENT, "No such file or directory", "cifar10/train.tar")
    assert stage.run_stage(lambda *_: failing(data)(), REHEARSAL, options(tmp_path)) == 1
    assert recorded(tmp_path).why.startswith("FileNotFoundError: [Errno 2] No such file")  # not "cannot be written"
    assert one_line(ValueError("x" * 1000)).endswith("...")
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_a_check_that_does_not_hold_fails_its_stage_and_one_not_measured_does_not(tmp_path: Path) -> None:
    checks = [Check.at_least("speed", 0.9, 0.97), Check.at_most("off", None, 1.0)]
    assert stage.run_stage(run({}, checks), GPU, options(tmp_path)) == 1
    assert recorded(tmp_path).why == "below requirement: speed"
    assert not Check.at_most("off", float("nan"), 1.0).holds
    assert stage.run_stage(run({}, checks[1:]), GPU, options(tmp_path, again=True)) == 0


def test_a_full_disk_keeps_what_was_written_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.run_stage(run({"first": lambda: {"v": 1}}), REHEARSAL, options(tmp_path))

    def full(path: Path, *_: Any, **__: Any) -> None:
        with path.open("w") as file:
            file.write("{half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            stage.run_stage(run({"second": lambda: {"v": 2}}), REHEARSAL, options(tmp_path))
    assert list(recorded(tmp_path).cells) == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["parity.json"]


@pytest.mark.parametrize(
    ("script", "code", "status", "why"),
    [
        ("kill -SEGV $$", 1, "failed", "ended by SIGSEGV"),
        ("exec sleep 60", 0, "partial", "its time was over, and its cell hung: parity was interrupted"),
        ("exit 3", 3, "done", ""),
    ],
)
def test_a_stage_that_crashes_or_hangs_ends_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, code: int, status: str, why: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(command, "GRACE_SECONDS", 0.3)
    write_record(Record("parity", "a CPU", "", "done", cells={"first": {"v": 1}}), tmp_path / "parity.json")
    given = command.Options(bundles=tmp_path, rehearse=True)
    assert command.run_one("parity", 0.3, REHEARSAL, given, tmp_path) == code
    record = recorded(tmp_path)
    assert (record.status, record.why, record.cells) == (status, why, {"first": {"v": 1}})


def test_what_a_stage_that_crashed_left_behind_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orphans of a crash would hold the device's memory, and the figures of the next stages would be theirs, too."""
    script = f"""
import signal, subprocess, sys
from pathlib import Path
from benchmarks.gpu import __main__ as command
from benchmarks.gpu.machine import Machine
sys.executable = {str(tmp_path / "python")!r}
command.own_orphans()
before = subprocess.Popen(["sleep", "60"])
given = Machine("a CPU", "cpu"), command.Options(bundles=Path(".")), Path({str(tmp_path)!r})
print(command.run_one("parity", 9.0, *given))
print(before.poll())
before.kill()
"""
    (tmp_path / "python").write_text(f"#!/bin/sh\nsetsid sleep 60 & echo $! >{tmp_path}/pid\nkill -SEGV $$\n")
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "None"]
    assert recorded(tmp_path).why == "ended by SIGSEGV"
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_two_at_once_are_told_apart(tmp_path: Path) -> None:
    with command.alone(tmp_path), pytest.raises(OSError, match="is another run's"), command.alone(tmp_path):
        pass
    with command.alone(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_second_signal_does_not_disturb_what_the_first_one_puts_away(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from benchmarks.gpu import stage
stage._run = lambda *_: interrupted()
def interrupted():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
sys.exit(stage.main(stage.Options("parity", 9.0, Path({str(tmp_path)!r}), Path("."), rehearse=True)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (stage.INTERRUPTED, "")
    assert (recorded(tmp_path).status, recorded(tmp_path).why) == ("partial", "interrupted")


def test_a_bundle_that_was_interrupted_half_way_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = MODELS[0]
    written: list[Any] = []

    def write(folder: Path, *rest: Any) -> None:
        written.append(rest[-2])
        (folder / "encoder.onnx").touch()
        if len(written) == 2:
            raise KeyboardInterrupt
        (folder / bundle.MANIFEST).touch()

    class Encoding(torch.nn.Module):
        encode = torch.nn.Module.forward

    monkeypatch.setattr(preparing.Run, "build", lambda run: Encoding())
    monkeypatch.setattr(preparing, "train", lambda *_: None)
    monkeypatch.setattr(preparing, "write_trained", write)
    with pytest.raises(KeyboardInterrupt):
        preparing.prepare(tmp_path, [small])
    made = preparing.prepare(tmp_path, [small])
    assert len(written) == 4
    assert sorted(one.parent.name for one in made) == ["vae-float16", "vae-float32"]
    preparing.prepare(tmp_path, [small])
    assert len(written) == 4


def test_bundles_that_cannot_be_made_are_a_line_and_fail_the_stages_that_miss_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = CheckpointError("last.safetensors: cannot be saved: No space left on device\na page more")
    monkeypatch.setattr(preparing, "train", failing(full))
    monkeypatch.setattr(preparing.Run, "build", lambda run: None)
    command.prepare(["facts", "parity"], REHEARSAL, tmp_path)
    said = "CheckpointError: last.safetensors: cannot be saved: No space left on device"
    assert capsys.readouterr().err == f"bundles: {tmp_path}: {said}\n"
    assert command.main(command.Options(prepare=tmp_path)) == stage.CANNOT_WRITE
    assert capsys.readouterr().err == f"error: {said}\n"
    assert stage.run_stage(parity.run, REHEARSAL, options(tmp_path)) == 1
    assert {name for name, cell in recorded(tmp_path).cells.items() if "error" in cell} == {
        "vae-float32",
        "cpc_audio-float32",
    }


def test_ctrl_c_while_a_bundle_is_trained_is_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning makes SystemExit of it, which would end the command without a word."""
    monkeypatch.setattr(preparing, "train", failing(SystemExit(1)))
    monkeypatch.setattr(preparing.Run, "build", lambda run: None)
    with pytest.raises(KeyboardInterrupt):
        preparing.prepare(tmp_path, [MODELS[0]])


def test_one_session_serves_all_batch_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, opening one costs a second: as much as measuring."""
    files: list[str] = []
    session = engine_stage._session
    monkeypatch.setattr(engine_stage, "_session", lambda *given: files.append(given[-1]) or session(*given))
    monkeypatch.setattr(engine_stage, "SECONDS", 0.001)
    preparing._make_encoder((tmp_path, "small", "float32"))
    opened = engine_stage.Opened(REHEARSAL, tmp_path, "small", "float32", 8)
    for size in (8, 2, 1):
        assert set(opened.rates(size)) == {*engine_stage.COMPARED, engine_stage.TWO}
    assert files == [""]


@pytest.mark.parametrize(("seconds", "num_started", "num_left"), [(-1.0, 0, 5), (60.0, 4, 0)])
def test_no_server_is_started_for_nothing_and_one_that_does_not_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, num_started: int, num_left: int
) -> None:
    starts: list[Path] = []

    def refuse(repository: Path, *_: Any, **__: Any) -> Any:
        starts.append(repository)
        raise RuntimeError("the server did not start: no memory")

    monkeypatch.setattr(serve, "encoder_bundle", lambda folder, name, precision: folder / name / "1")
    monkeypatch.setattr(serve, "engine_ceiling", lambda *_: {"images_per_second": 1.0})
    monkeypatch.setattr(serve, "ServedProcess", refuse)
    cells = Cells(Record("serve", "", ""), tmp_path / "serve.json", seconds, lambda line: None)
    checks = serve.run(REHEARSAL, tmp_path, cells)
    assert [check.got for check in checks] == [None]
    assert (len(starts), len(cells.left)) == (num_started, num_left)
    for name, cell in cells.record.cells.items():
        assert name.endswith("ceiling") or cell["error"] == "RuntimeError: the server did not start: no memory"


def test_the_time_that_a_stage_leaves_goes_to_the_next_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[float] = []

    def at_once(name: str, seconds: float, *_: Any) -> int:
        boxes.append(seconds)
        return {"facts": 0, "parity": 1, "engine": stage.INTERRUPTED}[name]

    monkeypatch.setattr(command, "run_one", at_once)
    given = command.Options(minutes=5, rehearse=True)
    status = command.run_all(["facts", "parity", "engine", "serve"], REHEARSAL, given, tmp_path)
    assert status == stage.INTERRUPTED
    assert len(boxes) == 3  # Ctrl-C ends all of it
    weights = [stage.WEIGHTS[name] for name in ("facts", "parity", "engine", "serve")]
    expected = [300 * weight / sum(weights[number:]) for number, weight in enumerate(weights[:3])]
    np.testing.assert_allclose(boxes, expected, rtol=0.01)


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_one", lambda name, *_: ran.append(name) or 0)
    write_record(Record("facts", "a CPU", "", "done"), tmp_path / "facts.json")
    write_record(Record("parity", "a CPU", "", "partial"), tmp_path / "parity.json")
    write_record(Record("engine", "another CPU", "", "done"), tmp_path / "engine.json")
    for again, expected in ((False, ["parity", "engine"]), (True, ["facts", "parity", "engine"])):
        ran: list[str] = []
        given = command.Options(rehearse=True, again=again)
        assert command.run_all(["facts", "parity", "engine"], REHEARSAL, given, tmp_path) == 0
        assert ran == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (command.Options(stages="parity,sing"), "stages: got sing, expected some of facts, parity, engine, serve"),
        (command.Options(stages=" , "), "stages: got none, expected some of"),
        (command.Options(minutes=0.0), "minutes: got 0, expected above 0"),
        (command.Options(minutes=float("nan")), "minutes: got nan, expected above 0"),
    ],
)
def test_options_are_checked_before_anything_runs(
    given: command.Options, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(given) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_without_a_gpu_one_line_says_what_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "libcudnn.so.9: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(machine_module, "why_not", lambda provider: why)
    assert command.main(command.Options(out=tmp_path / "out")) == 2
    assert capsys.readouterr().err == f"error: no GPU: {why}; `make gpu-rehearsal` runs the same stages on the CPU\n"
    assert not (tmp_path / "out").exists()


def test_an_old_driver_is_told_with_the_one_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert too_old("580.159.04", "13.0") is None
    assert too_old("550.54.15", "12.8") is None
    said = "driver: got 550.54.15, expected 580 or later, which CUDA 13 of this onnxruntime needs"
    assert too_old("550.54.15", "13.0") == said
    monkeypatch.setattr(machine_module, "why_not", lambda provider: None)
    monkeypatch.setattr(machine_module, "nvidia_smi", lambda *_: ["NVIDIA A100", "550.54.15"])
    monkeypatch.setattr(machine_module, "cuda_of_onnxruntime", lambda: "13.0")
    with pytest.raises(NoGpu, match="expected 580 or later"):
        this_machine(rehearse=False)
    monkeypatch.setattr(machine_module, "cuda_of_onnxruntime", lambda: "12.8")
    assert this_machine(rehearse=False) == Machine("NVIDIA A100", "cuda")


def test_nvidia_smi_that_is_not_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoGpu, match="no GPU: nvidia-smi"):
        machine_module.nvidia_smi("name")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert machine_module.nvidia_smi("name", "memory.total") == ["NVIDIA H100 80GB HBM3", "81559"]
    assert GPU.choose("large", "small") == "large"


def test_rows_are_the_same_everywhere_and_no_split_holds_a_fresh_one() -> None:
    for shape in (GREY, SOUND):
        np.testing.assert_array_equal(rows_of(shape, 5, 3), rows_of(shape, 0, 8)[5:])
        data = splits(shape)
        held = {row.tobytes() for part in (data.train, data.calibration, data.test) for row in part.values}
        assert len(held) > 0.99 * sum(map(len, (data.train, data.calibration, data.test)))
        assert not held & {row.tobytes() for row in fresh_rows(shape, 100)}
    assert (
        {one.method for one in models_of(GPU)}
        == {one.method for one in MODELS}
        > {one.method for one in models_of(REHEARSAL)}
    )


class FakeEngine:
    """Gives each row its mean, plus what is wrong with it."""

    def __init__(self, wrong: Callable[[NDArray[Any]], NDArray[Any]] = lambda rows: np.zeros(len(rows))) -> None:
        self.manifest = SimpleNamespace(
            outputs=("embedding", "scores"),
            parity=(Parity("embedding", 0.0, 0.01, 8), Parity("scores", 0.0, 0.01, 8)),
            detectors=(SimpleNamespace(name="fusion"),),
        )
        self._wrong = wrong

    def run(self, given: str, pieces: list[Piece]) -> list[dict[str, Any]]:
        rows = pieces[0].rows
        values = (rows.mean(axis=1) + self._wrong(rows)).astype(np.float32)[:, None]
        return [dict.fromkeys(pieces[0].wants, values)]


ROWS = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)


def test_parity_tells_a_device_that_is_off_at_one_batch_size() -> None:
    right: Any = FakeEngine()
    off: Any = FakeEngine(lambda rows: np.full(len(rows), 0.02 if len(rows) == 3 else 0.0))
    shares = parity.batch_shares(off, right, ROWS)
    assert shares["share_at_batch_3"] == pytest.approx(2.0, rel=1e-3)
    assert shares["share_at_batch_1"] == shares["share_at_batch_64"] == 0.0


def test_parity_tells_rows_that_depend_on_co_batched_rows() -> None:
    felt: Any = FakeEngine(lambda rows: np.full(len(rows), rows.max() * 1e-3))
    sized: Any = FakeEngine(lambda rows: np.full(len(rows), len(rows) * 1e-3))
    assert parity.co_batched(felt, ROWS)["co_batched_same_size"] > 0
    assert parity.co_batched(sized, ROWS)["co_batched_same_size"] == 0
    assert parity.co_batched(sized, ROWS)["co_batched_other_size"] == pytest.approx(0.063, abs=1e-4)


def test_a_number_that_is_none_is_off_by_whatever_tensor_it_comes() -> None:
    right: Any = FakeEngine()
    values = {"embedding": np.zeros((3, 2)), "scores": np.zeros((3, 1))}
    for tensor in values:
        broken = values | {tensor: np.full_like(values[tensor], np.nan)}
        assert np.isnan(parity.share(right, broken, values))
    shares = dict(zip((f"share_at_batch_{n}" for n in parity.BATCHES), (0.0, float("nan"), 0.0, 0.0), strict=True))
    figures = {
        "golden_share_of_tolerance": 0.1,
        "co_batched_same_size": 0.0,
        "kolmogorov": 0.0,
        "kolmogorov_allowed": 1.0,
    }
    assert not parity.checks_of("b", figures | shares)[0].holds
    late: Any = FakeEngine(lambda rows: np.full(len(rows), np.nan if rows[0, 0] != ROWS[0, 0] else 0.0))
    assert np.isnan(parity.co_batched(late, ROWS)["co_batched_same_size"])


def test_figures_and_checks_of_numpy_are_written(tmp_path: Path) -> None:
    """A check that does not hold must not break the record that says so."""
    red = Check.at_most("Kolmogorov", 0.5, 1 / np.sqrt(2000))
    cells = {"x": lambda: {"float": np.float32(0.5), "count": np.int64(3), "holds": np.bool_(False)}}
    assert stage.run_stage(run(cells, [red]), GPU, options(tmp_path)) == 1
    record = recorded(tmp_path)
    assert (record.status, record.why) == ("failed", "below requirement: Kolmogorov")
    assert [record.cells["x"][name] for name in ("float", "count", "holds")] == [0.5, 3, False]


def test_p_values_that_move_want_a_calibration_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calibration = np.sort(np.random.default_rng(1).normal(size=(500, 5)).mean(axis=1)).astype(np.float32)
    monkeypatch.setattr(parity.bundle, "load_calibration", lambda folder, manifest: {"fusion": calibration})
    right: Any = FakeEngine()
    rounded: Any = FakeEngine(lambda rows: np.full(len(rows), 1e-6))
    shifted: Any = FakeEngine(lambda rows: np.full(len(rows), 0.2))
    figures = {
        name: parity.moved_p_values(one, right, tmp_path, ROWS) for name, one in (("r", rounded), ("s", shifted))
    }
    assert figures["r"]["kolmogorov_allowed"] == pytest.approx(1 / 20)
    assert figures["r"]["kolmogorov"] < 0.01
    assert figures["s"]["kolmogorov"] > 0.1
    assert figures["s"]["changed_decisions_at_0.05"] > figures["r"]["changed_decisions_at_0.05"] == 0
    rest = {
        "golden_share_of_tolerance": 0.1,
        "co_batched_same_size": 0.0,
        **{f"share_at_batch_{n}": 0.0 for n in parity.BATCHES},
    }
    assert [check.holds for check in parity.checks_of("b", figures["r"] | rest)] == [True, True, True]
    assert [check.holds for check in parity.checks_of("b", figures["s"] | rest)] == [True, True, False]


def test_a_column_that_the_device_cannot_run_is_told_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = engine_stage.Opened(GPU, Path("nowhere"), "small", "float32", 8)

    def columns(size: int) -> dict[str, Any]:
        return {"alone": lambda rows: lambda: None, "cuda_graphs": lambda rows: failing(RuntimeError("no\npage"))}

    monkeypatch.setattr(opened, "_columns", columns)
    monkeypatch.setattr(engine_stage, "SECONDS", 0.01)
    figures = opened.rates(4)
    assert figures["alone"] > 0
    assert figures["cuda_graphs_error"] == "RuntimeError: no"
    assert "cuda_graphs" not in figures


MEMORY = {f"{order}{again}_mib": 900.0 for order in ("rising", "falling") for again in ("", "_again")}


def test_an_arena_that_grows_when_the_same_sizes_are_run_again_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_stage, "encoders_of", lambda machine: ("small",))
    for grown, status in ((0.0, 0), (500.0, 1)):
        figures = MEMORY | {"falling_again_mib": 900.0 + grown}
        monkeypatch.setattr(engine_stage, "memory", lambda *_, figures=figures: figures)
        monkeypatch.setattr(engine_stage, "BATCHES", (64,))
        monkeypatch.setattr(engine_stage, "Opened", lambda *_: SimpleNamespace(rates=lambda size: RATES))
        given = replace(options(tmp_path, again=True), name="engine")
        assert stage.run_stage(engine_stage.run, GPU, given) == status
    record = read_record(tmp_path / "engine.json")
    assert record is not None
    assert record.why.count("MiB more for the same sizes, falling") == 2


RATES = {"alone": 1.0, "alone_copying": 1.0, "engine": 1.0}


@pytest.mark.parametrize("column", engine_stage.COMPARED)
def test_a_cell_that_lacks_what_is_compared_fails_and_the_next_one_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    def columns(opened: Any, size: int) -> dict[str, Any]:
        fails = failing(MemoryError()) if size == 256 else lambda: None
        return {one: lambda rows, one=one: fails if one == column else lambda: None for one in engine_stage.COMPARED}

    monkeypatch.setattr(engine_stage.Opened, "_columns", columns)
    monkeypatch.setattr(engine_stage, "encoders_of", lambda machine: ("small",))
    monkeypatch.setattr(engine_stage, "memory", lambda *_: MEMORY)
    for name, value in (("SECONDS", 0.001), ("BATCHES", (256, 64)), ("LEAST_OF_ALONE", 0.0)):
        monkeypatch.setattr(engine_stage, name, value)
    given = replace(options(tmp_path), name="engine")
    assert stage.run_stage(engine_stage.run, GPU, given) == 1
    record = read_record(tmp_path / "engine.json")
    assert record is not None
    bad = {name for name, cell in record.cells.items() if "error" in cell}
    assert bad == {f"small {bits} batch 256" for bits in ("float32", "float16")}
    assert len(record.cells) == 6
    assert record.cells["small float16 batch 256"]["error"] == "MemoryError"
    assert "img/s" in next(iter(table.lines(tmp_path, ["engine"])))[2]


def test_as_many_epochs_are_trained_as_fit() -> None:
    assert train.fitting(100, 2.0, 7 * 60) == 100
    assert train.fitting(100, 4.0, 7 * 60) == int(0.9 * (420 - 115) / 4)
    assert train.fitting(100, 500.0, 60) == 1


def test_the_table_has_a_line_for_each_stage_measured_or_not(tmp_path: Path) -> None:
    cell = {"engine": 9700.0, "alone_copying": 10000.0}
    cells = {"r18 float32 batch 1": {**cell, "engine": 1.0}, "r18 float32 batch 64": cell, "r18 float32 memory": {}}
    checks = [vars(Check.at_least("speed", 0.97, 0.97)), vars(Check.at_least("more", 0.5, 0.97))]
    record = Record("engine", "H100", "", "failed", "below requirement: more", 12.0, cells, checks)
    write_record(record, tmp_path / "engine.json")
    lines = list(table.lines(tmp_path, stage.WEIGHTS))
    assert [line[0] for line in lines] == list(stage.WEIGHTS)
    assert lines[0][1] == "not measured"
    found = "r18 float32 9,700 img/s (0.97 of ONNX Runtime) at 64"
    assert lines[2] == ("engine", "failed: below requirement: more", found, "1 of 2 hold", "12")
    assert table.markdown(tmp_path, stage.WEIGHTS).count("\n") == len(stage.WEIGHTS) + 1


def test_a_record_that_cannot_be_read_is_measured_anew(tmp_path: Path) -> None:
    (tmp_path / "parity.json").write_text('{"stage": "parity", "machine": 3, "more": 1}')
    assert read_record(tmp_path / "parity.json") is None
    (tmp_path / "parity.json").write_bytes(os.urandom(30))
    assert read_record(tmp_path / "parity.json") is None
    assert cells_module.shown({"error": "x"}) == "FAILED: x"
