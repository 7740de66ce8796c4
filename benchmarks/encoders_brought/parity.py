"""Whether an imported encoder, served, gives what its own library gives: from the file to the embedding.

    python -m benchmarks.encoders_brought.weights /tmp/weights
    python -m benchmarks.encoders_brought.parity --weights /tmp/weights --work build/parity

Each source is imported and served. 50 JPEGs go to the server as they are: two photographs, magnetic tiles (grey, all
of other sizes) and images of CIFAR-10. The same files go through the library's own preprocessing and its own network.

- error: largest difference of a number of an embedding, divided by the largest absolute number of the library's.
- least cosine: of an embedding with the library's; beside it the median cosine of two files, which says how much
  it takes to be near.

Bars: 1e-4 and 0.9999. Rows below a source are of pipelines that differ by design, for which no bar is set.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import sklearn
import tyro
from numpy.typing import NDArray

from benchmarks.encoders_brought import pipelines
from benchmarks.encoders_brought.mobilenet import WEIGHTS
from benchmarks.encoders_brought.pipelines import (
    IMAGE_SIZE,
    MEAN,
    NSFW_MEAN,
    NSFW_POOLED,
    SHORTER_SIDE,
    STD,
    Pipeline,
    Place,
    write_dinov2,
)
from benchmarks.processes.served import ServedProcess
from latentserve import Client, records
from latentserve.bundle import MANIFEST
from training.options import check_options

RECORD = Path(__file__).resolve().parents[2] / "docs" / "results" / "encoders_parity.json"
MOST_ERROR, LEAST_COSINE = 1e-4, 0.9999
COMPARED, IN_FOLDER = 50, 150
"""Files that are compared, and those that the bundles' detectors are fitted on and calibrated with."""
TILES = 100
LIBRARIES = ("timm", "torchvision", "transformers", "pillow")


@dataclass(frozen=True)
class Source:
    """An encoder, and how its own library embeds a file.

    Attributes:
        spec: as it is imported; {weights} and {hf} are folders.
        arguments: of the import.
        own: its library's pipeline.
        others: pipelines of the library that differ by design, by what differs.
    """

    spec: str
    own: Pipeline
    arguments: tuple[str, ...] = ()
    others: dict[str, Pipeline] = dataclasses.field(default_factory=dict)


