"""`latentserve convert FOLDER.parquet --to WHERE`: a job's embeddings to where they are searched."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from latentserve.bulk.command import check_library
from latentserve.cli import arguments
from latentserve.cli.meter import Meter
from latentserve.cli.sinks import check_new
from latentserve.errors import InvalidInput
from latentserve.neighbours.table import Metric

WELL = 0
METRICS = get_args(Metric)
LANCEDB, QDRANT = "lancedb:", "qdrant:"
NAME = "embeddings"
NAMES = re.compile(r"[a-z_][a-z0-9_]{0,62}")
"""A name that PostgreSQL takes without quotes, and the others take, too."""


def convert(given: Sequence[str]) -> int:
    """`latentserve convert`."""
    options = _parser().parse_args(given)
    _check(options)
    check_library("job")
    from latentserve.bulk import rows

    of = rows.written(options.job)
    columns = ["id", "source", *(name for name in ("p_value", "flagged") if name in of.job.columns)]
    with Meter(rows.count(of)) as meter:
        blocks = _Counted(rows.all_blocks(of, columns), meter)
        _write(options, of, columns, blocks)
        seconds = meter.seconds()
    failed = f", {blocks.failed:,} without an embedding stay behind" if blocks.failed else ""
    print(f"{blocks.rows:,} rows in {seconds:.1f} s{failed}", file=sys.stderr)
    return WELL


def _parser() -> argparse.ArgumentParser:
    about = "A job's embeddings to an array, or to a database for vectors."
    made = arguments.Parser("latentserve convert", description=about, allow_abbrev=False)
    made.add_argument("job", type=Path, metavar="JOB", help="folder that embed --to or score --embeddings --to wrote")
    made.add_argument(
        "--to",
        required=True,
        metavar="WHERE",
        help="FILE.npy (and FILE.csv beside it); FILE.sql for psql and pgvector; lancedb:FOLDER; qdrant:FOLDER or"
        " qdrant:http://HOST:6333",
    )
    made.add_argument("--name", default=NAME, help=f"of the table or the collection (default: {NAME})")
    made.add_argument("--metric", choices=METRICS, help="of a new collection of Qdrant (default: cosine)")
    made.add_argument("--token-file", type=Path, metavar="FILE", help="API key of a Qdrant server")
    made.add_argument("--force", action="store_true", help="write over a file that exists")
    return made


def _check(options: argparse.Namespace) -> None:
    if not NAMES.fullmatch(options.name):
        expected = "small letters, digits and _, at most 63, a digit not first"
        raise InvalidInput.at("name", got=repr(options.name), expected=expected)
    is_database = options.to.startswith((LANCEDB, QDRANT))
    if options.to in (LANCEDB, QDRANT):
        raise InvalidInput.at("to", got=repr(options.to), expected=f"{options.to}FOLDER")
    if not is_database and Path(options.to).suffix.lower() not in (".npy", ".sql"):
        expected = "FILE.npy, FILE.sql, lancedb:FOLDER, qdrant:FOLDER or qdrant:http://HOST:6333"
        raise InvalidInput.at("to", got=repr(options.to), expected=expected)
    for name in ("metric", "token_file"):
        if getattr(options, name) and not options.to.startswith(QDRANT):
            raise InvalidInput.at(
                name.replace("_", "-"), got=f"it beside --to {options.to}", expected="--to qdrant:..."
            )
    if not is_database:
        check_new("to", Path(options.to), options.force)


class _Counted:
    """Blocks on their way, counted."""

    def __init__(self, blocks: Iterator[Any], meter: Meter) -> None:
        self._blocks, self._meter = blocks, meter
        self.rows = self.failed = 0

    def __iter__(self) -> Iterator[Any]:
        for block in self._blocks:
            yield block
            self.rows, self.failed = self.rows + len(block.rows), self.failed + block.num_failed
            self._meter.count(len(block.rows) + block.num_failed)


def _write(options: argparse.Namespace, of: Any, columns: list[str], blocks: _Counted) -> None:
    from latentserve.handover import lance, npy, qdrant, sql

    to: str = options.to
    if to.startswith(LANCEDB):
        lance.write(to.removeprefix(LANCEDB), of.job, columns, options.name, blocks)
    elif to.startswith(QDRANT):
        key = arguments.token(options)
        where, metric = to.removeprefix(QDRANT), options.metric or METRICS[0]
        qdrant.write(where, of.job, columns, options.name, metric, key, blocks)
    elif Path(to).suffix.lower() == npy.ARRAY:
        npy.check(Path(to), options.force)
        npy.write(Path(to), of.job, columns, blocks)
    else:
        sql.check(of.job)
        sql.write(Path(to), of.job, columns, options.name, blocks)
