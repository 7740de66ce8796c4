"""The bundle: the folder that training hands to serving.

    <repository>/<model name>/<version, an integer>/
        bundle.json       the manifest, a `Manifest` below
        encoder.onnx      input -> embedding [B, D], maybe latent [B, L], latent_scale [B, L], patches [B, h, w, D],
                          nll [B, 1], background_nll [B, 1], codes [B, h, w] (int16)
        decoder.onnx      latent -> reconstruction                      (where a decoder exists)
        scorer.onnx       whatever it names -> scores [B, K], maybe anomaly_map [B, h, w]   (where detectors exist)
        calibration.npz   one sorted float32 array of scores per detector (where detectors exist), and maybe
                          embedding_mean, embedding_std: float32 [D] of the calibration rows' embeddings
        golden.npz        a few real inputs with the trained model's outputs for them
        evaluation.json   the evaluation report: metrics, standard deviations, baselines; not read by the service
        report.html       a description of the model for human readers

Graphs are joined by tensor names: an output of one is the input of another with the same name,
and `input` is the client's tensor. Every file except bundle.json stands in `Manifest.files` with its
sha256. No file holds a pickle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentserve import records
from latentserve.bundle_files import check_file, check_graph, check_plain, check_text
from latentserve.bundle_files import embedding_space as embedding_space
from latentserve.bundle_files import load_arrays as load_arrays
from latentserve.bundle_files import sha256_of_file as sha256_of_file
from latentserve.bundle_parts import Detector as Detector
from latentserve.bundle_parts import Evaluation as Evaluation
from latentserve.bundle_parts import Graph as Graph
from latentserve.bundle_parts import Parity as Parity
from latentserve.bundle_parts import Provenance as Provenance
from latentserve.conformal import sha256_of_scores
from latentserve.errors import BundleError
from latentserve.inputs import ANOMALY_MAP, INPUT, AudioInput, ImageInput, TensorSpec

SCHEMA_VERSION = 4
"""2: detectors have delta and adjustment, manifests a precision. 3: images have a rule to resize by. 4: detectors
have a power and a weight and say how they were calibrated, and there may be a map."""
MANIFEST = "bundle.json"
CALIBRATION = "calibration.npz"
GOLDEN = "golden.npz"
REPORT = "report.html"
EMBEDDING_STATISTICS = "embedding_mean", "embedding_std"

Precision = Literal["float32", "float16", "int8"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> None:
    """Raises ValueError unless a model may have this name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"name: got {name!r}, expected 1 to 100 letters, digits, '.', '_' or '-', no sign in front")


