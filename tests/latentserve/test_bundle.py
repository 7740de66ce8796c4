from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentserve import bundle
from latentserve.errors import BundleError


def change(folder: Path, **fields: Any) -> None:
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest | fields))


def test_an_exported_bundle_loads(bundle_folder: Path) -> None:
    manifest = bundle.load(bundle_folder)
    assert manifest.name == "digits-vae"
    assert manifest.outputs["embedding"].shape == (32,)
    assert manifest.outputs["reconstruction"].shape == (8, 8, 1)
    assert manifest.provenance.method == "vae"
    assert manifest.files.keys() >= {"encoder.onnx", "decoder.onnx", "scorer.onnx", "golden.npz", "report.html"}
    assert {parity.tensor for parity in manifest.parity} == set(manifest.outputs)


def test_a_changed_file_is_named_with_both_hashes(copied_bundle: Path) -> None:
    with (copied_bundle / "encoder.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"encoder.onnx: sha256: got [0-9a-f]{64}, expected [0-9a-f]{64}"):
        bundle.load(copied_bundle)


def test_a_missing_file_is_named(copied_bundle: Path) -> None:
    (copied_bundle / "decoder.onnx").unlink()
    with pytest.raises(BundleError, match="decoder.onnx: missing"):
        bundle.load(copied_bundle)


def test_a_missing_manifest_is_named(copied_bundle: Path) -> None:
    (copied_bundle / bundle.MANIFEST).unlink()
    with pytest.raises(BundleError, match="bundle.json: missing"):
        bundle.load(copied_bundle)


def test_a_newer_schema_is_refused_whatever_else_it_holds(copied_bundle: Path) -> None:
    change(copied_bundle, schema_version=bundle.SCHEMA_VERSION + 1, things_of_tomorrow=[])
    with pytest.raises(BundleError, match="schema_version: got 3, expected 1 to 2"):
        bundle.load(copied_bundle)


def test_a_bundle_of_the_first_schema_is_read(copied_bundle: Path) -> None:
    """Its detectors say nothing of conditional p-values."""
    detectors = json.loads((copied_bundle / bundle.MANIFEST).read_text())["detectors"]
    old = [{key: one[key] for key in one if key not in ("delta", "adjustment")} for one in detectors]
    change(copied_bundle, schema_version=1, detectors=old)
    assert (bundle.load(copied_bundle).detectors[0].delta, old[0].keys() & {"delta"}) == (0.1, set())


def test_a_renamed_folder_is_refused(copied_bundle: Path) -> None:
    moved = copied_bundle.rename(copied_bundle.with_name("7"))
    with pytest.raises(BundleError, match="got the bundle of digits-vae/1, expected digits-vae/7"):
        bundle.load(moved)


def test_a_file_outside_the_folder_is_refused(copied_bundle: Path) -> None:
    files = json.loads((copied_bundle / bundle.MANIFEST).read_text())["files"]
    change(copied_bundle, files=files | {"../../secret": "00"})
    with pytest.raises(BundleError, match="without folders"):
        bundle.load(copied_bundle)


def test_a_graph_without_a_hash_is_refused(copied_bundle: Path) -> None:
    files = json.loads((copied_bundle / bundle.MANIFEST).read_text())["files"]
    del files["scorer.onnx"]
    change(copied_bundle, files=files)
    with pytest.raises(BundleError, match="scorer.onnx has no sha256"):
        bundle.load(copied_bundle)


def test_calibration_is_proven_against_the_manifest(copied_bundle: Path) -> None:
    manifest = bundle.load(copied_bundle)
    scores = bundle.load_calibration(copied_bundle, manifest)["cauchy"]
    assert (np.diff(scores) >= 0).all()
    path = copied_bundle / bundle.CALIBRATION
    for broken, message in (
        (scores[::-1].copy(), "ascending"),
        (scores + 1, "sha256"),
        (scores[:-1], r"expected float32 \[300\]"),
    ):
        np.savez(path, cauchy=broken)
        with pytest.raises(BundleError, match=message):
            bundle.load_calibration(copied_bundle, manifest)
    np.savez(path, other=scores)
    with pytest.raises(BundleError, match="'cauchy' is missing"):
        bundle.load_calibration(copied_bundle, manifest)


def test_embedding_statistics_are_optional_but_whole(copied_bundle: Path) -> None:
    manifest = bundle.load(copied_bundle)
    path = copied_bundle / bundle.CALIBRATION
    scores = bundle.load_calibration(copied_bundle, manifest)
    np.savez(path, **scores)
    assert bundle.load_embedding_statistics(copied_bundle, manifest) is None
    good = {"embedding_mean": np.zeros(32, np.float32), "embedding_std": np.ones(32, np.float32)}
    np.savez(path, **scores, **good)
    mean, std = bundle.load_embedding_statistics(copied_bundle, manifest) or (None, None)
    np.testing.assert_array_equal(mean, good["embedding_mean"])
    np.testing.assert_array_equal(std, good["embedding_std"])
    bundle.load_calibration(copied_bundle, manifest)  # does not mind
    for name, broken in (
        ("embedding_mean", None),
        ("embedding_std", None),
        ("embedding_mean", np.zeros(31, np.float32)),
        ("embedding_mean", np.zeros(32)),
        ("embedding_mean", np.full(32, np.nan, np.float32)),
        ("embedding_std", np.full(32, -1, np.float32)),
    ):
        given = {key: array for key, array in (good | {name: broken}).items() if array is not None}
        np.savez(path, **scores, **given)
        with pytest.raises(BundleError, match=r"embedding_\w+: expected float32 \[32\], finite, std not below 0"):
            bundle.load_embedding_statistics(copied_bundle, manifest)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([object()]))
    with pytest.raises(BundleError, match="pickle"):
        bundle.load_arrays(path)
