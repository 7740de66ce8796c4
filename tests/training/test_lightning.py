"""Lightning is loaded without what it does not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_methods_load_nothing_that_torchmetrics_could_measure_with() -> None:
    code = "import training.methods, sys; print({'transformers', 'torchvision', 'torchmetrics'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
