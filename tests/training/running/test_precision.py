"""bfloat16 where it is multiplied, and nowhere else unless it is asked for by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.__main__ import Options, run_training
from training.methods.vae import VaeConfig
from training.running.precision import Precision, bfloat16_here, exact_precision, multiplies_bfloat16, warning
from training.running.run import open_run
from training.schedule import LoopConfig


@pytest.mark.parametrize("name", ["amx_bf16", "avx512_bf16", "bf16"])
def test_cpus_that_multiply_bfloat16_say_so(name: str) -> None:
    assert multiplies_bfloat16("cpu", {"avx2": True, name: True})
    assert not multiplies_bfloat16("cpu", {"avx2": True, "avx512_f": True, name: False})
    assert not multiplies_bfloat16("mps", {name: True})


def test_auto_is_bfloat16_only_where_it_is_multiplied() -> None:
    assert exact_precision("auto", bfloat16=True) == "bf16-mixed"
    assert exact_precision("auto", bfloat16=False) == "32-true"


def test_what_is_asked_for_by_name_is_given_with_a_warning_where_it_is_emulated() -> None:
    assert exact_precision("bf16-mixed", bfloat16=False) == "bf16-mixed"
    assert "auto takes float32 here" in str(warning("bf16-mixed", bfloat16=False))
    asked: Precision
    for asked, bfloat16 in (("bf16-mixed", True), ("32-true", False), ("auto", False)):
        assert warning(asked, bfloat16) is None


@pytest.mark.parametrize(("precision", "told"), [("auto", bfloat16_here()), ("32-true", False), ("bf16-mixed", True)])
def test_a_run_tells_what_its_products_were(precision: Precision, told: bool, tmp_path: Path) -> None:
    config = VaeConfig(latent_dim=2, embedding_dim=8, width=2)
    loop = LoopConfig(precision=precision, batch_rows=512)
    folder = run_training("vae", config, Options(smoke=True, run=tmp_path / "run", loop=loop))
    assert open_run(folder)[1].device.endswith(", bfloat16") is told
