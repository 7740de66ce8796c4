from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentserve import bundle
from latentserve.conformal import adjustments
from latentserve.errors import BundleError
from latentserve.inputs import ImageInput, Resize
from tests.mapped import without_map


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
    with pytest.raises(BundleError, match="schema_version: got 5, expected 1 to 4"):
        bundle.load(copied_bundle)


def test_a_bundle_of_the_first_schema_is_read(copied_bundle: Path) -> None:
    """Its detectors say nothing of conditional p-values."""
    detectors = json.loads((copied_bundle / bundle.MANIFEST).read_text())["detectors"]
    old = [{key: one[key] for key in one if key not in ("delta", "adjustment")} for one in detectors]
    change(copied_bundle, schema_version=1, detectors=old)
    assert (bundle.load(copied_bundle).detectors[0].delta, old[0].keys() & {"delta"}) == (0.1, set())


@pytest.mark.parametrize("schema", [1, 2])
def test_a_bundle_that_names_no_rule_is_cropped_as_it_always_was(copied_bundle: Path, schema: int) -> None:
    given = json.loads((copied_bundle / bundle.MANIFEST).read_text())["input"]
    said = given.pop("resize")
    assert said == {"how": "crop", "shorter_side": None, "filter": "bilinear", "scaled": False, "halves": "even"}
    change(copied_bundle, schema_version=schema, input=given)
    assert bundle.load(copied_bundle).input == ImageInput(8, 8, 1, resize=Resize("crop", None, "bilinear"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"how": "squeeze"}, r"input.resize.how: got str 'squeeze', expected one of \['crop', 'fit', 'stretch'\]"),
        ({"how": "crop", "shorter_side": 7}, "shorter_side: got 7, expected 8 or more for images of 8 x 8"),
        ({"how": "fit", "shorter_side": 9}, "shorter_side: got 9 with fit, expected none"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(copied_bundle: Path, rule: dict[str, Any], message: str) -> None:
    given = json.loads((copied_bundle / bundle.MANIFEST).read_text())["input"]
    change(copied_bundle, input=given | {"resize": rule})
    with pytest.raises(BundleError, match=message):
        bundle.load(copied_bundle)


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
    name = manifest.detectors[0].name
    scores = bundle.load_calibration(copied_bundle, manifest)[name]
    assert (np.diff(scores) >= 0).all()
    path = copied_bundle / bundle.CALIBRATION
    for broken, message in (
        (scores[::-1].copy(), "ascending"),
        (scores + 1, "sha256"),
        (scores[:-1], r"expected float32 \[300\]"),
    ):
        np.savez(path, **{name: broken})
        with pytest.raises(BundleError, match=message):
            bundle.load_calibration(copied_bundle, manifest)
    np.savez(path, other=scores)
    with pytest.raises(BundleError, match=f"'{name}' is missing"):
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


@pytest.fixture(scope="module")
def manifest(bundle_folder: Path) -> bundle.Manifest:
    return without_map(bundle.load(bundle_folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name: got '', expected 1 to 100 letters"),
        ({"name": ".hidden"}, "name: got '.hidden', expected 1 to 100"),
        ({"name": "a/b"}, "name: got 'a/b', expected 1 to 100"),
        ({"name": "a" * 101}, "name: got .*expected 1 to 100"),
        ({"version": 0}, "version: got 0, expected 1 or greater"),
        ({"graphs": {}, "detectors": (), "default_alpha": 0.0}, r"graphs: got \[\], expected an encoder among them"),
        ({"detectors": ()}, "detectors: a scorer needs detectors, and detectors a scorer"),
        ({"default_alpha": 0.0}, "default_alpha: got 0.0, expected between 0 and 1"),
        ({"default_alpha": 1.0}, "default_alpha: got 1.0, expected between 0 and 1"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    manifest: bundle.Manifest, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(manifest, **changes)


def test_detectors_need_a_scorer(manifest: bundle.Manifest) -> None:
    encoder = {"encoder": manifest.graphs["encoder"]}
    with pytest.raises(ValueError, match="detectors: a scorer needs detectors"):
        replace(manifest, graphs=encoder)
    assert replace(manifest, graphs=encoder, detectors=(), default_alpha=0.0).detectors == ()


@pytest.mark.parametrize("changes", [{"name": "a"}, {"name": "Z9._-" * 20}, {"version": 1}, {"default_alpha": 0.99}])
def test_a_manifest_at_the_edge_of_what_makes_sense_is_taken(
    manifest: bundle.Manifest, changes: dict[str, Any]
) -> None:
    replace(manifest, **changes)


def test_what_a_manifest_need_not_say() -> None:
    """Bundles of before say nothing of it."""
    fields = {field.name: field.default for field in dataclasses.fields(bundle.Manifest)}
    assert (fields["detectors"], fields["parity"], fields["evaluations"]) == ((), (), ())
    assert (fields["default_alpha"], fields["precision"]) == (0.0, "float32")
    assert bundle.Detector("d", "m", 9, "").adjustment == "simes"


def test_the_smallest_p_values_are_those_of_the_largest_score() -> None:
    detector = bundle.Detector("d", "m", 19, "", delta=0.2, adjustment="dkwm")
    assert detector.smallest_p_value == 1 / 20
    assert detector.smallest_conditional_p_value == adjustments(19, 0.2, "dkwm")[0]


@pytest.mark.parametrize("version", [0, -1, "2", None, 1.5])
def test_a_schema_that_never_was_is_refused(copied_bundle: Path, version: Any) -> None:
    change(copied_bundle, schema_version=version)
    with pytest.raises(BundleError, match=f"schema_version: got {version!r}, expected 1 to 4"):
        bundle.load(copied_bundle)


def test_a_manifest_that_is_no_record_is_refused_by_its_path(copied_bundle: Path) -> None:
    change(copied_bundle, name=7)
    with pytest.raises(BundleError, match="bundle.json: .*name"):
        bundle.load(copied_bundle)


@pytest.mark.parametrize("other", ["1", "other"])
def test_a_folder_of_another_model_is_refused(copied_bundle: Path, other: str) -> None:
    if other == "1":
        change(copied_bundle, version=2)
        expected = "got the bundle of digits-vae/2, expected digits-vae/1"
    else:
        change(copied_bundle, name=other)
        expected = "got the bundle of other/1, expected digits-vae/1"
    with pytest.raises(BundleError, match=expected):
        bundle.load(copied_bundle)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", bundle.GOLDEN, bundle.CALIBRATION])
def test_what_the_service_reads_has_a_hash(copied_bundle: Path, name: str) -> None:
    files = json.loads((copied_bundle / bundle.MANIFEST).read_text())["files"]
    del files[name]
    change(copied_bundle, files=files)
    with pytest.raises(BundleError, match=f"{name} has no sha256 in the manifest"):
        bundle.load(copied_bundle)


def test_a_hash_is_that_of_the_bytes_and_names_the_space(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    sha256 = hashlib.sha256(b"abc").hexdigest()
    assert bundle.sha256_of_file(tmp_path / "a") == sha256
    assert bundle.embedding_space(sha256) == "es1-" + sha256[:32]


def test_every_detector_s_scores_are_verified(copied_bundle: Path) -> None:
    """Also those that do not decide."""
    manifest = bundle.load(copied_bundle)
    path = copied_bundle / bundle.CALIBRATION
    arrays = bundle.load_arrays(path)
    found = bundle.load_calibration(copied_bundle, manifest)
    assert list(found) == [detector.name for detector in manifest.detectors]
    for name, scores in found.items():
        np.testing.assert_array_equal(scores, arrays[name])
        tied = scores.copy()
        tied[1] = tied[0]  # equal scores are in order
        for broken, message in (
            (scores.astype(np.float64), r"got float64 \[300\], expected float32 \[300\]"),
            (scores[:, None], r"got float32 \[300, 1\], expected float32 \[300\]"),
            (np.r_[scores[:-1], np.float32(np.inf)], "expected finite scores in ascending order"),
            (np.r_[np.float32(np.nan), scores[1:]], "expected finite scores in ascending order"),
            (np.r_[scores[:-2], scores[-1], scores[-1] - np.float32(1)], "expected finite scores in ascending order"),
            (tied, "not the scores whose sha256 the manifest holds"),
        ):
            np.savez(path, **(arrays | {name: broken}))
            with pytest.raises(BundleError, match=f"{name}: {message}"):
                bundle.load_calibration(copied_bundle, manifest)


def test_without_detectors_there_is_no_calibration_to_read(manifest: bundle.Manifest, tmp_path: Path) -> None:
    graphs = {role: graph for role, graph in manifest.graphs.items() if role != "scorer"}
    bare = replace(manifest, graphs=graphs, detectors=(), default_alpha=0.0)
    assert bundle.load_calibration(tmp_path, bare) == {}
    assert bundle.load_embedding_statistics(tmp_path, bare) is None


def test_a_dimension_may_stand_still(copied_bundle: Path) -> None:
    manifest = bundle.load(copied_bundle)
    zeros = np.zeros(32, np.float32)
    np.savez(copied_bundle / bundle.CALIBRATION, embedding_mean=zeros - 1, embedding_std=zeros)
    mean, std = bundle.load_embedding_statistics(copied_bundle, manifest) or (None, None)
    np.testing.assert_array_equal(mean, zeros - 1)
    np.testing.assert_array_equal(std, zeros)


def test_arrays_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="missing.npz"):
        bundle.load_arrays(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(BundleError, match="text.npz"):
        bundle.load_arrays(tmp_path / "text.npz")


def test_files_are_called_as_bundles_that_are_served_call_them() -> None:
    names = (bundle.MANIFEST, bundle.CALIBRATION, bundle.GOLDEN, bundle.REPORT, *bundle.EMBEDDING_STATISTICS)
    assert names == (
        *("bundle.json", "calibration.npz", "golden.npz", "report.html"),
        *("embedding_mean", "embedding_std"),
    )


@pytest.mark.parametrize(
    ("num", "delta", "message"),
    [
        (0, 0.1, "num_calibration_rows: got 0, expected 1 or"),
        (9, 1.0, "delta: got 1.0, expected between 0 and 1"),
        (1, 0.5, None),
    ],
)
def test_a_detector_that_cannot_be_calibrated_is_refused(num: int, delta: float, message: str | None) -> None:
    if message is None:
        assert bundle.Detector("d", "m", num, "", delta).smallest_p_value == 0.5
        return
    with pytest.raises(ValueError, match=message):
        bundle.Detector("d", "m", num, "", delta)


def test_a_graph_that_is_no_onnx_is_refused_though_its_hash_is_right(copied_bundle: Path) -> None:
    (copied_bundle / "decoder.onnx").write_text("no graph")
    files = json.loads((copied_bundle / bundle.MANIFEST).read_text())["files"]
    change(copied_bundle, files=files | {"decoder.onnx": hashlib.sha256(b"no graph").hexdigest()})
    with pytest.raises(BundleError, match="decoder.onnx: got a file that is no ONNX"):
        bundle.load(copied_bundle)


def test_a_manifest_that_is_no_file_is_not_read(copied_bundle: Path) -> None:
    (copied_bundle / bundle.MANIFEST).unlink()
    (copied_bundle / bundle.MANIFEST).mkdir()
    with pytest.raises(BundleError, match="bundle.json: got something that is no file"):
        bundle.load(copied_bundle)


def test_a_manifest_that_no_answer_could_carry_is_refused(copied_bundle: Path) -> None:
    provenance = json.loads((copied_bundle / bundle.MANIFEST).read_text())["provenance"]
    change(copied_bundle, provenance=provenance | {"device": "\udcff"})
    with pytest.raises(BundleError, match="bundle.json: provenance: got .* in it, expected UTF-8"):
        bundle.load(copied_bundle)


def test_golden_rows_are_as_the_manifest_says(copied_bundle: Path) -> None:
    manifest = bundle.load(copied_bundle)
    path = copied_bundle / bundle.GOLDEN
    good = bundle.load_golden(copied_bundle, manifest)
    assert good.keys() == {"input", *manifest.outputs}
    one = {name: array[:1] for name, array in good.items()}
    np.savez(path, **one)
    assert len(bundle.load_golden(copied_bundle, manifest)["input"]) == 1
    for broken, message in (
        ({name: array for name, array in good.items() if name != "input"}, "got arrays .*, expected 'input' and some"),
        (good | {"more": good["input"]}, "got arrays .*'more'.*, expected 'input' and some of"),
        ({name: array[:0] for name, array in good.items()}, r"input: got uint8 \[0, 8, 8, 1\], expected uint8 \[1, 8"),
        (good | {"latent": good["latent"][:-1]}, "latent: got float32 .*, expected float32"),
        (good | {"latent": good["latent"].astype(np.float64)}, "latent: got float64 .*, expected float32"),
        (one | {"input": np.zeros((), np.uint8)}, r"input: got uint8 \[\], expected uint8 \[1, 8, 8, 1\]"),
    ):
        np.savez(path, **broken)
        with pytest.raises(BundleError, match=f"golden.npz: {message}"):
            bundle.load_golden(copied_bundle, manifest)


@pytest.mark.parametrize(
    ("name", "wrong"), [("embedding_mean", np.nan), ("embedding_std", -1), ("embedding_std", np.inf)]
)
def test_one_wrong_dimension_of_the_embedding_statistics_is_too_many(
    copied_bundle: Path, name: str, wrong: float
) -> None:
    manifest = bundle.load(copied_bundle)
    arrays = {one: np.ones(32, np.float32) for one in bundle.EMBEDDING_STATISTICS}
    arrays[name][5] = wrong
    np.savez(copied_bundle / bundle.CALIBRATION, **arrays)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=r"embedding_\w+: expected float32 \[32\], finite, std not below 0"):
        bundle.load_embedding_statistics(copied_bundle, manifest)
