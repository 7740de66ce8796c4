"""The two bundles that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from export.graphs import GraphRunner
from export.origin import read_config
from latentserve import bundle
from latentserve.bundle import MANIFEST, Manifest
from latentserve.errors import BundleError
from training.data.origin import DataOrigin
from training.data.rows import Values
from training.running.run import RunError

Label = Literal["A", "B"]


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        label: what it is called in tables.
        folder: of the bundle.
        manifest: of it.
        origin: what it was made of.
    """

    label: Label
    folder: Path
    manifest: Manifest
    origin: DataOrigin

    @property
    def name(self) -> str:
        """Name and version."""
        return f"{self.manifest.name}/{self.manifest.version}"

    @property
    def graphs(self) -> dict[str, Path]:
        """Their files, by role."""
        return {role: self.folder / graph.file for role, graph in self.manifest.graphs.items()}

    @property
    def num_bytes(self) -> int:
        """Of all graphs."""
        return sum(path.stat().st_size for path in self.graphs.values())

    @property
    def dim(self) -> int:
        """Numbers of an embedding."""
        return int(np.prod(self.manifest.outputs["embedding"].shape))

    @cached_property
    def _runners(self) -> dict[str, GraphRunner]:
        return {}

    def embeddings(self, rows: Values) -> NDArray[np.float32]:
        """Through the encoder's graph alone."""
        return self._runner("encoder").run(rows)["embedding"]

    def scores(self, rows: Values) -> NDArray[np.float32]:
        """Of the detector that decides, through all graphs."""
        return self._runner("all").run(rows)["scores"][:, 0]

    def _runner(self, which: str) -> GraphRunner:
        if which not in self._runners:
            graphs = self.manifest.graphs
            self._runners[which] = GraphRunner(self.folder, graphs.values() if which == "all" else [graphs["encoder"]])
        return self._runners[which]


def open_sides(a: Path, b: Path) -> tuple[Side, Side]:
    """Both bundles, whose rows are of one kind.

    Raises:
        BundleError: one is no bundle, or changed since it was made, or one takes images and the other sounds.
        RunError: what one was made of is not known.
    """
    side_a, side_b = _open("A", a), _open("B", b)
    kinds = side_a.manifest.input.modality, side_b.manifest.input.modality
    if kinds[0] != kinds[1]:
        raise BundleError(f"B: got a bundle of {kinds[1]}, expected one of {kinds[0]}, as A is: no row suits both")
    return side_a, side_b


def _open(label: Label, folder: Path) -> Side:
    folder = folder.resolve()
    if not (folder / MANIFEST).is_file():
        raise BundleError(
            f"{label}: got {folder}, in which is no {MANIFEST},"
            " expected the folder of a bundle, <repository>/<name>/<version>"
        )
    try:
        manifest = bundle.load(folder)
        return Side(label, folder, manifest, read_config(manifest.provenance, folder))
    except BundleError as error:
        raise BundleError(f"{label}: {error}") from error
    except RunError as error:
        raise RunError(f"{label}: {error}") from error