def _numbers(values: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(f"{value:g}" for value in values)


NORMAL = ("--mean", *_numbers(MEAN), "--std", *_numbers(STD))
CROP = ("--image-size", f"{IMAGE_SIZE}", "--resize", "crop", "--shorter-side", f"{SHORTER_SIDE}")
BGR = ("--order", "BGR", "--scale", "integers", "--mean", *_numbers(NSFW_MEAN), "--embedding", NSFW_POOLED)
BLOCK17 = "python:benchmarks.encoders_brought.mobilenet:block17"
SOURCES = {
    "timm": Source("timm:tf_efficientnet_lite0={weights}/efficientnet_lite0.safetensors", pipelines.timm_s),
    "torchvision": Source(
        "torchvision:mobilenet_v2={weights}/mobilenetv2_features.pth",
        pipelines.torchvision_s,
        others={"resized by torch, on tensors": pipelines.torchvision_s_on_tensors},
    ),
    "python": Source(BLOCK17, pipelines.block17_s, ("--image-size", "96", "--resize", "stretch", *NORMAL)),
    "onnx": Source("onnx:{weights}/mobilenetv2.onnx", pipelines.mobilenet_onnx_s, (*CROP, *NORMAL)),
    "onnx_bgr": Source(
        "onnx:{weights}/nsfw.onnx",
        pipelines.nsfw_s,
        (*CROP, *BGR),
        {
            "stretched to 256 x 256, of this the centre": pipelines.nsfw_s_stretched,
            "its package: so stretched, then through a JPEG of quality 75": pipelines.nsfw_s_package,
        },
    ),
    "hf": Source("hf:{hf}", pipelines.hf_s, others={"resized by torchvision, on tensors": pipelines.hf_s_by_default}),
}


@dataclass(frozen=True)
class Options:
    """Compares served embeddings to those of the encoders' own libraries.

    Attributes:
        weights: folder of `benchmarks.encoders_brought.weights`.
        work: folder of bundles, which are kept.
        only: some of the sources; default: all.
        record: keep the figures in docs/results/encoders_parity.json.
        table: print what was recorded, and do nothing else.
    """

    weights: Path = Path("/tmp/weights")
    work: Path = Path("build/parity")
    only: tuple[str, ...] = ()
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Finding:
    """A source, or another pipeline of its library's.

    Attributes:
        source: as it was imported, without folders.
        differs: what differs by design; empty: nothing should.
        absolute: largest difference.
        relative: the same, of the largest absolute number of the library's.
        least_cosine: of an embedding with the library's.
        median_between: cosine of two files, by the library.
    """

    source: str
    differs: str
    absolute: float
    relative: float
    least_cosine: float
    median_between: float

    @property
    def fits(self) -> bool:
        """Whether the bars are kept."""
        return bool(self.differs) or (self.relative <= MOST_ERROR and self.least_cosine >= LEAST_COSINE)


@dataclass(frozen=True)
class Findings:
    """Of all sources; golden rows are checked by the server itself, which serves no bundle that differs from them."""

    findings: tuple[Finding, ...]
    num_files: int
    sizes: int
    versions: dict[str, str]


def main(options: Options) -> int:
    """Measures, or prints what was; returns 1 if a source misses a bar."""
    check_options(options)
    if options.table:
        print(table(records.read(Findings, RECORD)))
        return 0
    unknown = sorted(set(options.only) - set(SOURCES))
    if unknown:
        print(f"error: only: got {unknown[0]!r}, expected one of {', '.join(SOURCES)}", file=sys.stderr)
        return 2
    found = measure(options)
    print(table(found))
    if options.record:
        records.write(found, RECORD)
    return 0 if all(one.fits for one in found.findings) else 1


def measure(options: Options) -> Findings:
    """Imports what is not there, serves all, compares."""
    os.environ[WEIGHTS] = str((options.weights / "mobilenetv2_features.pth").resolve())
    place = Place(options.weights.resolve(), options.work.resolve())
    folder = place.work / "photos"
    if not folder.exists():
        write_photos(folder)
    if not place.hf.exists():
        write_dinov2(place.hf)
    names = options.only or tuple(SOURCES)
    for name in names:
        imported(place, name, folder)
    files = [file.read_bytes() for file in sorted(folder.iterdir())[:COMPARED]]
    served = {}
    with ServedProcess(place.work / "models", place.work / "server.log") as server, Client(server.target) as client:
        for name in names:
            served[name] = client.embed(files, model=name)
    found = [one for name in names for one in compared(place, SOURCES[name], files, served[name])]
    sizes = len({pipelines.opened(file).size for file in files})
    return Findings(tuple(found), len(files), sizes, versions())


def write_photos(folder: Path) -> None:
    """JPEGs as they lie in the data sets, byte for byte; of the first ones there are some of each kind."""
    data = Path(os.environ["LATENTSERVE_DATA"])
    photos = sorted((Path(sklearn.__file__).parent / "datasets" / "images").glob("*.jpg"))
    tiles = sorted(file for file in (data / "magnetic-tiles").glob("*/*.jpg") if file.parent.name != "masks")
    files = {file.name: file.read_bytes() for file in photos}
    files |= {file.name: file.read_bytes() for file in tiles[:: len(tiles) // TILES][:TILES]}
    with tarfile.open(data / "cifar10-jpeg" / "test-0000.tar.gz") as shard:
        for member in shard:
            if len(files) == IN_FOLDER:
                break
            if member.name.endswith(".jpg") and (file := shard.extractfile(member)):
                files[Path(member.name).name] = file.read()
    order = [*range(len(photos)), *(len(photos) + np.random.default_rng(0).permutation(len(files) - len(photos)))]
    named = list(files.items())
    folder.mkdir(parents=True)
    for number, index in enumerate(order):
        name, content = named[index]
        (folder / f"{number:03d}-{name}").write_bytes(content)


def imported(place: Place, name: str, folder: Path) -> None:
    """One bundle, if it is not there."""
    if any((place.work / "models" / name).glob(f"[0-9]*/{MANIFEST}")):  # not what an import that was killed left
        return
    source = SOURCES[name]
    spec = source.spec.format(weights=place.weights, hf=place.hf)
    command = [sys.executable, "-m", "export", "import", spec, "--data", f"folder:{folder}", "--name", name]
    command += ["--to", str(place.work / "models"), "--report", "none", *source.arguments]
    subprocess.run(command, check=True)


def compared(place: Place, source: Source, files: list[bytes], served_ND: NDArray[np.float32]) -> list[Finding]:
    """The library's own pipeline, and those that differ by design."""
    shown = source.spec.replace("{weights}/", "").replace("{hf}", "dinov2")
    both = {"": source.own, **source.others}
    return [finding(shown, differs, served_ND, own(place, files)) for differs, own in both.items()]


def finding(source: str, differs: str, served_ND: NDArray[np.float32], own_ND: NDArray[np.float32]) -> Finding:
    """Of two embeddings of the same files."""
    if served_ND.shape != own_ND.shape:
        raise SystemExit(f"{source}: got embeddings {served_ND.shape}, expected {own_ND.shape}")
    absolute = float(np.abs(served_ND - own_ND).max())
    exact = (one.astype(np.float64) for one in (served_ND, own_ND))
    served, own = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in exact)
    between = (own @ own.T)[np.triu_indices(len(own), 1)]
    least = float((served * own).sum(axis=1).min())
    return Finding(source, differs, absolute, absolute / float(np.abs(own_ND).max()), least, float(np.median(between)))


def versions() -> dict[str, str]:
    """Of the libraries that are compared to."""
    return {name: metadata.version(name) for name in LIBRARIES}


def table(found: Findings) -> str:
    """As Markdown."""
    lines = ["| source | largest error | of the largest number | least cosine | median cosine of two files | |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | --- |"]
    for one in found.findings:
        name = f"{one.differs} (differs by design)" if one.differs else f"`{one.source}`"
        numbers = f"{one.absolute:.2g} | {one.relative:.2g} | {one.least_cosine:.7f} | {one.median_between:.3f}"
        lines.append(f"| {name} | {numbers} | {'' if one.differs else 'kept' if one.fits else 'missed'} |")
    names = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    lines += ["", f"{found.num_files} JPEGs of {found.sizes} sizes; {names}."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
