"""What the list of a job costs: memory and time for so many paths, which a Parquet file names.

python -m benchmarks.bulk.listing                     a million paths, ten seconds
python -m benchmarks.bulk.listing --items 10000000
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from latentserve.bulk.listing import listed
from training.options import check_options

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Options:
    """Lists paths that need not be there.

    Attributes:
        items: how many.
    """

    items: int = 1_000_000


def main(options: Options) -> int:
    """Prints bytes and microseconds an item."""
    check_options(options)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "paths.parquet"
        paths = [f"photos/{number // 1000:06}/{number:09}.jpg" for number in range(options.items)]
        pq.write_table(pa.table({"path": paths}), table)
        del paths
        before, start = resident(), time.perf_counter()
        items = listed([str(table)], "path")
        seconds, taken = time.perf_counter() - start, resident() - before
    each = f"{taken / len(items):.0f} bytes and {1e6 * seconds / len(items):.1f} microseconds an item"
    print(f"{len(items):,} items: {taken / 2**20:,.0f} MiB, {seconds:.1f} s; {each}")
    return 0


def resident() -> int:
    """Bytes of this process that are in memory."""
    (line,) = (one for one in STATUS.read_text().splitlines() if one.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.bulk.listing")))
