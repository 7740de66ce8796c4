from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from latentserve.bulk.listing import listed
from latentserve.bulk.reading import read
from latentserve.errors import InvalidInput

MOST = 1000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.wav", "sub/notes.txt", ".hidden/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shard(path: str, *names: str) -> None:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))


def test_items_come_by_name_and_each_once(folder: Path) -> None:
    found = [item.source for item in listed(["sub", "b.png", "./b.png", "*.png", "."])]
    assert found == ["a.JPG", "b.png", "sub/c.wav"]


def test_a_shard_gives_what_is_in_it_in_its_order_and_without_labels(folder: Path) -> None:
    shard("s.tar", "2.jpg", "2.cls", "1.jpg", "deep/0.png")
    items = listed(["s.tar", "."])
    assert [item.source for item in items][2:5] == ["s.tar/2.jpg", "s.tar/1.jpg", "s.tar/deep/0.png"]
    for item, name in zip(items[2:5], ("2.jpg", "1.jpg", "deep/0.png"), strict=True):
        given = read(item, MOST)
        assert (given.data, given.id, given.error) == (name.encode(), hashlib.sha256(name.encode()).hexdigest(), None)


def test_of_two_members_of_one_name_the_last_counts_as_when_it_is_unpacked(folder: Path) -> None:
    shard("s.tar", "1.jpg", "2.jpg", "1.jpg")
    found = listed(["s.tar"])
    assert [item.source for item in found] == ["s.tar/1.jpg", "s.tar/2.jpg"]
    assert found[0].place > found[1].place


@pytest.mark.parametrize("name", ["a.tgz", "a.tar.gz", "a.zip"])
def test_what_is_packed_is_refused_before_work(name: str, folder: Path) -> None:
    Path(name).touch()
    with pytest.raises(InvalidInput, match=rf"got {name}, an archive, expected files, folders or shards"):
        listed([name])


def test_two_names_that_print_alike_are_told(folder: Path) -> None:
    for name in (b"\xff.png", b"\\xff.png"):
        Path(os.fsdecode(name)).touch()
    with pytest.raises(InvalidInput, match=r"got two items that are both called \\xff.png, expected one"):
        listed(["."])


def test_nobody_waits_for_a_pipe(folder: Path) -> None:
    for name in ("p.png", "p.tar", "p.parquet"):
        os.mkfifo(name)
    assert read(listed(["p.png"])[0], MOST).error == "got 'p.png', expected a file that can be read (no regular file)"
    for name in ("p.tar", "p.parquet"):
        with pytest.raises(InvalidInput, match=f"got {name}, no regular file"):
            listed([name], "column")


