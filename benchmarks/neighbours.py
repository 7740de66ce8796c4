"""How long `latentserve neighbours` takes over many rows, and what an index would give and cost.

    python -m benchmarks.neighbours                                       200,000 rows of 256 numbers
    python -m benchmarks.neighbours --rows 1000000 --against usearch faiss lancedb --index-rows 50000

Rows are random, in a thousand clusters; after 100 parts they repeat, as files of their own. The command is a process of
its own: its seconds, its CPU seconds (on a machine that others use, too, these are the steady figure) and its largest
resident set. An index is built over the first `index_rows` of the same rows, if its library is installed; recall is the
share of the 20 nearest rows by cosine that it returns. LanceDB without an index is a scan, as ours.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from latentserve.bulk import folder
from latentserve.bulk.rows import all_blocks, written
from latentserve.bulk.schema import Answers, Job, table
from training.options import check_options

CLUSTERS = 1000
QUERIES = 20
COUNT = 20
PART_ROWS, DIFFERENT_PARTS = 1024, 100
Library = Literal["usearch", "faiss", "lancedb"]
IMPORTS = {"usearch": "usearch.index", "faiss": "faiss", "lancedb": "lancedb"}


@dataclass(frozen=True)
class Options:
    """Exact search beside indexes.

    Attributes:
        rows: of the job.
        numbers: of an embedding.
        against: libraries of indexes.
        index_rows: of which an index is built.
        work: folder of the job, which stays.
    """

    rows: int = 200_000
    numbers: int = 256
    against: tuple[Library, ...] = ()
    index_rows: int = 50_000
    work: Path = Path("build/neighbours")

    def __post_init__(self) -> None:
        for name in ("rows", "numbers", "index_rows"):
            if getattr(self, name) < QUERIES:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected {QUERIES} or more")


@dataclass(frozen=True)
class Cost:
    """Of a process or of some work in this one."""

    seconds: float
    cpu_seconds: float
    peak_mib: float = 0.0


def main(options: Options) -> int:
    """Measures; returns the exit status."""
    check_options(options)
    path = job(options)
    print("| what | seconds | CPU seconds | peak memory, MiB |")
    print("| --- | ---: | ---: | ---: |")
    command = ["neighbours", str(path), "--query-id", f"photos/{min(options.rows // 2, 50_000)}.jpg"]
    told("latentserve models --help", process([sys.executable, "-m", "latentserve", "models", "--help"]))
    told(f"latentserve neighbours, {options.rows:,} rows", process([sys.executable, "-m", "latentserve", *command]))
    told(f"latentserve neighbours, {QUERIES} queries", process([sys.executable, "-m", "latentserve", *more(command)]))
    if options.against:
        rows = np.concatenate([block.embeddings for block in all_blocks(written(path))])[: options.index_rows]
        exact = [set(some) for some in brute_force(rows)]
        print(f"\n| index of {len(rows):,} rows | import, CPU s | build, CPU s | a query, CPU ms | recall | MiB |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for name in options.against:
            print(against(name, rows, exact, options.work))
    return 0


def more(command: list[str]) -> list[str]:
    """The same for many rows."""
    return [*command, *(f"photos/{number}.jpg" for number in range(QUERIES - 1))]


def job(options: Options) -> Path:
    """A job with random embeddings; one that is there stays."""
    path = options.work / f"{options.rows}-{options.numbers}.parquet"
    if path.exists():
        return path
    options.work.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"new-{path.name}")
    shutil.rmtree(made, ignore_errors=True)
    this = Job(1, "random", 1, "es-random", "", ("embedding",), options.numbers, False, 0.0, "", PART_ROWS)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, options.numbers), np.float32)
    with folder.opened(made) as to:
        to.begin(this)
        for first in range(0, options.rows, PART_ROWS):
            some = range(first, min(first + PART_ROWS, options.rows))
            if first >= PART_ROWS * DIFFERENT_PARTS:
                number = first // PART_ROWS
                shutil.copyfile(made / part_name(number % DIFFERENT_PARTS), made / part_name(number))
                continue
            noise = rng.standard_normal((len(some), options.numbers), np.float32)
            rows = centres[rng.integers(0, CLUSTERS, len(some))] + noise
            names = [f"photos/{number}.jpg" for number in some]
            to.write(table(this, [Answers(names, [f"{number:064x}" for number in some], [None] * len(some), rows)]))
    return made.rename(path)


def part_name(number: int) -> str:
    """As a job calls its parts."""
    return f"part-{number:05}.parquet"


def process(command: list[str]) -> Cost:
    """Runs a command."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: got status {child.returncode}, expected 0")
    return Cost(time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def told(what: str, cost: Cost) -> None:
    """Prints a line."""
    print(f"| {what} | {cost.seconds:.2f} | {cost.cpu_seconds:.2f} | {cost.peak_mib:,.0f} |", flush=True)


def brute_force(rows: NDArray[Any]) -> NDArray[np.int64]:
    """The nearest of the first rows by cosine."""
    directed = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.argsort(-(directed[:QUERIES] @ directed.T), axis=1)[:, :COUNT]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its CPU seconds."""
    began = time.process_time()
    return work(), time.process_time() - began


def against(name: Library, rows: NDArray[np.float32], exact: list[set[int]], work: Path) -> str:
    """A line of one library."""
    given = np.ascontiguousarray(rows)
    bare, loaded = (process([sys.executable, "-c", f"import {one}"]) for one in ("numpy", IMPORTS[name]))
    made: Any = {"usearch": usearch, "faiss": faiss, "lancedb": lambda rows: lancedb(rows, work / "lance")}[name]
    (ask, mib), build = timed(lambda: made(given))
    found, asked = timed(lambda: [ask(query) for query in given[:QUERIES]])
    recall = np.mean([len(set(map(int, some)) & true) / COUNT for some, true in zip(found, exact, strict=True)])
    imported = loaded.cpu_seconds - bare.cpu_seconds
    return f"| {name} | {imported:.2f} | {build:.1f} | {asked / QUERIES * 1000:.2f} | {recall:.3f} | {mib:,.0f} |"


def usearch(rows: NDArray[np.float32]) -> tuple[Callable[[Any], Any], float]:
    """HNSW as usearch has it by default."""
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="cos", dtype="f32")
    index.add(np.arange(len(rows)), rows)
    return lambda query: index.search(query, COUNT).keys, index.serialized_length / 2**20


def faiss(rows: NDArray[np.float32]) -> tuple[Callable[[Any], Any], float]:
    """HNSW of faiss, 32 links a row."""
    import faiss as library

    directed = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    index = library.IndexHNSWFlat(rows.shape[1], 32, library.METRIC_INNER_PRODUCT)
    index.add(directed)
    return lambda query: index.search(query[None], COUNT)[1][0], library.serialize_index(index).nbytes / 2**20


def lancedb(rows: NDArray[np.float32], where: Path) -> tuple[Callable[[Any], Any], float]:
    """A table without an index."""
    import lancedb as library
    import pyarrow as pa

    shutil.rmtree(where, ignore_errors=True)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    given = pa.table({"number": np.arange(len(rows)), "embedding": lists})
    there = library.connect(str(where)).create_table("rows", given)

    def ask(query: Any) -> list[int]:
        asked = there.search(query, vector_column_name="embedding").distance_type("cosine").limit(COUNT)
        return [int(row["number"]) for row in asked.to_list()]

    return ask, sum(one.stat().st_size for one in where.rglob("*") if one.is_file()) / 2**20


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
