"""The project's own commands, as a user types them, and the pretrained network that benchmarks import with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

IMAGENET = ("--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225")
BLOCK_17 = "python:benchmarks.encoders_brought.mobilenet:block17"


def command(module: str, *arguments: str, weights: Path | None = None) -> None:
    """Runs `python -m module`, said on stderr; raises CalledProcessError if it fails.

    Args:
        module: of the project.
        arguments: of its command line.
        weights: folder of MobileNetV2's, for sources of `benchmarks.encoders_brought.mobilenet`.
    """
    print(f"python -m {module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    given = {} if weights is None else {"MOBILENET_WEIGHTS": str(weights.resolve() / "mobilenetv2_features.pth")}
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, env=os.environ | given)
