"""Frozen dataclasses to JSON and back, strictly.

A record is a frozen dataclass whose fields are str, int, float, bool, other records, or tuples,
string-keyed dicts and optionals of those; where several kinds of record are possible, their `modality`
tells which. Reading is strict: an unknown key, a missing key or a value of another type is an error that says where,
what was got and what was expected. So a typing mistake in a config never trains the wrong model.
"""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

R = TypeVar("R")


class RecordError(ValueError):
    """JSON does not fit the record. The message names the place, what was got and expected."""


def to_json(record: Any) -> Any:
    """The record as plain dicts, lists and scalars, ready for `json.dumps`."""
    return json.loads(json.dumps(dataclasses.asdict(record)))


def printable(text: str) -> str:
    r"""A text that any file and terminal takes: bytes of a file's name that are no UTF-8 are shown as \xff."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def from_json(kind: type[R], value: Any, place: str = "") -> R:
    """Builds a `kind` from the result of `json.loads`.

    Raises:
        RecordError: unknown key, missing key or wrong type, with the place of it.
    """
    place = place or kind.__name__
    if not isinstance(value, dict):
        raise RecordError(f"{place}: got {_shown(value)}, expected an object")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(value.keys() - fields.keys())
    if unknown:
        raise RecordError(f"{place}: got unknown key {unknown[0]!r}, expected one of {sorted(fields)}")
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - value.keys())
    if missing:
        raise RecordError(f"{place}: key {missing[0]!r} is missing")
    read = {name: _value(hints[name], item, f"{place}.{name}") for name, item in value.items()}
    try:
        return kind(**read)
    except RecordError:
        raise
    except ValueError as error:  # the record's own check of its values
        raise RecordError(f"{place}: {error}") from error


def differences(got: Any, expected: Any, place: str = "") -> list[str]:
    """Where two JSON values differ: `place: got ..., expected ...` for each place."""
    if not (isinstance(got, dict) and isinstance(expected, dict)):
        return [] if got == expected else [f"{place}: got {got!r}, expected {expected!r}"]
    names = list(expected) + [name for name in got if name not in expected]
    within = f"{place}." if place else ""
    return [line for name in names for line in differences(got.get(name), expected.get(name), within + name)]


def read(kind: type[R], path: Path) -> R:
    """Reads a record from a JSON file.

    Raises:
        RecordError: the file is not a JSON object, or does not fit.
        FileNotFoundError: there is no such file.
    """
    return from_json(kind, read_json(path))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object whose fields are not known yet.

    Raises:
        RecordError: the file is not a JSON object.
        FileNotFoundError: there is no such file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        # Bytes of a file's name may stand there, see `printable`; any other half of a character is no text at all.
        json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except (ValueError, RecursionError) as error:  # ValueError: no text, no JSON, or a number of thousands of digits
        raise RecordError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RecordError(f"got {_shown(value)}, expected an object")
    return value


def write(record: Any, path: Path) -> None:
    """Writes a record as JSON: beside it first, then renamed, so that no half file is ever seen."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(json.dumps(to_json(record), indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


def _value(hint: Any, value: Any, place: str) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _union(get_args(hint), value, place)
    if origin is Literal:
        if value not in get_args(hint):
            raise RecordError(f"{place}: got {_shown(value)}, expected one of {list(get_args(hint))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise RecordError(f"{place}: got {_shown(value)}, expected a list")
        return tuple(_value(get_args(hint)[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise RecordError(f"{place}: got {_shown(value)}, expected an object")
        return {key: _value(get_args(hint)[1], item, f"{place}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, place)  # type: ignore[arg-type]
    return _scalar(hint, value, place)


def _union(hints: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in hints:
        return None
    kinds = [one for one in hints if one is not type(None)]
    return _value(kinds[0] if len(kinds) == 1 else _kind_of(kinds, value, place), value, place)


def _kind_of(kinds: list[Any], value: Any, place: str) -> Any:
    """The one of several records whose `modality` is the value's; the first where the value names none."""
    if not isinstance(value, dict):
        raise RecordError(f"{place}: got {_shown(value)}, expected an object")
    named = value.get("modality", kinds[0].modality)
    for kind in kinds:
        if kind.modality == named:
            return kind
    raise RecordError(f"{place}.modality: got {_shown(named)}, expected one of {[kind.modality for kind in kinds]}")


def _scalar(kind: type, value: Any, place: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise RecordError(f"{place}: got a number of {len(str(value))} digits, expected a float") from error
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RecordError(f"{place}: got {_shown(value)}, expected {kind.__name__}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
