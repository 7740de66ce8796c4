"""The errors, from their tree."""

from __future__ import annotations

from deploy.reference.markdown import code, doc_of, head, table
from latentserve.errors import LatentserveError

TEXT = """Every error that latentserve raises on purpose is a `LatentserveError` (`latentserve.errors`): the service
raises it, the transport turns it into a gRPC status, the client turns the status back. A message names the field, what
was got and what was expected. Sentences that users meet most, and what to do: [When something goes
wrong](../guides/wrong.md)."""


def page() -> str:
    """The page as Markdown."""
    kinds: list[type[LatentserveError]] = [LatentserveError, *_below(LatentserveError)]
    rows = [(code(kind.__name__), code(kind.code.name), " ".join(doc_of(kind).text.split())) for kind in kinds[1:]]
    attributes = [
        (code(f"{kind.__name__}.{name}"), text)
        for kind in kinds
        for name, text in doc_of(kind).sections.get("Attributes", {}).items()
    ]
    made_from = "[latentserve/errors.py](../../latentserve/errors.py)"
    tables = table(("error", "gRPC status", "meaning"), rows), table(("attribute", "meaning"), attributes)
    return f"{head('Errors', made_from, TEXT)}\n{tables[0]}\n\n{tables[1]}\n"


def _below(kind: type[LatentserveError]) -> list[type[LatentserveError]]:
    return [one for child in kind.__subclasses__() for one in (child, *_below(child))]
