"""Neighbours as a page: one file that holds its pictures, and loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from latentserve.bulk.rows import Written
from latentserve.cli.beside import beside
from latentserve.neighbours.pictures import shown
from latentserve.neighbours.queries import Query
from latentserve.neighbours.table import Metric, Neighbour

STYLE = """
:root { color-scheme: light dark; --soft: light-dark(#4b5a67, #aebac5); --panel: light-dark(#f3f6f8, #1c252d);
  --accent: light-dark(#1a659e, #7db8e8) }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem 1rem 4rem;
  color: light-dark(#1c2733, #e6ebef); background: light-dark(#fff, #12181d) }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .8rem; overflow-wrap: anywhere }
p { color: var(--soft); overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: .9rem }
figure { margin: 0 } figcaption { font-size: .8rem; line-height: 1.35; margin-top: .3rem; color: var(--soft);
  overflow-wrap: anywhere }
figcaption b { color: light-dark(#1c2733, #e6ebef); font-variant-numeric: tabular-nums }
.query > :first-child { outline: 3px solid var(--accent); outline-offset: 2px }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--panel); border-radius: 3px }
.coarse { image-rendering: pixelated } audio { width: 100% }
.none { display: flex; align-items: center; aspect-ratio: 1; padding: .5rem; font-size: .75rem; overflow: auto;
  overflow-wrap: anywhere; color: var(--soft); background: var(--panel); border-radius: 3px }
"""


def page(of: Written, metric: Metric, found: Sequence[tuple[Query, Sequence[Neighbour]]], column: str | None) -> str:
    """The page as HTML.

    Args:
        of: the job.
        metric: of the distances.
        found: each query and its neighbours.
        column: that holds the bytes of items of Parquet tables, if it is named.
    """
    job = of.job
    about = f"{metric} distance in {job.embedding_space} (model {job.model}, version {job.version}), rows of {of.path}"
    sections = "\n".join(_section(query, neighbours, column) for query, neighbours in found)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Neighbours</title>\n<style>{STYLE}</style>\n<h1>Neighbours</h1>\n<p>{escape(about)}</p>\n"
        f"{sections}\n</html>\n"
    )


def write(path: Path, text: str) -> None:
    """Writes the page, all of it or nothing. Raises OSError that names the file."""
    with beside(path) as (part,):
        part.write_text(text, encoding="utf-8")


def _section(query: Query, neighbours: Sequence[Neighbour], column: str | None) -> str:
    tiles = [_figure("query", query.name, query.id, "query", column)]
    tiles += [_figure(f"{one.distance:.4f}", one.source, one.id, "", column) for one in neighbours]
    return f'<h2>{escape(query.name)}</h2>\n<div class="tiles">\n{"".join(tiles)}</div>'


def _figure(told: str, source: str, sha256: str | None, kind: str, column: str | None) -> str:
    caption = f"<figcaption><b>{told}</b> {escape(source)}</figcaption>"
    return f'<figure class="{kind}">{shown(source, sha256, column)}{caption}</figure>\n'
