"""Sets that memory should not hold: the same rows, splits and fingerprint, whatever memory holds of them."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.test_shards import write_shard
from training.data import Data, DataError, decoding, load_data
from training.data.digests import Digests
from training.data.lazy import Lazy, changed_rows, is_lazy, joined_rows
from training.data.loading import every_row
from training.data.parting import parted
from training.data.units import equal_rows, row_digests

SPLITS = ("train", "calibration", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "latentserve" / "digests"


@pytest.fixture
def photos(tmp_path: Path, encode: Any) -> Path:
    """Forty images of two classes; two of them are equal, and one file is broken."""
    rng = np.random.default_rng(0)
    for i in range(40):
        folder = tmp_path / "photos" / ("cats" if i % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02d}.jpg").write_bytes(encode(rng.integers(0, 256, (20 + i, 40, 3), dtype=np.uint8), "JPEG"))
    (tmp_path / "photos" / "dogs" / "again.jpg").write_bytes((tmp_path / "photos" / "cats" / "07.jpg").read_bytes())
    (tmp_path / "photos" / "cats" / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    return tmp_path / "photos"


@pytest.fixture
def lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1000)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each image that is decoded."""
    calls: list[int] = []
    real = decoding.decode_image

    def counted(data: bytes, *rest: Any) -> Any:
        calls.append(len(data))
        return real(data, *rest)

    monkeypatch.setattr(decoding, "decode_image", counted)
    return calls


def check_equal(lazy: Data, held: Data) -> None:
    assert is_lazy(lazy.train.values)
    assert not is_lazy(held.train.values)
    for name in SPLITS:
        one, other = getattr(lazy, name), getattr(held, name)
        assert one.values.shape == other.values.shape
        assert one.values.dtype == other.values.dtype
        assert one.values.nbytes == other.values.nbytes
        np.testing.assert_array_equal(np.asarray(one.values), other.values)
        for of_rows in ("labels_N", "units_N", "names_N"):
            np.testing.assert_array_equal(getattr(one, of_rows), getattr(other, of_rows))
    assert lazy.has_fingerprint(held.fingerprint)
    assert held.has_fingerprint(lazy.fingerprint)
    fewer = replace(lazy, train=lazy.train.take(slice(1, None)))
    assert not held.has_fingerprint(fewer.fingerprint)
    assert not fewer.has_fingerprint(held.fingerprint)
    assert lazy.shape == held.shape


def test_a_large_folder_gives_what_it_gives_in_memory(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = load_data(f"folder:{photos}", image_size=16, seed=3)
    said = capsys.readouterr().err
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 41 * 16 * 16 * 3)  # one less than there are
    lazy = load_data(f"folder:{photos}", image_size=16, seed=3)
    check_equal(lazy, held)
    said_again = capsys.readouterr().err
    for sentence in ("broken.jpg: got", "skipped 1 of 42 images", "2 of 41 rows have a twin"):
        assert sentence in said
        assert sentence in said_again
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 42 * 16 * 16 * 3)
    assert not is_lazy(load_data(f"folder:{photos}", image_size=16).train.values)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "remote"])
def test_large_shards_give_what_they_give_in_memory(
    kind: str, photos: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    members = {f"{file.stem}.jpg": file.read_bytes() for file in sorted(photos.rglob("*.jpg"))}
    members |= {f"{name[:-4]}.cls": b"%d" % (place % 3) for place, name in enumerate(members)}
    names = sorted(members)
    suffix = "tar" if kind == "remote" else kind
    for place, part in enumerate((names[:40], names[40:])):
        write_shard(tmp_path / f"{place}.{suffix}", {name: members[name] for name in part})
    pattern = f"wds:{url if kind == 'remote' else tmp_path}/{{0..1}}.{suffix}"
    held = load_data(pattern, image_size=16)
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 10_000)
    check_equal(load_data(pattern, image_size=16), held)
    decoded.clear()
    load_data(pattern, image_size=16)
    assert (len(decoded) < 5) == (kind == "tar")  # which are known by their places


def test_groups_classes_and_parts_are_those_of_memory(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [(f"folder:{photos}", 16, 0, None, None, "near"), (f"folder:{photos}[label=1]", 16)]
    held = [load_data(*one) for one in options]
    own = every_row(f"folder:{photos}", 16)
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1000)
    for one, expected in zip(options, held, strict=True):
        check_equal(load_data(*one), expected)
    lazy_own = every_row(f"folder:{photos}", 16)
    assert own is not None
    assert lazy_own is not None
    np.testing.assert_array_equal(np.asarray(lazy_own.values), own.values)


