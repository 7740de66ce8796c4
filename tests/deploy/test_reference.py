"""docs/reference is what the code says."""

from __future__ import annotations

import sys

import pytest

from deploy.reference.__main__ import FOLDER, PAGES
from latentserve.cli.main import COMMANDS
from latentserve.v1 import embedding_pb2 as pb
from service.config import Config
from training.methods import METHODS


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_what_the_code_says(name: str) -> None:
    if name == "command-line.md" and sys.version_info[:2] != (3, 11):
        pytest.skip("argparse words its help otherwise in every version; the page is of 3.11")
    assert (FOLDER / name).read_text() == PAGES[name](), "run python -m deploy.reference"


def test_the_folder_has_no_other_page() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


def test_nothing_is_left_out() -> None:
    line, protocol = (FOLDER / "command-line.md").read_text(), (FOLDER / "protocol.md").read_text()
    for name in COMMANDS:
        assert f"\n## latentserve {name}\n" in line
    for name in METHODS:
        assert f"\n### latentserve train {name}\n" in line
    for name, message in pb.DESCRIPTOR.message_types_by_name.items():
        section = protocol.split(f"\n### {name}\n")[1].split("\n### ")[0]
        for field in message.fields:
            assert f"| `{field.name}` | {field.number} |" in section, f"{name}.{field.name}"
    for enum in pb.DESCRIPTOR.enum_types_by_name.values():
        for value in enum.values:
            assert f"| `{value.name}` | {value.number} |" in protocol
    settings = (FOLDER / "settings.md").read_text()
    for setting in Config.model_fields:
        assert f"| `--{setting.replace('_', '-')}` |" in settings
