"""Twelve magnetic tiles with their anomaly maps, as the server and the client make them: docs/pictures/places.png.

    python -m benchmarks.results.places_picture models tiles --faults $LATENTSERVE_DATA/magnetic-tiles

In the first row two good tiles of the bundle's test split; then the first tiles by name of each kind of fault, none
chosen by its score. Left of each pair the photograph with its mask's outline, right the client's overlay: heat, and a
box around each region that is flagged at the bundle's alpha.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from benchmarks.processes.served import ServedProcess
from benchmarks.results.places import KINDS
from export.origin import read_config
from latentserve import Client, bundle

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "places.png"
WIDTH, HEIGHT, GAP, TEXT = 150, 190, 8, 16
TILES_OF_A_KIND, COLUMNS = 2, 4
OUTLINE = (0, 210, 255)


@dataclass(frozen=True)
class Options:
    """Draws twelve tiles with their maps.

    Attributes:
        models: model repository.
        name: of the model in it, one of `folder:.../magnetic-tiles/free`.
        faults: folder of magnetic tiles.
        picture: PNG file that is written.
    """

    models: Annotated[Path, tyro.conf.Positional]
    name: Annotated[str, tyro.conf.Positional]
    faults: Path
    picture: Path = PICTURE


@dataclass(frozen=True)
class Tile:
    """One photograph.

    Attributes:
        kind: of its fault, or `good`.
        file: of the photograph.
        mask: of the fault, None for a good one.
    """

    kind: str
    file: Path
    mask: Path | None


def main(options: Options) -> int:
    """Serves, scores, draws; returns the exit status."""
    tiles = list(chosen(options))
    files = [str(tile.file) for tile in tiles]
    log = options.picture.with_suffix(".log")
    with ServedProcess(options.models, log) as server, Client(server.target) as client:
        scores = client.score(files, model=options.name, maps=True)
    log.unlink(missing_ok=True)
    pairs = [
        (outlined(tile), scores.overlay(tile.file, row=row), f"{tile.kind}, p = {scores.p_values[row]:.3f}")
        for row, tile in enumerate(tiles)
    ]
    sheet(pairs).save(options.picture, optimize=True)
    print(options.picture)
    return 0


def chosen(options: Options) -> Iterator[Tile]:
    """Two good tiles that were held out, and two of each kind."""
    folder = max((options.models / options.name).glob("[0-9]*"), key=lambda one: int(one.name))
    names = read_config(bundle.load(folder).provenance, folder).load_data().test.names_N
    assert names is not None
    for name in sorted(names)[:TILES_OF_A_KIND]:
        yield Tile("good", options.faults / "free" / Path(name).name, None)
    for kind in KINDS:
        for file in sorted((options.faults / kind).glob("*.jpg"))[:TILES_OF_A_KIND]:
            yield Tile(kind, file, options.faults / "masks" / kind / f"{file.stem}.png")


def outlined(tile: Tile) -> Image.Image:
    """The photograph with the outline of its mask."""
    picture = Image.open(tile.file).convert("RGB")
    if tile.mask is None:
        return picture
    mask = Image.open(tile.mask).convert("L").resize(picture.size, Image.Resampling.NEAREST)
    edge = ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(5)), mask)
    picture.paste(OUTLINE, mask=edge.point([0] * 128 + [255] * 128))
    return picture


def sheet(pairs: list[tuple[Image.Image, Image.Image, str]]) -> Image.Image:
    """Pairs side by side, so many in a row, with what is said of each below."""
    rows = -(-len(pairs) // COLUMNS)
    across, down = 2 * WIDTH + 3 * GAP, HEIGHT + TEXT + GAP
    page = Image.new("RGB", (COLUMNS * across + GAP, rows * down + GAP), "white")
    draw = ImageDraw.Draw(page)
    for number, (left, right, said) in enumerate(pairs):
        x, y = GAP + number % COLUMNS * across, GAP + number // COLUMNS * down
        for place, picture in enumerate((left, right)):
            small = fitted(picture)
            page.paste(small, (x + place * (WIDTH + GAP) + (WIDTH - small.width) // 2, y))
        draw.text((x, y + HEIGHT + 2), said, fill="black")
    return page


def fitted(picture: Any) -> Image.Image:
    """As large as its place, its shape kept."""
    scale = min(WIDTH / picture.width, HEIGHT / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    small: Image.Image = picture.resize(size, Image.Resampling.LANCZOS)
    return small


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.places_picture")))
