"""The manifest's schema, from the dataclasses of `latentserve.bundle`."""

from __future__ import annotations

import dataclasses
from typing import Any

from deploy.reference.markdown import code, doc_of, head, table, type_name
from latentserve import bundle, inputs

TEXT = f"""`bundle.json` of every bundle, schema version {bundle.SCHEMA_VERSION}. What a bundle is, file by file:
[Bundle](../concepts/bundle.md). A service reads the schemas up to its own, and rejects a bundle with an unknown
field."""
KINDS = (
    *(bundle.Manifest, inputs.ImageInput, inputs.AudioInput, inputs.TensorSpec, bundle.Graph, bundle.Detector),
    *(bundle.Parity, bundle.Evaluation, bundle.Provenance),
)


def page() -> str:
    """The page as Markdown."""
    made_from = "[latentserve/bundle.py](../../latentserve/bundle.py) and [inputs.py](../../latentserve/inputs.py)"
    return "\n".join([head("Manifest", made_from, TEXT), *map(_section, KINDS)])


def _section(kind: Any) -> str:
    doc = doc_of(kind)
    said = doc.sections.get("Attributes", {})
    rows = [
        (code(one.name), code(type_name(one.type)), _default(one), said.get(one.name, ""))
        for one in dataclasses.fields(kind)
    ]
    return f"## {kind.__name__}\n\n{doc.text}\n\n{table(('field', 'type', 'default', 'meaning'), rows)}\n"


def _default(field: Any) -> str:
    if field.default is dataclasses.MISSING:
        return "required" if field.default_factory is dataclasses.MISSING else ""
    return code(repr(field.default))