def test_a_hard_link_in_a_shard_is_its_file_and_hidden_members_are_none(folder: Path) -> None:
    shard("s.tar", "1.jpg", "._1.jpg", "deep/.2.jpg")
    with tarfile.open("s.tar", "a") as tar:
        link = tarfile.TarInfo("twin.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "1.jpg"
        tar.addfile(link)
    found = listed(["s.tar"])
    assert [item.source for item in found] == ["s.tar/1.jpg", "s.tar/twin.jpg"]
    assert read(found[1], MOST).data == b"1.jpg"


def test_a_shard_with_a_damaged_header_is_refused(folder: Path) -> None:
    """tarfile takes it for the end: what comes after it would be missing without a word."""
    shard("s.tar", "1.jpg", "2.jpg", "3.jpg")
    data = bytearray(Path("s.tar").read_bytes())
    data[1024 + 3] ^= 1  # in the name of the second member
    Path("s.tar").write_bytes(data)
    with pytest.raises(InvalidInput, match=r"inputs: got s.tar, expected a tar .*no header at byte 1024"):
        listed(["s.tar"])


def test_a_folder_that_cannot_be_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuses(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(
        InvalidInput, match=r"inputs: got .*sub, expected a folder that can be read \(Permission denied"
    ):
        listed(["."])


def test_parts_of_the_job_itself_are_no_inputs(folder: Path) -> None:
    Path("out.parquet").mkdir()
    Path("out.parquet/part-00000.parquet").write_bytes(b"x")
    assert len(listed(["."], "image", Path("out.parquet"))) == 3


def test_a_list_on_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BufferedReader(io.BytesIO(b"b.png\r\n\nnone.png\nb.png\n"))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    assert [item.source for item in listed(["-"])] == ["b.png", "none.png"]


def test_a_name_that_is_no_text_is_shown(folder: Path) -> None:
    Path(os.fsdecode(b"\xff.png")).write_bytes(b"x")
    assert listed(["."])[-1].source == r"\xff.png"
    assert read(listed(["."])[-1], MOST).data == b"x"


def test_what_cannot_be_read_is_told(folder: Path) -> None:
    (item,) = listed(["b.png"])
    Path("b.png").unlink()
    given = read(item, MOST)
    assert (given.id, given.error) == (
        None,
        "got 'b.png', expected a file that can be read (No such file or directory)",
    )


def test_what_is_too_large_is_not_read(folder: Path) -> None:
    assert read(listed(["b.png"])[0], 5).error is None
    assert read(listed(["b.png"])[0], 4).error == "got more than 4 bytes, expected at most 4"


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (["empty"], "inputs: got empty, a folder without images or sounds, expected some of .bmp"),
        (["*.tiff"], r"inputs: got '\*.tiff', expected a file, a folder or a pattern that matches some"),
        (["-"], "inputs: got nothing on standard input, expected paths, one a line"),
        ([""], "inputs: got '', expected a file, a folder or a pattern"),
        (["rows.npy"], "inputs: got rows.npy, an array, expected files"),
        (["broken.tar"], "inputs: got broken.tar, expected a tar that can be read"),
        (["labels.tar"], "inputs: got labels.tar, a shard without images or sounds, expected some of .bmp"),
    ],
)
def test_inputs_that_name_nothing(inputs: list[str], told: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    np.save("rows.npy", np.zeros((2, 2), np.uint8))
    Path("broken.tar").write_bytes(b"x" * 600)
    shard("labels.tar", "1.cls")
    stream = io.BufferedReader(io.BytesIO(b"\n"))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    with pytest.raises(InvalidInput, match=f"^{told}"):
        listed(inputs)


def test_a_column_of_a_table_holds_bytes_or_paths(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra `bulk`")
    import pyarrow.parquet as pq

    Path("t").mkdir()
    values = [f"item {number}".encode() for number in range(7)]
    columns = {
        "raw": [*values[:6], None],
        "image": [{"bytes": value, "path": "x"} for value in values],
        "file": ["../b.png", "none.png", *[None] * 5],
        "number": list(range(7)),
    }
    pq.write_table(pa.table(columns), "t/t.parquet", row_group_size=3)
    for column in ("raw", "image"):
        items = listed(["t"], column)
        assert [item.source for item in items] == [f"t/t.parquet[{row}]" for row in range(7)]
        found = [read(item, MOST) for item in reversed(items)]
        assert [one.data for one in found[1:]] == values[5::-1]
    assert read(listed(["t"], "raw")[6], MOST).error == (
        "got 't/t.parquet[6]', expected a file that can be read (nothing is in its column raw)"
    )
    items = listed(["t/t.parquet"], "file")
    assert [item.source for item in items] == [
        "t/../b.png",
        "t/none.png",
        *(f"t/t.parquet[{row}]" for row in range(2, 7)),
    ]
    assert read(items[0], MOST).data == b"b.png"
    for column, told in (
        (None, "inputs: got t/t.parquet, a Parquet file, expected --column NAME beside it, of its bytes or paths"),
        ("x", "column: got 'x', expected one of ['raw', 'image', 'file', 'number'], which t/t.parquet has"),
        ("number", "column: got number of int64, expected bytes, paths, or a struct with bytes in it"),
    ):
        with pytest.raises(InvalidInput) as caught:
            listed(["t/t.parquet"], column)
        assert str(caught.value) == told
    Path("t/t.parquet").write_bytes(b"x" * 100)
    with pytest.raises(InvalidInput, match="^inputs: got t/t.parquet, expected a Parquet file that can be read"):
        listed(["t/t.parquet"], "raw")
