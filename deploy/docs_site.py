"""Hooks of mkdocs (mkdocs.yml): pages that stand outside of docs/, and links that lead there.

In the repository a page may link to any file. On the site CONTRIBUTING.md and its like are pages of their own, other
files are copied as text beneath `source/`, and a folder is told by its name. A link to nothing is a warning, which
`mkdocs build --strict` makes an error.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ELSEWHERE = {
    "CONTRIBUTING.md": "development/contributing.md",
    "SECURITY.md": "development/security.md",
    "CHANGELOG.md": "development/changes.md",
}
"""Pages that stand at the top of the repository, and where the site has them."""
DECISIONS = "development/decisions.md"
SOURCE = "source"
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?!\w+:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
MERMAID = ROOT / "build" / "mermaid.min.js"
"""What draws diagrams; `make docs` brings it where there is npm. Without it a reader's browser asks unpkg.com."""
_FROM_ELSEWHERE = re.compile(r'"https://unpkg\.com/mermaid@[^"]*"')
log = logging.getLogger("mkdocs.hooks.docs_site")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that stand elsewhere, the list of decisions, and each file that a page links to."""
    from mkdocs.structure.files import File

    for origin, src_uri in ELSEWHERE.items():
        files.append(File.generated(config, src_uri, content=(ROOT / origin).read_text()))
    files.append(File.generated(config, DECISIONS, content=decisions()))
    linked = {
        target
        for page in files.documentation_pages()
        for text in _parts(page.content_string)[::2]
        for found in _LINK.finditer(text)
        if (target := resolved(found["target"], origin_of(page.src_uri))) is not None
    }
    for target in sorted(linked):
        if target.is_file() and site_page(target) is None:
            name = f"{SOURCE}/{target.relative_to(ROOT)}.txt"
            files.append(File.generated(config, name, content=target.read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links that leave docs/ to where the site has what they mean."""
    here, origin = PurePosixPath(page.file.src_uri), origin_of(page.file.src_uri)
    parts = _parts(markdown)
    parts[::2] = [_LINK.sub(lambda found: rewritten(found, here, origin), text) for text in parts[::2]]
    return "".join(parts)


def on_post_build(config: Any) -> None:
    """Has diagrams drawn by a file of our own, so that the site loads nothing from elsewhere."""
    site = Path(config["site_dir"])
    if not MERMAID.is_file():
        return
    shutil.copyfile(MERMAID, site / "assets" / MERMAID.name)
    for bundle in (site / "assets" / "javascripts").glob("bundle.*.js"):
        own = f'new URL("assets/{MERMAID.name}",__md_scope).href'
        changed, num = _FROM_ELSEWHERE.subn(own, bundle.read_text())
        if not num:
            log.warning("%s: names no mermaid, expected unpkg.com's", bundle.name)
        bundle.write_text(changed)


def origin_of(src_uri: str) -> Path:
    """The folder that a page's links start from."""
    for origin, there in ELSEWHERE.items():
        if there == src_uri:
            return (ROOT / origin).parent
    return (DOCS / src_uri).parent


def resolved(target: str, origin: Path) -> Path | None:
    """The file or folder that a link means, if it is in the repository and the site does not have it by itself."""
    path = Path(os.path.normpath(origin / target))
    if not path.is_relative_to(ROOT) or (path.is_relative_to(DOCS) and origin.is_relative_to(DOCS) and path.is_file()):
        return None
    return path


def site_page(path: Path) -> str | None:
    """Where the site has a page or picture, from its top; None: nowhere."""
    if path == DOCS / "adr":
        return DECISIONS
    if path.is_relative_to(DOCS) and path.is_file():
        return path.relative_to(DOCS).as_posix()
    return ELSEWHERE.get(path.relative_to(ROOT).as_posix())


def rewritten(found: re.Match[str], here: PurePosixPath, origin: Path) -> str:
    """A link as the site needs it."""
    path = resolved(found["target"], origin)
    if path is None:
        return found[0]
    there = site_page(path)
    if there is None and path.is_file():
        there = f"{SOURCE}/{path.relative_to(ROOT)}.txt"
    if there is None:
        name = f"`{path.relative_to(ROOT).as_posix()}/`"
        if not path.is_dir():
            log.warning("%s: %s leads nowhere", here, found[0])
        return name if found["text"].strip("`/") in name else f"{found['text']} ({name})"
    relative = os.path.relpath(there, here.parent)
    return f"[{found['text']}]({relative}{found['anchor'] or ''})"


def decisions() -> str:
    """A page that lists the ADRs by their headings."""
    lines = ["# Decisions", "", "Why things are as they are, a page each. They keep the words of their time.", ""]
    for path in sorted((DOCS / "adr").glob("*.md")):
        title = path.read_text().splitlines()[0].removeprefix("# ").split(". ", 1)[1]
        lines.append(f"{int(path.name[:4])}. [{title}](../adr/{path.name})")
    return "\n".join(lines) + "\n"


def _parts(markdown: str) -> list[str]:
    """Text and fenced code in turn, beginning with text."""
    return _FENCE.split(markdown)