@dataclass(frozen=True)
class Manifest:
    """What bundle.json holds.

    Attributes:
        schema_version: of this dataclass; a service rejects a newer schema than its own.
        name: of the model.
        version: 1 or greater.
        input: what one row is.
        graphs: by role: `encoder`, and where they exist `decoder`, `scorer`.
        embedding_space: identity of the embedding space; see `embedding_space`.
        provenance: where it came from.
        files: sha256 of every other file in the folder.
        detectors: columns of `scores`, in order; the first decides.
        default_alpha: level of the decision if a request names none, or 0 without detectors.
        parity: of each output.
        evaluations: metrics measured through the graphs.
        precision: of the encoder's weights and activations.
        map_detector: the detector whose score is the maximum of the `anomaly_map`; empty if there is no map.
    """

    schema_version: int
    name: str
    version: int
    input: ImageInput | AudioInput
    graphs: dict[str, Graph]
    embedding_space: str
    provenance: Provenance
    files: dict[str, str]
    detectors: tuple[Detector, ...] = ()
    default_alpha: float = 0.0
    parity: tuple[Parity, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    precision: Precision = "float32"
    map_detector: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.version < 1:
            raise ValueError(f"version: got {self.version}, expected 1 or greater")
        if "encoder" not in self.graphs:
            raise ValueError(f"graphs: got {sorted(self.graphs)}, expected an encoder among them")
        if bool(self.detectors) != ("scorer" in self.graphs):
            raise ValueError("detectors: a scorer needs detectors, and detectors a scorer")
        if self.detectors and not 0 < self.default_alpha < 1:
            raise ValueError(f"default_alpha: got {self.default_alpha}, expected between 0 and 1")
        if bool(self.map_detector) != (ANOMALY_MAP in self.outputs):
            raise ValueError("map_detector: a map needs its detector, and the detector a map")
        if self.map_detector and self.map_detector not in {detector.name for detector in self.detectors}:
            raise ValueError(f"map_detector: got {self.map_detector!r}, expected one of the detectors")

    @cached_property
    def outputs(self) -> dict[str, TensorSpec]:
        """Every tensor that a graph outputs, by name."""
        return {spec.name: spec for graph in self.graphs.values() for spec in graph.outputs}


def load(folder: Path) -> Manifest:
    """Reads a bundle's manifest and verifies that every file is the one it names.

    Raises:
        BundleError: no manifest, not readable, a newer schema, a file missing or changed, or not in <name>/<version>.
    """
    manifest = _read_manifest(folder)
    if (folder.parent.name, folder.name) != (manifest.name, str(manifest.version)):
        raise BundleError(
            f"{folder}: got the bundle of {manifest.name}/{manifest.version},"
            f" expected {folder.parent.name}/{folder.name}"
        )
    named = {graph.file for graph in manifest.graphs.values()} | {GOLDEN}
    if manifest.detectors:
        named.add(CALIBRATION)
    if unhashed := sorted(named - manifest.files.keys()):
        raise BundleError(f"{folder}: {unhashed[0]} has no sha256 in the manifest")
    for name, expected in manifest.files.items():
        check_file(folder, name, expected)
    for graph in manifest.graphs.values():
        check_graph(folder / graph.file)
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    check_plain(path)
    try:
        value = records.read_json(path)
        schema = value.get("schema_version")
        if not isinstance(schema, int) or not 1 <= schema <= SCHEMA_VERSION:
            raise BundleError(f"{path}: schema_version: got {schema!r}, expected 1 to {SCHEMA_VERSION}")
        check_text(path, value)
        return records.from_json(Manifest, value)
    except OSError as error:
        raise BundleError(f"{path}: missing or not readable ({error.strerror})") from error
    except records.RecordError as error:
        raise BundleError(f"{path}: {error}") from error


def load_calibration(folder: Path, manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    """The sorted calibration scores of every detector, verified against the manifest.

    Raises:
        BundleError: an array is missing, not sorted and finite, or not the one the manifest names.
    """
    if not manifest.detectors:
        return {}
    path = folder / CALIBRATION
    arrays = load_arrays(path)
    for detector in manifest.detectors:
        if (scores := arrays.get(detector.name)) is None:
            raise BundleError(f"{path}: array {detector.name!r} is missing")
        if scores.dtype != np.float32 or scores.shape != (detector.num_calibration_rows,):
            expected = f"float32 [{detector.num_calibration_rows}]"
            raise BundleError(f"{path}: {detector.name}: got {scores.dtype} {list(scores.shape)}, expected {expected}")
        if not np.isfinite(scores).all() or (np.diff(scores) < 0).any():
            raise BundleError(f"{path}: {detector.name}: expected finite scores in ascending order")
        if sha256_of_scores(scores) != detector.calibration_sha256:
            raise BundleError(f"{path}: {detector.name}: not the scores whose sha256 the manifest holds")
    return {detector.name: arrays[detector.name] for detector in manifest.detectors}


def load_embedding_statistics(folder: Path, manifest: Manifest) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Mean and standard deviation [D] of the calibration rows' embeddings; None if the bundle does not hold them.

    Raises:
        BundleError: one is missing, not float32 [D], not finite, or a negative deviation.
    """
    arrays = load_arrays(folder / CALIBRATION) if manifest.detectors else {}
    if not arrays.keys() & set(EMBEDDING_STATISTICS):
        return None
    shape = manifest.outputs["embedding"].shape
    mean, std = (arrays.get(name, np.empty(0)) for name in EMBEDDING_STATISTICS)
    for name, array in zip(EMBEDDING_STATISTICS, (mean, std), strict=True):
        if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all() or (std < 0).any():
            expected = f"float32 {list(shape)}, finite, std not below 0"
            raise BundleError(f"{folder / CALIBRATION}: {name}: expected {expected}")
    return mean, std


def load_golden(folder: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Real rows under `input`, and the trained model's outputs for them, by tensor.

    Raises:
        BundleError: there are no rows, or an array is not of rows as the manifest says.
    """
    path = folder / GOLDEN
    arrays = load_arrays(path)
    specs = {INPUT: manifest.input.spec, **manifest.outputs}
    if INPUT not in arrays or arrays.keys() - specs.keys():
        raise BundleError(f"{path}: got arrays {sorted(arrays)}, expected {INPUT!r} and some of {sorted(specs)}")
    num = max(1, *arrays[INPUT].shape[:1], 1)
    for name, array in arrays.items():
        expected = f"{specs[name].dtype} {[num, *specs[name].shape]}"
        if (got := f"{array.dtype} {list(array.shape)}") != expected:
            raise BundleError(f"{path}: {name}: got {got}, expected {expected}")
    return arrays
