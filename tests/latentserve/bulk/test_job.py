"""Jobs from the outside: what stands in the folder, by an engine that is no model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow", reason="the extra `bulk`")
import pyarrow.parquet as pq  # noqa: E402

from latentserve.bulk import engines  # noqa: E402
from latentserve.cli.main import main  # noqa: E402
from tests.latentserve.bulk.answering import FakeEngine, files  # noqa: E402

COLUMNS = [
    *("id", "source", "model", "version", "embedding_space", "calibration"),
    *("embedding", "p_value", "flagged", "error"),
]
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command with a bundle that is a fake; `seen` sees each batch."""
    monkeypatch.chdir(tmp_path)

    def ran(*given: str, seen: Any = lambda _: None, **changed: Any) -> int:
        def local(_: Path, asked: engines.Asked, __: str) -> FakeEngine:
            engine = FakeEngine(asked, seen)
            engine.model = engines.Model(**(engine.model.__dict__ | changed))
            return engine

        monkeypatch.setattr(engines, "local", local)
        return main([*given, "--bundle", "models/fake/1"])

    return ran


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_a_row_of_each_item_in_one_schema(run: Run, tmp_path: Path) -> None:
    files(tmp_path / "in", 10)
    (tmp_path / "in/0003.png").write_text("!")
    (tmp_path / "in/0005.png").write_text("04")
    (tmp_path / "in/0004.png").write_text("04")
    assert run("score", "in", "--embeddings", "--to", "out.parquet", "--part-rows", "4") == 0
    rows = pq.read_table("out.parquet")
    assert rows.column_names == COLUMNS
    assert rows.schema.field("embedding").type == pa.list_(pa.float32(), 4)
    found = rows.to_pylist()
    assert [row["source"] for row in found] == [f"in/{number:04}.png" for number in range(10)]
    assert [row["id"] == found[4]["id"] for row in found] == [number in (4, 5) for number in range(10)]
    assert found[3]["error"] == "got '!', expected anything else"
    assert (found[3]["embedding"], found[3]["p_value"], found[3]["flagged"]) == (None, None, None)
    assert found[0]["embedding"] == [48000.0, 48000.0, 32000.0, 32000.0]
    assert (found[0]["p_value"], found[0]["flagged"], found[0]["error"]) == (0.048, True, None)
    assert {(row["model"], row["version"], row["embedding_space"], row["calibration"]) for row in found} == {
        ("fake", 1, "es-fake", "cal-fake")
    }
    assert list(contents("out.parquet")) == ["_job.json", *(f"part-{number:05}.parquet" for number in range(3))]


def test_embed_and_score_fill_their_own_columns(run: Run, tmp_path: Path) -> None:
    files(tmp_path / "in", 3)
    assert run("embed", "in", "--to", "e.parquet") == 0
    assert run("score", "in", "--to", "s.parquet") == 0
    embedded, scored = pq.read_table("e.parquet"), pq.read_table("s.parquet")
    assert embedded.schema == scored.schema
    assert (embedded["embedding"].null_count, embedded["p_value"].null_count, embedded["flagged"].null_count) == (
        0,
        3,
        3,
    )
    assert (scored["embedding"].null_count, scored["p_value"].null_count, scored["flagged"].null_count) == (3, 0, 0)


def test_half_is_float16_and_what_it_cannot_hold_is_an_error(run: Run, tmp_path: Path) -> None:
    files(tmp_path / "in", 3)
    (tmp_path / "in/0001.png").write_text("C")
    assert run("embed", "in", "--to", "out.parquet", "--half") == 0
    rows = pq.read_table("out.parquet")
    assert rows.schema.field("embedding").type == pa.list_(pa.float16(), 4)
    assert [row is None for row in rows["embedding"].to_pylist()] == [False, True, False]
    assert rows["error"][1].as_py() == "embedding: got 67000, expected at most 65504, the largest float16 (--half)"


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_one_that_was_killed_goes_on_to_equal_bytes(after: int, run: Run, tmp_path: Path) -> None:
    files(tmp_path / "in", 10)
    job = "embed", "in", "--part-rows", "3"
    assert run(*job, "--to", "whole.parquet") == 0
    batches: list[Sequence[Any]] = []

    def killed(batch: Sequence[Any]) -> None:
        if len(batches) == after:
            raise SystemExit("killed")
        batches.append(batch)

    with pytest.raises(SystemExit):
        run(*job, "--to", "out.parquet", seen=killed)
    Path("out.parquet/.part-00007.parquet.tmp").write_bytes(b"half")
    assert len(contents("out.parquet")) == after + 2
    again: list[Sequence[Any]] = []
    assert (
        run("embed", "in", "--to", "out.parquet", seen=again.append) == 0
    )  # with the rows of a part that it began with
    assert [len(batch) for batch in again] == [3, 3, 3, 1][after:]
    assert contents("out.parquet") == contents("whole.parquet")


