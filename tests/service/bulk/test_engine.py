"""A bundle that answers a job in this process; that its numbers are a server's: tests/integration/test_bulk.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentserve import bundle
from latentserve.errors import BundleError, InvalidInput

pytest.importorskip("pyarrow", reason="the extra `bulk`")
from latentserve.bulk.engines import Asked
from latentserve.bulk.listing import Item, listed
from service.bulk.engine import Bundle

EMBEDDING = Asked(("embedding",))


@pytest.fixture
def items(tmp_path: Path, digits: NDArray[np.uint8], encode: Any) -> list[Item]:
    for number, digit in enumerate(digits[:40]):
        (tmp_path / f"{number:02}.png").write_bytes(encode(digit))
    return listed([str(tmp_path)])


def test_answers_come_in_order_whatever_the_batches(items: list[Item], bundle_folder: Path) -> None:
    engine = Bundle(bundle_folder, EMBEDDING, "cpu")
    whole = np.concatenate([one.embeddings for one in engine.answers([items])])  # type: ignore[arg-type]
    given = [items[first : first + 3] for first in range(0, 40, 3)]
    answers = list(engine.answers(given))
    assert [one.sources for one in answers] == [[item.source for item in batch] for batch in given]
    np.testing.assert_allclose(np.concatenate([one.embeddings for one in answers]), whole, atol=1e-6)  # type: ignore[arg-type]
    assert len(np.unique(whole, axis=0)) == 40


def test_a_batch_of_nothing_but_errors_is_answered(items: list[Item], bundle_folder: Path) -> None:
    Path(items[0].file).write_bytes(b"broken")
    (found,) = Bundle(bundle_folder, Asked(("embedding", "p_value", "flagged")), "cpu").answers([items[:1]])
    assert str(found.errors[0]).startswith("got 6 bytes beginning b'broken'")


def test_a_bundle_whose_golden_rows_come_out_otherwise_answers_nothing(
    items: list[Item], copied_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Bundle(copied_bundle, EMBEDDING, "cpu")
    golden = bundle.load_golden(copied_bundle, bundle.load(copied_bundle))
    monkeypatch.setattr(bundle, "load_golden", lambda *_: golden | {"embedding": golden["embedding"] + 1})
    with pytest.raises(BundleError, match="golden rows: embedding is 1 off"):
        next(engine.answers([items]))


def test_a_bundle_that_was_changed_is_refused_before_work(copied_bundle: Path) -> None:
    (copied_bundle / "encoder.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match="encoder.onnx"):
        Bundle(copied_bundle, EMBEDDING, "cpu")


def test_its_settings_are_a_servers(items: list[Item], bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSERVE_MAX_ITEM_BYTES", "10")
    (found,) = Bundle(bundle_folder, EMBEDDING, "cpu").answers([items[:1]])
    assert found.errors == ["got more than 10 bytes, expected at most 10"]
    monkeypatch.setenv("LATENTSERVE_MAX_ITEM_BYTES", "x")
    with pytest.raises(InvalidInput, match="^LATENTSERVE_MAX_ITEM_BYTES: got 'x', expected"):
        Bundle(bundle_folder, EMBEDDING, "cpu")


def test_a_job_loads_no_torch() -> None:
    code = "import service.bulk.engine, sys; print([m for m in ('torch', 'training', 'export', 'onnx') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"
