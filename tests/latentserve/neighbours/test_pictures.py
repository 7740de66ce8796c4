"""What a page shows of an item: read where it stands, in a file, a shard or a table."""

from __future__ import annotations

import base64
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

pa = pytest.importorskip("pyarrow", reason="the extra `bulk`")
import pyarrow.parquet as pq  # noqa: E402

from latentserve.errors import InvalidInput  # noqa: E402
from latentserve.neighbours import pictures  # noqa: E402
from latentserve.neighbours.pictures import bytes_of, shown  # noqa: E402
from tests.latentserve.bulk.writing import id_of  # noqa: E402


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def png(width: int, height: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(buffer, kind)
    return buffer.getvalue()


def size(html: str) -> tuple[int, int]:
    found = re.search(r"data:image/\w+;base64,([\w+/=]+)", html)
    assert found, html
    return Image.open(io.BytesIO(base64.b64decode(found[1]))).size


def test_small_pictures_keep_their_pixels_and_large_ones_become_small() -> None:
    Path("small.png").write_bytes(png(40, 30))
    Path("large.jpg").write_bytes(png(1000, 500, "JPEG"))
    assert size(small := shown("small.png", id_of(png(40, 30)))) == (40, 30)
    assert 'class="coarse"' in small
    assert size(large := shown("large.jpg", None)) == (192, 96)
    assert 'class="fine"' in large


def test_members_of_shards() -> None:
    with tarfile.open("a.tar", "w") as tar:
        for name, data in (("./one.png", b"one"), ("b.tar/two.png", b"two"), ("b.tar/two.png", b"last")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert bytes_of("a.tar/./one.png", id_of(b"one")) == b"one"
    assert bytes_of("a.tar/b.tar/two.png", id_of(b"last")) == b"last"
    with pytest.raises(InvalidInput, match=r"a file that can be read \(Not a directory\)"):
        bytes_of("a.tar/three.png", None)
    Path("bad.tar").write_bytes(b"x" * 1024)
    with pytest.raises(InvalidInput, match="a tar that can be read"):
        bytes_of("bad.tar/one.png", None)


def test_rows_of_tables() -> None:
    structs = [{"bytes": b"one", "path": "x"}, {"bytes": None, "path": "y"}]
    pq.write_table(pa.table({"image": structs, "label": [1, 2]}), "one.parquet")
    pq.write_table(pa.table({"a": [b"one", b"two"], "b": [b"x", b"y"]}), "two.parquet")
    assert bytes_of("one.parquet[0]", id_of(b"one")) == b"one"
    with pytest.raises(InvalidInput, match="nothing is in its column image"):
        bytes_of("one.parquet[1]", None)
    with pytest.raises(InvalidInput, match=r"column: got none, expected the one of bytes, of \['a', 'b'\] which"):
        bytes_of("two.parquet[1]", None)
    assert bytes_of("two.parquet[1]", None, "a") == b"two"
    with pytest.raises(InvalidInput, match="expected a file that can be read"):
        bytes_of("two.parquet[7]", None, "a")
    Path("file[1].png").write_bytes(b"a name like a row's")
    assert bytes_of("file[1].png", None) == b"a name like a row's"


def test_sounds_are_heard() -> None:
    soundfile.write("clip.wav", np.zeros(800, np.int16), 8000)
    html = shown("clip.wav", None)
    assert html.startswith('<audio controls src="data:audio/wav;base64,')
    soundfile.write("long.wav", np.zeros(2 << 20, np.int16), 8000)
    assert "sound: got" in shown("long.wav", None)


def test_what_is_not_there_or_another_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("new.png").write_bytes(png(4, 4))
    assert shown("new.png", id_of(b"old")) == '<div class="none">changed since it was embedded</div>'
    assert "(No such file or directory)" in shown("<i>.png", None)
    assert "<i>" not in shown("<i>.png", None)
    monkeypatch.setattr(pictures, "MOST_BYTES", 5)
    assert "got more than 5 bytes" in shown("new.png", None)
