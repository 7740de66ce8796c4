"""`python -m deploy.reference`: writes the pages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from deploy.reference import commands, errors, manifest, protocol, python_api, settings

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "command-line.md": commands.page,
    "settings.md": settings.page,
    "protocol.md": protocol.page,
    "python.md": python_api.page,
    "errors.md": errors.page,
    "manifest.md": manifest.page,
}
"""Of each file of docs/reference what writes it."""


def main() -> int:
    """Writes the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
        print(FOLDER / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
