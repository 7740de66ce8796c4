from __future__ import annotations

from pathlib import Path

from benchmarks.results.vq_embeddings import RECORD, Record, table
from latentserve import records

PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods" / "codes.md"


def test_the_page_of_codes_holds_what_is_recorded() -> None:
    """Made with `python -m benchmarks.results.vq_embeddings --table`."""
    page = PAGE.read_text()
    for line in table(records.read(Record, RECORD)).splitlines():
        assert line in page, line
