from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from export.calibration import Promise
from export.exporter import export_run
from export.graphs import ExportError
from export.versions import next_version
from latentserve.lock import Held, held


def test_two_exports_at_once_get_two_versions(tmp_path: Path) -> None:
    model = tmp_path / "models" / "m"
    with next_version(model) as first, next_version(model) as second:
        assert (first.version, second.version) == (1, 2)
        assert second.publish() == model / "2"
        assert first.publish() == model / "1"
    with next_version(model) as third:
        assert third.version == 3
    assert sorted(path.name for path in model.iterdir()) == ["1", "2"]


def test_an_export_that_fails_leaves_the_other_alone(tmp_path: Path) -> None:
    model = tmp_path / "models" / "m"
    with next_version(model) as kept:
        with pytest.raises(KeyError), next_version(model):
            raise KeyError
        (kept.folder / "bundle.json").write_text("{}")
        assert kept.publish() == model / "1"
    with pytest.raises(KeyError), next_version(tmp_path / "others" / "m"):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_what_a_killed_export_left_is_removed_and_its_number_taken(tmp_path: Path) -> None:
    (tmp_path / "m" / ".1.tmp").mkdir(parents=True)
    (tmp_path / "m" / ".1.tmp" / "encoder.onnx").write_bytes(b"half")
    (tmp_path / "m" / "²").mkdir()  # a digit, but no number
    with next_version(tmp_path / "m") as claim:
        assert (claim.version, list(claim.folder.iterdir())) == (1, [])


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    hold = f"with held(pathlib.Path({str(tmp_path)!r})): print('held', flush=True); input()"
    code = f"import pathlib\nfrom latentserve.lock import held\n{hold}"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(Held), held(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with held(tmp_path):
        pass


def test_a_level_that_the_rows_cannot_keep_is_rejected_before_any_work(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.exporter.load_model", None)
    with pytest.raises(ExportError, match="alpha: got 0.001, expected 0.00332 or more, .* 300 calibration rows"):
        export_run(run_folder, tmp_path / "models", promise=Promise(alpha=0.001))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="delta: got 0.001, expected 0.005 or more for monte_carlo"):
        Promise(delta=0.001, adjustment="monte_carlo")