def test_new_files_are_new_parts_and_a_finished_job_does_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files(tmp_path / "in", 4)
    assert run("embed", "in", "--to", "out.parquet") == 0
    (tmp_path / "in/0001-new.png").write_text("new")
    assert run("embed", "in", "--to", "out.parquet") == 0
    assert pq.read_table("out.parquet")["source"].to_pylist()[4:] == ["in/0001-new.png"]
    before = contents("out.parquet")
    capsys.readouterr()
    assert run("embed", "in", "--to", "out.parquet") == 0
    assert contents("out.parquet") == before
    assert "0 items" in (said := capsys.readouterr().err)
    assert "5 were done before" in said


def test_another_job_is_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(tmp_path / "in", 3)
    job = "embed", "in", "--to", "out.parquet"
    assert run(*job) == 0
    before = contents("out.parquet")
    capsys.readouterr()

    def told(*given: str, **changed: Any) -> str:
        def worked(_: object) -> None:
            raise AssertionError("work began")

        assert run(*given, seen=worked, **changed) == 1
        assert contents("out.parquet") == before
        return capsys.readouterr().err

    of_another = "error: to: out.parquet is of another job: "
    assert told(*job, embedding_space="es-b") == (
        f"{of_another}embedding_space: got 'es-b', expected 'es-fake'; name another folder\n"
    )
    assert told(*job, calibration="b").startswith(f"{of_another}calibration: got 'b', expected 'cal-fake'")
    assert told(*job, "--half").startswith(f"{of_another}half: got True, expected False")
    assert told(*job, "--part-rows", "7").startswith(f"{of_another}part_rows: got 7, expected 1024")
    assert told("score", "in", "--to", "out.parquet").startswith(
        f"{of_another}columns: got ['p_value', 'flagged'], expected ['embedding']"
    )


def test_a_folder_that_is_not_ours_is_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(tmp_path / "in", 3)
    Path("photos.parquet").mkdir()
    Path("photos.parquet/part-00000.parquet").write_text("mine")
    assert run("embed", "in", "--to", "photos.parquet") == 1
    assert capsys.readouterr().err == (
        "error: to: got photos.parquet with 'part-00000.parquet' in it and no _job.json,"
        " expected a new or empty folder, or one of a job\n"
    )
    Path("file.parquet").write_text("mine")
    assert run("embed", "in", "--to", "file.parquet") == 1
    assert "to: got file.parquet, a file, expected a folder" in capsys.readouterr().err
    assert run("embed", "in", "--to", "in") == 1
    assert "to: got in, expected a folder whose name ends in .parquet" in capsys.readouterr().err
    assert run("embed", "nothing", "--to", "new.parquet") == 1
    assert "inputs: got 'nothing'" in capsys.readouterr().err
    assert not Path("new.parquet").exists()
    assert Path("photos.parquet/part-00000.parquet").read_text() == "mine"


def test_a_part_that_is_broken_is_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(tmp_path / "in", 3)
    assert run("embed", "in", "--to", "out.parquet", "--part-rows", "1") == 0
    whole = contents("out.parquet")
    Path("out.parquet/part-00001.parquet").write_bytes(b"x")
    capsys.readouterr()
    assert run("embed", "in", "--to", "out.parquet") == 1
    assert "to: got out.parquet/part-00001.parquet, expected one of ours (" in capsys.readouterr().err
    Path("out.parquet/part-00001.parquet").unlink()
    assert run("embed", "in", "--to", "out.parquet") == 0
    assert contents("out.parquet")["part-00003.parquet"] == whole["part-00001.parquet"]


def test_two_at_once(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(tmp_path / "in", 3)
    statuses: list[int] = []

    def second(_: object) -> None:
        code = "import sys; from latentserve.cli.main import main; sys.exit(main(sys.argv[1:]))"
        given = ["embed", "in", "--to", "out.parquet", "--bundle", "models/fake/1"]
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code, *given], capture_output=True, text=True, env=os.environ | path
        )
        statuses.append(done.returncode)
        assert done.stderr == "error: to: got out.parquet, held by another process, expected one at a time\n"

    assert run("embed", "in", "--to", "out.parquet", seen=second) == 0
    assert statuses == [1]


