"""`latentserve evaluate FOLDER`: of a run through torch, of a bundle through its graphs."""

from __future__ import annotations

import importlib
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    folder = next((one for one in arguments if not one.startswith("-")), "")
    if not folder and {"-h", "--help"} & set(arguments):
        print("Of a run, as below. What there is for a bundle: latentserve evaluate BUNDLE --help\n")
    module = "export.__main__" if (Path(folder) / "bundle.json").exists() else "training.__main__"
    status: int = importlib.import_module(module).main(["evaluate", *arguments])
    return status
