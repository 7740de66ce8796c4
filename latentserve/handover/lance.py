"""A table of LanceDB, which is a Lance data set in a folder. Needs lancedb (extra `lancedb`).

A new table is one commit, so that a process which is killed leaves none. Into one that is there rows are merged by
their source, some ten thousand a commit: killed and given again, each is there once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from latentserve.bulk.rows import Block
from latentserve.bulk.schema import EMBEDDING, Job, schema
from latentserve.errors import InvalidInput, LatentserveError, Unsupported

MERGED_ROWS = 16_384
SPACE, KEY = "embedding_space", "source"


def write(where: str, job: Job, columns: list[str], table: str, blocks: Iterable[Block]) -> None:
    """Writes the rows.

    Args:
        where: folder, or whatever LanceDB connects to.
        job: whose rows these are.
        columns: beside the embedding, all in `others` of the blocks.
        table: its name.
        blocks: the rows.

    Raises:
        Unsupported: lancedb is not installed.
        InvalidInput: a table of that name has other rows, or it cannot be written, or a part is broken.
    """
    try:
        import lancedb
    except ModuleNotFoundError as error:
        what = "to: LanceDB needs lancedb, which is missing: pip install 'latentserve[lancedb]'"
        raise Unsupported(what) from error
    given = schema(job)
    kinds = pa.schema([*(given.field(name) for name in (*columns, SPACE)), given.field(EMBEDDING)])
    faults: list[LatentserveError] = []
    batches = (_batch(block, job, columns, kinds) for block in _watched(blocks, faults))
    try:
        database = lancedb.connect(where)
        try:
            there = database.open_table(table)
        except ValueError:  # none of that name
            database.create_table(table, pa.RecordBatchReader.from_batches(kinds, batches))
            return
        _check(there, job, kinds, f"lancedb:{where}, table {table}")
        for some in _gathered(batches):
            merging = there.merge_insert(KEY).when_matched_update_all().when_not_matched_insert_all()
            merging.execute(pa.Table.from_batches(some))
    except (OSError, RuntimeError) as error:
        if faults:
            raise faults[0] from error
        expected = f"a place that LanceDB can write to ({str(error).splitlines()[0]})"
        raise InvalidInput.at("to", got=f"lancedb:{where}", expected=expected) from error


def _watched(blocks: Iterable[Block], faults: list[LatentserveError]) -> Iterator[Block]:
    """Blocks, whose errors are kept: on their way through Arrow they become texts."""
    try:
        yield from blocks
    except LatentserveError as error:
        faults.append(error)
        raise


def _batch(block: Block, job: Job, columns: list[str], kinds: Any) -> Any:
    num = len(block.rows)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(block.embeddings.ravel()), type=kinds.field(EMBEDDING).type)
    spaces = pa.array([job.embedding_space] * num, pa.string())
    arrays = [*(block.others.column(name) for name in columns), spaces, lists]
    return pa.RecordBatch.from_arrays(arrays, schema=kinds)


def _gathered(batches: Iterable[Any]) -> Iterator[list[Any]]:
    """Batches of MERGED_ROWS or a little more together."""
    rest = iter(batches)
    for first in rest:
        some, num = [first], first.num_rows
        for batch in rest:
            some.append(batch)
            num += batch.num_rows
            if num >= MERGED_ROWS:
                break
        yield some


def _check(there: Any, job: Job, kinds: Any, place: str) -> None:
    if there.schema.names != kinds.names or there.schema.field(EMBEDDING).type != kinds.field(EMBEDDING).type:
        got = f"{place} of {_told(there.schema)}"
        raise InvalidInput.at("to", got=got, expected=f"{_told(kinds)}, or another --name")
    rows = there.search().select([SPACE]).limit(1).to_list()
    for row in itertools.islice(rows, 1):
        if row[SPACE] != job.embedding_space:
            expected = f"{job.embedding_space!r}, that of the job, or another --name"
            raise InvalidInput.at(SPACE, got=f"{row[SPACE]!r} in {place}", expected=expected)


def _told(kinds: Any) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in kinds)
