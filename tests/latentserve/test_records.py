from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from latentserve import records
from latentserve.records import RecordError


@dataclass(frozen=True)
class Inner:
    size: int
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size: got {self.size}, expected 0 or more")


@dataclass(frozen=True)
class Picture:
    size: int
    modality: Literal["image"] = "image"


@dataclass(frozen=True)
class Sound:
    rate: int
    modality: Literal["audio"] = "audio"


@dataclass(frozen=True)
class Item:
    kind: Picture | Sound


@dataclass(frozen=True)
class Outer:
    name: str
    rate: float
    parts: tuple[Inner, ...] = ()
    by_name: dict[str, Inner] | None = None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record = Outer("x", 0.5, (Inner(1), Inner(2, "b")), {"k": Inner(3)})
    records.write(record, tmp_path / "r.json")
    assert records.read(Outer, tmp_path / "r.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "x"}, "Outer: key 'rate' is missing"),
        ({"name": "x", "rate": 1, "latent_dims": 2}, "unknown key 'latent_dims', expected one of"),
        ({"name": 3, "rate": 1}, "Outer.name: got int 3, expected str"),
        ({"name": "x", "rate": True}, "Outer.rate: got bool True, expected float"),
        ({"name": "x", "rate": 1, "parts": [{"size": 1.5}]}, r"Outer.parts\[0\].size: got float 1.5, expected int"),
        ({"name": "x", "rate": 1, "parts": [{"size": 1, "kind": "c"}]}, "expected one of"),
        ({"name": "x", "rate": 1, "parts": [{"size": -1}]}, "got -1, expected 0 or more"),
        ({"name": "x", "rate": 1, "by_name": {"k": 1}}, "Outer.by_name.k: got int 1, expected an object"),
        ([], "expected an object"),
    ],
)
def test_what_does_not_fit_is_refused_by_place(value: object, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        records.from_json(Outer, value)


@pytest.mark.parametrize("item", [Item(Picture(3)), Item(Sound(8000))])
def test_one_of_several_records_is_told_by_its_modality(item: Item) -> None:
    assert records.from_json(Item, records.to_json(item)) == item
    assert records.from_json(Item, {"kind": {"size": 3}}) == Item(Picture(3))  # the first, where none is named


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"modality": "smell"}, r"Item.kind.modality: got str 'smell', expected one of \['image', 'audio'\]"),
        ({"modality": ["audio"]}, "got list"),
        ({"modality": "audio", "size": 3}, "Item.kind: got unknown key 'size'"),
        (None, "Item.kind: got NoneType None, expected an object"),
    ],
)
def test_none_of_several_records_is_refused(kind: object, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        records.from_json(Item, {"kind": kind})


def test_a_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(RecordError, match="not JSON"):
        records.read(Outer, tmp_path / "r.json")


def test_bytes_of_a_name_that_are_no_utf8_can_be_printed_and_written() -> None:
    assert records.printable("caf\udce9 é \U0001f980") == r"caf\xe9 é " + "\U0001f980"
    records.printable("gr\udcfcn").encode()
