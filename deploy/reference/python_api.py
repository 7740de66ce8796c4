"""The Python client, from its docstrings."""

from __future__ import annotations

import inspect
from typing import Any

from deploy.reference.markdown import code, doc_of, head, table, type_name
from latentserve.answers import Analysis, Scores
from latentserve.client import AsyncClient, Client
from latentserve.maps import AnomalyMaps, Region

TEXT = """`from latentserve import Client, AsyncClient, Scores`. How to use it: [Client](../guides/client.md).
What it raises: [Errors](errors.md)."""


def page() -> str:
    """The page as Markdown."""
    made_from = "[latentserve/client.py](../../latentserve/client.py) and [calls.py](../../latentserve/calls.py)"
    out = [head("Python", made_from, TEXT), _class(Client)]
    out += [_method(name, value) for name, value in vars(Client).items() if _is_method(name, value)]
    out.append(f"## AsyncClient\n\n{doc_of(AsyncClient).text}\n")
    out += [_class(Scores), _class(Analysis), _class(AnomalyMaps)]
    out += [_method(name, value) for name, value in vars(AnomalyMaps).items() if _is_method(name, value)]
    out.append(_class(Region))
    return "\n".join(out)


def _is_method(name: str, value: Any) -> bool:
    return not name.startswith("_") and inspect.isfunction(value)


def _class(kind: type) -> str:
    doc = doc_of(kind)
    signature = "" if doc.sections.get("Attributes") else f"```text\n{_signature(kind.__name__, kind)}\n```\n\n"
    return f"## {kind.__name__}\n\n{signature}{doc.text}\n\n{_sections(doc.sections)}".rstrip() + "\n"


def _method(name: str, function: Any) -> str:
    doc = doc_of(function)
    shown = f"```text\n{_signature(name, function)}\n```"
    return f"### {name}\n\n{shown}\n\n{doc.text}\n\n{_sections(doc.sections)}".rstrip() + "\n"


def _sections(sections: dict[str, dict[str, str]]) -> str:
    heads = {"Args": "argument", "Attributes": "attribute", "Raises": "raises"}
    tables = [
        table((heads[name], "meaning"), [(code(one), text) for one, text in entries.items()])
        for name, entries in sections.items()
        if name in heads
    ]
    return "".join(f"{one}\n\n" for one in tables)


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    arguments = [one for one in signature.parameters.values() if one.name != "self"]
    shown = [str(one.replace(annotation=_Named(type_name(one.annotation)))) for one in arguments]
    returned = signature.return_annotation
    given = "" if returned in ("None", None, inspect.Signature.empty) else f" -> {type_name(returned)}"
    together = f"{name}({', '.join(shown)}){given}"
    if len(together) <= 90:
        return together
    return f"{name}(\n    " + ",\n    ".join(shown) + f",\n){given}"


class _Named:
    """An annotation that is shown as it was written."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = "builtins"

    def __repr__(self) -> str:
        return self.__name__
