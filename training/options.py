"""Options of the command lines, checked before any work is spent on them.

What a record checks by itself stands in its `__post_init__`; here is what is the same for all, and what needs access
to the disk.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from latentserve.records import printable

LARGEST_SEED = 2**32 - 1
"""What scikit-learn and Lightning take; times a million for the epochs it fits torch's 64 bits."""
LARGEST_INTEGER = LARGEST_SEED
NAMES_OF_DATA = ("data", "transfer", "against", "calibration_data")
"""Options that may name a file or a folder, whose bytes need be no text."""


class Dataclass(Protocol):
    """Options or a method's config: an instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


class OptionError(ValueError):
    """An option cannot be what it is. The message names it, what was got and expected."""


def check_options(options: Dataclass) -> None:
    """Checks what every option must be: a finite number of ordinary size, text that can be written, a path.

    Args:
        options: a dataclass of options and of dataclasses of options.

    Raises:
        OptionError: one is not.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            check_options(value)
            continue
        for one in value if isinstance(value, tuple) else (value,):
            expected = _expected(one)
            if isinstance(one, str) and field.name not in NAMES_OF_DATA and not _is_text(one):
                expected = "text in UTF-8"
            if expected is not None:
                raise OptionError(f"{field.name}: got {str(one)!r}, expected {expected}")


def _expected(value: object) -> str | None:
    """What a value should have been; None if it is that."""
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if isinstance(value, int) and not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
        return f"at most {LARGEST_INTEGER}"
    if isinstance(value, Path) and value == Path():
        return "a path"
    if isinstance(value, (str, Path)) and "\0" in str(value):
        return "no zero byte in it"
    if isinstance(value, str) and not value.strip():
        return "something"
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8
        return False
    return True


def check_seed(seed: int) -> None:
    """Raises OptionError unless every library takes it."""
    if not 0 <= seed <= LARGEST_SEED:
        raise OptionError(f"seed: got {seed}, expected 0 to {LARGEST_SEED}")


def check_new_folder(name: str, folder: Path) -> None:
    """Raises OptionError unless a folder is there or can be made, and can be written to."""
    _check_writable(name, folder, Path.is_dir, "a folder")


def check_new_file(name: str, file: Path | None) -> None:
    """Raises OptionError unless a file, if one is asked for, can be written."""
    if file is None:
        return
    if not os.path.isdir(file.parent):  # noqa: PTH112 (never raises)
        raise OptionError(f"{name}: got {file}, expected a file in a folder that is there")
    _check_writable(name, file, Path.is_file, "a file")


def _check_writable(name: str, path: Path, is_kind: Callable[[Path], bool], kind: str) -> None:
    try:
        if path.exists() and not is_kind(path):
            raise OptionError(f"{name}: got {path}, which is something else, expected {kind}")
        there = path if path.exists() else next(above for above in path.absolute().parents if above.exists())
    except OSError as error:  # a name that is too long, a part of it that is no folder
        raise OptionError(f"{name}: got {path}, expected {kind} ({error.strerror})") from error
    if path != there and not there.is_dir():
        raise OptionError(f"{name}: got {path}, but {there} is no folder")
    if not os.access(there, os.W_OK):
        raise OptionError(f"{name}: got {path}, but {there} may not be written to")
    longest = max(len(os.fsencode(part)) for part in path.absolute().parts)
    if longest > os.pathconf(there, "PC_NAME_MAX"):
        raise OptionError(
            f"{name}: got a name of {longest} bytes, expected at most {os.pathconf(there, 'PC_NAME_MAX')}"
        )


def nearest(got: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` for what was probably mistyped, else nothing."""
    found = difflib.get_close_matches(got, list(known), 1)
    return f", did you mean {found[0]!r}?" if found else ""


def in_words(error: BaseException) -> str:
    """An error as one sentence: of the operating system's without its number, of memory with what to do."""
    if isinstance(error, OSError) and error.strerror:
        files = " to ".join(str(file) for file in (error.filename, error.filename2) if file is not None)
        return printable(f"{files or 'the system'}: {error.strerror}")
    text = printable(str(error).strip())
    if is_out_of_memory(error):
        return f"out of memory: ask for smaller rows, batches or layers ({(text or 'MemoryError').splitlines()[0]})"
    return text or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is exhausted; torch says so of a CPU's in words alone."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def say_any_name() -> None:
    """A file's name that is no text is printed with its bytes in hex, instead of being an error at the very end."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")
