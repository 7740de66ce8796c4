"""The documents lead somewhere, name what there is, and the site can be built of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documents import PAGES, ROOT, anchors, blocks, prose

LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")
MKDOCS = ROOT / "build" / "docs-venv" / "bin" / "mkdocs"
QUESTIONS = ("method", "how-many", "how-long", "good-enough", "alpha", "client", "kserve", "tls", "kubernetes", "gpu")


class _Loader(yaml.SafeLoader):
    """One that lets pass what only mkdocs knows."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def in_nav() -> set[str]:
    """Pages of mkdocs.yml."""

    def below(entry: Any) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        return {page for one in (entry.values() if isinstance(entry, dict) else entry) for page in below(one)}

    return below(yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)["nav"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(prose(page)):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{target}#{anchor}"


def test_every_page_is_in_the_navigation() -> None:
    there = {str(page.relative_to(ROOT / "docs")) for page in PAGES}
    assert there <= in_nav()
    made = {"development/contributing.md", "development/security.md", "development/changes.md"}
    assert in_nav() - there == made | {"development/decisions.md"}


def test_the_front_page_answers_each_question_by_a_link() -> None:
    linked = {target for target, _ in LINK.findall((ROOT / "docs" / "index.md").read_text())}
    assert {f"guides/{name}.md" for name in QUESTIONS} <= linked
    assert {"start/digits.md", "start/images.md", "start/sounds.md", "results.md"} <= linked


def test_verbs_of_make_that_are_named_are_there() -> None:
    verbs = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert named <= verbs, page


def test_modules_that_are_named_are_there() -> None:
    for page in PAGES:
        for name in re.findall(
            r"python -m ((?:benchmarks|deploy|training|export|service|demo)[\w.]*)", page.read_text()
        ):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_that_are_named_are_there(page: Path) -> None:
    """Of lines that are not run: each option stands in the command's help."""
    helped = re.split(r"^## latentserve ", (ROOT / "docs/reference/command-line.md").read_text(), flags=re.MULTILINE)
    sections = {part.split()[0]: part for part in helped[1:]}
    lines = [line for block in blocks(page, "sh") for line in block.code.replace("\\\n", " ").splitlines()]
    for line in lines + re.findall(r"`(latentserve [^`]+)`", prose(page)):
        words = line.split("#")[0].split()
        if words[:1] == ["latentserve"] and len(words) > 1 and words[1].islower():
            assert words[1] in sections, line
            for option in re.findall(r" (--[\w-]+)", line):
                assert option == "--help" or re.search(rf"{option}(?![\w-])", sections[words[1]]), line


def test_the_site_can_be_built(tmp_path: Path) -> None:
    if not MKDOCS.exists():
        pytest.skip("`make docs` brings what the site is built with")
    command = [str(MKDOCS), "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "index.html").is_file()