def test_a_full_disk_keeps_what_is_written(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    files(tmp_path / "in", 9)
    job = "embed", "in", "--part-rows", "3"
    assert run(*job, "--to", "whole.parquet") == 0
    capsys.readouterr()

    def fill(batch: Sequence[Any]) -> None:
        if batch[0].source == "in/0003.png":
            Path("out.parquet/.part-00001.parquet.tmp").symlink_to("/dev/full")

    assert run(*job, "--to", "out.parquet", seen=fill) == 1
    assert capsys.readouterr().err == (
        "error: out.parquet/part-00001.parquet: No space left on device; make room and run it again\n"
    )
    assert list(contents("out.parquet")) == ["_job.json", "part-00000.parquet"]
    assert run(*job, "--to", "out.parquet") == 0
    assert contents("out.parquet") == contents("whole.parquet")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_part_in_hand(
    number: signal.Signals, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files(tmp_path / "in", 200)

    def interrupted(batch: Sequence[Any]) -> None:
        if batch[0].source == "in/0000.png":  # of a part that is two batches
            os.kill(os.getpid(), number)

    job = "embed", "in", "--to", "out.parquet", "--part-rows", "70"
    before = signal.getsignal(number)
    assert run(*job, seen=interrupted) == 130
    assert signal.getsignal(number) == before
    told = capsys.readouterr().err
    assert "stopping after this part; Ctrl-C again stops at once, and loses it" in told
    assert told.splitlines()[-1] == "stopped: 130 of 200 items are left, the same command goes on"
    assert pq.read_table("out.parquet").num_rows == 70
    assert run(*job) == 0
    assert pq.read_table("out.parquet").num_rows == 200


def test_ctrl_c_twice_ends_the_process(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path / "in", 10)
    ended: list[int] = []

    def end(status: int) -> None:
        ended.append(status)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "_exit", end)

    def twice(_: Sequence[Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    assert run("embed", "in", "--to", "out.parquet", seen=twice) == 130
    assert ended == [130]
    assert list(contents("out.parquet")) == ["_job.json"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["score", "in", "--to", "o.parquet", "--maps"], "maps: got it beside --to"),
        (["score", "in", "--to", "o.parquet", "--decision", "false_discovery_rate"], "decision: got it beside --to"),
        (["embed", "in", "--to", "o.parquet", "--out", "x.npy"], "out: got it beside --to"),
        (["embed", "in", "--to", "o.parquet", "--part-rows", "0"], "part-rows: got 0, expected 1 or more"),
        (["embed", "in", "--to", "o.parquet", "--patience", "nan"], "patience: got nan, expected seconds"),
        (["embed", "in", "--to", "o.parquet", "--model", "m"], "model: got it beside --bundle"),
        (["embed", "in", "--to", "o.parquet", "--actors", "2"], "actors: got it without --ray, expected both"),
        (["embed", "in", "--part-rows", "5"], "part-rows: got it alone, expected --to FOLDER.parquet beside it"),
        (["embed", "in"], "bundle: got it alone, expected --to FOLDER.parquet beside it"),
    ],
)
def test_options_that_do_not_go_together(
    given: list[str], told: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files(tmp_path / "in", 1)
    assert run(*given) == 1
    assert capsys.readouterr().err.startswith(f"error: {told}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_without_pyarrow_the_extra_is_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path / "in", 1)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert run("embed", "in", "--to", "o.parquet") == 1
    assert capsys.readouterr().err == (
        "error: to: Parquet needs pyarrow, which is missing: pip install 'latentserve[bulk]'\n"
    )


def test_memory_of_a_job_is_that_of_a_part(run: Run, tmp_path: Path) -> None:
    """No more batches are begun than are wanted, and no part is kept: what the engine gave can be freed."""
    import gc
    import weakref

    files(tmp_path / "in", 60)
    alive: list[Any] = []
    most = 0

    def count(_: Sequence[Any]) -> None:
        nonlocal most
        gc.collect()
        most = max(most, sum(one() is not None for one in alive))

    given = engines.answers_of

    def watched(*values: Any) -> Any:
        made = given(*values)
        alive.append(weakref.ref(made))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.latentserve.bulk.answering.answers_of", watched)
        assert run("embed", "in", "--to", "out.parquet", "--part-rows", "5", seen=count) == 0
    assert len(alive) == 12
    assert most <= 2


def test_a_part_with_a_flipped_bit_is_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without checksums of pages some flips are other names: a source would get a second row."""
    files(tmp_path / "in", 10)
    assert run("embed", "in", "--to", "out.parquet") == 0
    part = tmp_path / "out.parquet/part-00000.parquet"
    row_group = pq.read_metadata(part).row_group(0)
    (chunk,) = (
        column for column in map(row_group.column, range(row_group.num_columns)) if column.path_in_schema == "source"
    )
    start, whole, refused = chunk.data_page_offset, part.read_bytes(), 0
    for at in range(start, start + chunk.total_compressed_size - 8):
        data = bytearray(whole)
        data[at] ^= 1
        part.write_bytes(data)
        status, told = run("embed", "in", "--to", "out.parquet"), capsys.readouterr().err
        refused += "remove it, and its items are computed again" in told
        assert status == 1 or "10 were done before" in told, (at, told)
    assert refused > 20