@pytest.mark.usefixtures("lazily")
def test_rows_are_taken_as_of_an_array_and_decoded_only_when_asked_for(photos: Path, decoded: list[int]) -> None:
    values = load_data(f"folder:{photos}", image_size=16).train.values
    whole = np.asarray(values)
    decoded.clear()
    mask = np.arange(len(values)) % 3 == 0
    views = [values[3:9], values[np.array([5, 2, 2])], values[mask], values[::-1][2:5], values[:0]]
    digests = row_digests(values), equal_rows(values)
    assert not decoded
    assert all(isinstance(view, Lazy) for view in views)
    expected = [whole[3:9], whole[[5, 2, 2]], whole[mask], whole[::-1][2:5], whole[:0]]
    for view, array in zip(views, expected, strict=True):
        assert view.shape == array.shape
        np.testing.assert_array_equal(np.asarray(view), array)
    assert len(decoded) == sum(map(len, expected))
    np.testing.assert_array_equal(values[4], whole[4])
    np.testing.assert_array_equal(values[np.int64(-1)], whole[-1])
    np.testing.assert_array_equal([*values[2:4]], whole[2:4])
    assert digests[0] == row_digests(whole)
    np.testing.assert_array_equal(digests[1], equal_rows(whole))
    np.testing.assert_array_equal(np.asarray(joined_rows([views[0], views[2]])), np.concatenate(expected[0:3:2]))
    grey = changed_rows(values, lambda rows: rows[..., :1] // 2)
    assert grey.shape == (len(values), 16, 16, 1)
    np.testing.assert_array_equal(np.asarray(grey[1:3]), whole[1:3, ..., :1] // 2)
    assert row_digests(grey) == row_digests(whole[..., :1] // 2)


@pytest.mark.usefixtures("lazily")
def test_nobody_decodes_more_at_once_than_memory_holds(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = load_data(f"folder:{photos}", image_size=16).train.values
    monkeypatch.setattr("training.data.lazy.MOST_BYTES_AT_ONCE", 10 * 16 * 16 * 3)
    assert np.asarray(values[:10]).shape[0] == 10
    with pytest.raises(RuntimeError, match="got 11 images to decode at once, expected a part of them"):
        np.asarray(values[:11])


@pytest.mark.usefixtures("lazily")
def test_what_a_pass_found_is_not_looked_for_again(photos: Path, decoded: list[int], cache: Path) -> None:
    first = load_data(f"folder:{photos}", image_size=16)
    fingerprint = first.fingerprint
    assert len(decoded) == 42  # each of them once, the fingerprint included
    decoded.clear()
    assert load_data(f"folder:{photos}", image_size=16).fingerprint == fingerprint
    assert len(decoded) == 1  # what could not be read may be readable now
    (photos / "cats" / "01.jpg").touch()
    load_data(f"folder:{photos}", image_size=16)
    assert len(decoded) == 3
    assert len([*cache.iterdir()]) == 1
    decoded.clear()
    load_data(f"folder:{photos}", image_size=12)  # other pixels
    assert len(decoded) == 42
    assert len([*cache.iterdir()]) == 2


@pytest.mark.usefixtures("lazily")
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "folder"])
def test_a_damaged_cache_counts_as_none(damage: str, photos: Path, decoded: list[int], cache: Path) -> None:
    fingerprint = load_data(f"folder:{photos}", image_size=16).fingerprint
    (file,) = cache.iterdir()
    data = file.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    damaged = {"cut": data[:middle], "flipped": flipped, "empty": b"", "text": b"no\ncache"}
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        file.write_bytes(damaged[damage])
    decoded.clear()
    assert load_data(f"folder:{photos}", image_size=16).fingerprint == fingerprint
    assert len(decoded) == 42


@pytest.mark.usefixtures("lazily")
def test_a_cache_that_cannot_be_written_is_gone_without(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(load_data(f"folder:{photos}", image_size=16).fingerprint) == 64


@pytest.mark.usefixtures("lazily")
def test_a_pass_that_was_stopped_goes_on_where_it_was(
    photos: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "FILES_AT_ONCE", 8)
    monkeypatch.setattr(decoding, "IMAGES_BETWEEN_SAVES", 16)
    counted = decoding.decode_image

    def stopping(data: bytes, *rest: Any) -> Any:
        if len(decoded) >= 27:
            raise KeyboardInterrupt
        return counted(data, *rest)

    monkeypatch.setattr(Digests, "saved", lambda _: threading.Lock())  # killed: nothing is saved at the end
    monkeypatch.setattr(decoding, "decode_image", stopping)
    with pytest.raises(KeyboardInterrupt):
        load_data(f"folder:{photos}", image_size=16)
    monkeypatch.setattr(decoding, "decode_image", counted)
    decoded.clear()
    load_data(f"folder:{photos}", image_size=16)
    assert len(decoded) == 42 - 16


@pytest.mark.usefixtures("lazily")
@pytest.mark.parametrize("change", ["gone", "other", "cut"])
def test_a_file_that_changes_in_between_ends_the_run_with_one_sentence(
    change: str, photos: Path, encode: Any, cache: Path
) -> None:
    values = load_data(f"folder:{photos}", image_size=16).train.values
    path = Path(values.store.files[values.rows_N[3]].read.__self__)  # type: ignore[attr-defined]
    said = "cannot be read any more"
    if change == "gone":
        path.unlink()
    elif change == "cut":
        path.write_bytes(b"\xff\xd8\xff")
    else:
        path.write_bytes(encode(np.zeros((16, 16, 3), np.uint8), "PNG"))
        said = "is not the image any more that was read first"
    with pytest.raises(DataError, match=rf"^folder: .*{path.name} {said}.*; leave the files alone until the end"):
        np.asarray(values)
    assert not [*cache.iterdir()]


def test_a_compressed_shard_is_kept_where_there_is_room(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1000)
    plain = write_shard(tmp_path / "a.tar", {file.name: file.read_bytes() for file in photos.rglob("*.jpg")})
    (tmp_path / "a.tgz").write_bytes(gzip.compress(plain.read_bytes()))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="cannot be kept in .*nowhere .*choose another folder by TMPDIR, or unpack"):
        load_data(f"wds:{tmp_path}/a.tgz", 16)


def test_parts_of_an_array_are_views_of_it() -> None:
    rng = np.random.default_rng(0)
    for num in (1, 2, 7, 50):
        values = rng.integers(0, 1000, (num, 3))
        before, order = values.copy(), rng.permutation(num)
        cuts = np.sort(rng.integers(0, num + 1, 2))
        parts = [order[: cuts[0]], order[cuts[0] : cuts[1]]]
        for part, view in zip(parts, parted(values, parts), strict=True):
            np.testing.assert_array_equal(view, before[part])
            assert np.shares_memory(view, values) or not len(view)
        np.testing.assert_array_equal(np.sort(values, axis=0), np.sort(before, axis=0))


PEAK = """
import sys
from pathlib import Path
from training.data import decoding, lazy, load_data

lazy.PART_BYTES = 2**22

def peak(spec, bound):
    decoding.IN_MEMORY_BYTES = bound
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    data = load_data(spec, image_size=512)
    total = sum(int(part.sum(dtype="int64")) for part in lazy.parts_of(data.train.values))
    print(total, status("VmHWM") - before, flush=True)

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

load_data("digits")
for bound in (2**22, 2**30):
    for spec in sys.argv[1:]:
        peak(spec, bound)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak")
def test_peak_memory_is_the_set_once_or_nothing_of_it(tmp_path: Path, encode: Any) -> None:
    """50 MB of pixels: in memory they are there once, lazily never (it was 2.9 times)."""
    size = 64 * 512 * 512 * 3
    (tmp_path / "p").mkdir()
    for i in range(64):
        (tmp_path / "p" / f"{i}.jpg").write_bytes(encode(np.full((32, 32, 3), (4 * i, 7, 0), np.uint8), "JPEG"))
    shard = write_shard(tmp_path / "p.tar", {file.name: file.read_bytes() for file in (tmp_path / "p").iterdir()})
    command = [sys.executable, "-c", PEAK, f"folder:{tmp_path / 'p'}", f"wds:{shard}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sums, peaks = zip(*(line.split() for line in done.stdout.splitlines()), strict=True)
    lazy, held = [int(peak) / size for peak in peaks[:2]], [int(peak) / size for peak in peaks[2:]]
    assert sums[0] == sums[2]
    assert sums[1] == sums[3]
    assert max(lazy) < 0.6
    assert all(0.7 < share < 1.2 for share in held)
