"""`latentserve neighbours FOLDER.parquet --query FILE`: the items of a job that are most alike."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import numpy as np

from latentserve.bulk.command import check_engine, check_library, engine_of
from latentserve.cli import arguments
from latentserve.cli.sinks import Sink, check_file, check_new, sink
from latentserve.errors import InvalidInput, Unsupported
from latentserve.neighbours.table import COLUMNS, Metric, Neighbour, Table, record_of

WELL = 0
COUNT = 20
METRICS = get_args(Metric)


def neighbours(given: Sequence[str]) -> int:
    """`latentserve neighbours`."""
    options = _parser().parse_args(given)
    _check(options)
    check_library("job")
    from latentserve.bulk import rows
    from latentserve.neighbours import nearest, page, queries

    of = rows.written(options.job)
    asked = _queries(options, of)
    if options.metric == "cosine":
        queries.check_directed(asked)
    began = time.monotonic()
    vectors = np.stack([query.vector for query in asked]).astype(np.float64)
    found = nearest.search(of, vectors, options.metric, options.count, [query.place for query in asked])
    told = [(query, _named(of, near)) for query, near in zip(asked, found.nearest, strict=True)]
    seconds = time.monotonic() - began
    failed = f", {found.num_failed:,} more have no embedding" if found.num_failed else ""
    print(f"{found.num_rows:,} rows compared in {seconds:.1f} s{failed}", file=sys.stderr)
    with _lines(options) as lines:
        for query, some in told:
            for rank, one in enumerate(some, 1):
                lines.write(record_of(query.name, rank, one), None)
    if options.html:
        page.write(options.html, page.page(of, options.metric, told, options.column))
    return WELL


def _parser() -> argparse.ArgumentParser:
    made = arguments.parser("neighbours", "The items of a job that are most alike, the nearest first.")
    made.add_argument("job", type=Path, metavar="JOB", help="folder that embed --to or score --embeddings --to wrote")
    made.add_argument("--query", nargs="+", default=[], metavar="FILE", help="embedded by --bundle, or by a server")
    made.add_argument("--query-id", nargs="+", default=[], metavar="ID", help="rows of the job: their ids or sources")
    made.add_argument("--metric", choices=METRICS, default=METRICS[0], help="distance (default: cosine)")
    made.add_argument("--count", type=int, default=COUNT, metavar="N", help=f"of each query (default: {COUNT})")
    made.add_argument("--html", type=Path, metavar="FILE", help="write a page with the pictures, too")
    made.add_argument("--column", metavar="NAME", help="of Parquet tables, for the page: holds the bytes of items")
    arguments.with_out(made, "file for the table: .csv or .jsonl")
    arguments.with_model(made)
    arguments.with_bundle(made)
    return made


def _check(options: argparse.Namespace) -> None:
    check_engine(options)
    if not options.query and not options.query_id:
        raise InvalidInput("query: got none, expected --query FILE or --query-id ID")
    if options.count < 1:
        raise InvalidInput.at("count", got=options.count, expected="1 or more")
    if options.out is not None:
        check_file(options.out, force=options.force)
    if options.html is None:
        if options.column:
            raise InvalidInput("column: got it alone, expected --html FILE beside it")
        return
    if importlib.util.find_spec("PIL") is None:
        raise Unsupported("html: got no Pillow, expected it: pip install pillow")
    check_new("html", options.html, options.force)


def _lines(options: argparse.Namespace) -> AbstractContextManager[Sink]:
    if options.out is None and options.format in (None, "table"):
        return Table()
    return sink(options.out, options.format, COLUMNS, force=options.force)


def _queries(options: argparse.Namespace, of: Any) -> list[Any]:
    from latentserve.bulk.engines import Asked
    from latentserve.neighbours import queries

    found = queries.of_rows(options.query_id, of)
    if options.query:
        queries.check_files(options.query)
        with engine_of(options, Asked(("embedding",))) as engine:
            found = queries.of_files(options.query, engine, of) + found
    return found


def _named(of: Any, near: Sequence[Any]) -> list[Neighbour]:
    from latentserve.bulk.rows import taken

    rows = taken(of, [one.place for one in near], ["id", "source"])
    return [Neighbour(one.distance, row["source"], row["id"]) for one, row in zip(near, rows, strict=True)]
