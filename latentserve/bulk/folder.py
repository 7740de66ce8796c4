"""The folder of a job: what it is, the parts that are done, and that one process at a time writes there."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from latentserve import records
from latentserve.bulk.schema import Job
from latentserve.errors import InvalidInput
from latentserve.lock import Held, held

JOB = "_job.json"
"""Readers of Parquet leave out what begins so."""
PART = re.compile(r"part-(\d{5,})\.parquet")
BESIDE = re.compile(r"\.(_job\.json|part-\d{5,}\.parquet)\.tmp")
"""What a killed process may leave."""
SUFFIX = ".parquet"


class Folder:
    """A job's folder, held by this process: see `opened`.

    Attributes:
        path: of it.
        found: the job that it is of; None if it is new.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found = job_at(path, "to")
        self._parts = [(_number(name), name) for name in parts_of(path)]

    def check(self, job: Job) -> None:
        """Raises InvalidInput if it is of another job."""
        if self.found is not None:
            place = f"to: {self.path} is of another job: "
            told = records.differences(records.to_json(job), records.to_json(self.found))
            if told:
                raise InvalidInput(f"{place}{told[0]}; name another folder")

    def begin(self, job: Job) -> None:
        """Says what job it is of, if nothing does yet. Raises OSError that names the file."""
        if self.found is None:
            _write(self.path, JOB, (json.dumps(dataclasses.asdict(job), indent=2) + "\n").encode())
            self.found = job

    def done(self) -> set[str]:
        """Sources that have a row.

        Raises:
            InvalidInput: a part cannot be read.
        """
        sources: set[str] = set()
        for _, name in self._parts:
            try:
                with (self.path / name).open("rb") as file:
                    part = pq.ParquetFile(file, page_checksum_verification=True)
                    found = part.read(columns=["source"])["source"]
                if found.null_count or len(found) != part.metadata.num_rows:
                    raise pa.ArrowInvalid("rows without a source")
                sources.update(found.to_pylist())
            except (pa.ArrowException, OSError, KeyError) as error:
                what = str(error).splitlines()[0]
                expected = f"one of ours ({what}): remove it, and its items are computed again"
                raise InvalidInput.at("to", got=str(self.path / name), expected=expected) from error
        return sources

    def write(self, rows: pa.Table) -> str:
        """Writes the next part, all of it or nothing; returns its name.

        Raises:
            OSError: that names the part.
        """
        number = self._parts[-1][0] + 1 if self._parts else 0
        name = f"part-{number:05}{SUFFIX}"
        sink = pa.BufferOutputStream()
        same = ["model", "version", "embedding_space", "calibration"]
        pq.write_table(rows, sink, compression="zstd", use_dictionary=same, write_page_checksum=True)
        _write(self.path, name, sink.getvalue())
        self._parts.append((number, name))
        return name


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Folder]:
    """Holds a job's folder, which is made if it is not there; one that stays empty is removed again.

    Raises:
        InvalidInput: it is no folder of a job, or another process holds it.
    """
    if path.suffix.lower() != SUFFIX:
        raise InvalidInput.at("to", got=str(path), expected=f"a folder whose name ends in {SUFFIX}")
    with contextlib.ExitStack() as stack:
        while not _taken(path, stack):
            pass  # another process gave it up just now, and removed it
        _check_ours(path)
        try:
            yield Folder(path)
        finally:
            with contextlib.suppress(OSError):
                path.rmdir()  # only if nothing is in it


def _taken(path: Path, stack: contextlib.ExitStack) -> bool:
    """Makes the folder, if need be, and holds it; False: it was removed in between."""
    try:
        path.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise InvalidInput.at("to", got=f"{path}, a file", expected="a folder, or a name that is free") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput.at("to", got=repr(str(path)), expected=f"a folder that can be made ({why})") from error
    try:
        stack.enter_context(held(path))
    except Held as error:
        raise InvalidInput.at("to", got=f"{path}, held by another process", expected="one at a time") from error
    except FileNotFoundError:
        return False
    return True


def _check_ours(path: Path) -> None:
    """Removes what a killed process left."""
    entries = sorted(one.name for one in path.iterdir())
    for name in entries:
        if BESIDE.fullmatch(name):
            (path / name).unlink()
    rest = [name for name in entries if not BESIDE.fullmatch(name)]
    if rest and JOB not in rest:
        got = f"{path} with {rest[0]!r} in it and no {JOB}"
        raise InvalidInput.at("to", got=got, expected="a new or empty folder, or one of a job")


def job_at(path: Path, field: str = "job") -> Job | None:
    """The job that a folder is of; None if it says nothing of one.

    Args:
        path: of the folder.
        field: that an error names.

    Raises:
        InvalidInput: what it says is broken.
    """
    try:
        return records.read(Job, path / JOB)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except records.RecordError as error:
        raise InvalidInput.at(field, got=f"{path / JOB} ({error})", expected="the file of a job") from error


def parts_of(path: Path) -> list[str]:
    """The names of a folder's parts, in their order."""
    return sorted((one.name for one in path.iterdir() if PART.fullmatch(one.name)), key=_number)


def _number(name: str) -> int:
    found = PART.fullmatch(name)
    assert found is not None  # it is a part's
    return int(found[1])


def _write(folder: Path, name: str, data: bytes | pa.Buffer) -> None:
    """Beside it first, then renamed, both on the disk before anything else is done."""
    beside = folder / f".{name}.tmp"
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(folder / name)
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise OSError(error.errno or errno.EIO, error.strerror, str(folder / name)) from error
