"""The protocol, from the comments of the proto."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from deploy.reference.markdown import code, head, table

PROTO = Path(__file__).resolve().parents[2] / "protos" / "latentserve" / "v1" / "embedding.proto"
TEXT = """The gRPC service `latentserve.v1.EmbeddingService`, for clients in any language. Python has one ready: see
[Python](python.md). KServe's and Triton's clients speak the [Open Inference Protocol](../guides/kserve.md)."""
_BLOCK = re.compile(r"^(service|message|enum) (\w+) \{")
_RPC = re.compile(r"^\s+rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\)")
_FIELD = re.compile(r"^\s+(?:(optional|repeated) )?([\w.<>, ]+?) (\w+) = (\d+)")
_VALUE = re.compile(r"^\s+(\w+) = (\d+)")
_ONEOF = re.compile(r"^\s+oneof (\w+) \{")


def page() -> str:
    """The page as Markdown."""
    made_from = "[embedding.proto](../../protos/latentserve/v1/embedding.proto)"
    lines = PROTO.read_text().splitlines()
    out = [head("Protocol", made_from, TEXT), _paragraphs(_first_comment(lines)), ""]
    for kind, name, comment, body in _blocks(lines):
        out.append(f"{'##' if kind == 'service' else '###'} {name}\n\n{_paragraphs(comment)}\n")
        out.append(_body(kind, body) + "\n" if body else "")
        if kind == "service":
            out.append("## Messages and enums\n")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out).strip()) + "\n"


def _first_comment(lines: list[str]) -> list[str]:
    end = next(number for number, line in enumerate(lines) if not line.startswith("//"))
    return [_said(line) for line in lines[:end]]


def _blocks(lines: list[str]) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Kind, name, comment and lines of each block."""
    for number, line in enumerate(lines):
        if found := _BLOCK.match(line):
            body = []
            if not line.rstrip().endswith("{}"):
                end = next(n for n in range(number, len(lines)) if lines[n] == "}")
                body = lines[number + 1 : end]
            yield found[1], found[2], _comment_above(lines, number), body


def _comment_above(lines: list[str], number: int) -> list[str]:
    start = number
    while start and lines[start - 1].strip().startswith("//"):
        start -= 1
    return [_said(line) for line in lines[start:number]]


def _said(line: str) -> str:
    return re.sub(r"^\s*// ?", "", line)


def _paragraphs(comment: list[str]) -> str:
    """A comment as Markdown: points stay points, a column of names becomes a list of them."""
    out: list[str] = []
    for line in comment:
        point = re.match(r"^  +\* (.*)", line)
        named = re.match(r"^  ([A-Z_]{4,}) +(.*)", line)
        new = f"* {point[1]}" if point else f"* `{named[1]}`: {named[2]}" if named else ""
        if new and out and out[-1] and not out[-1].startswith(("*", "  ")):
            out.append("")
        out.append(new or ("  " + line.strip() if line.startswith("   ") else line))
    return "\n".join(out).strip()


def _body(kind: str, body: list[str]) -> str:
    rows: list[tuple[str, ...]] = []
    one_of = ""
    for number, line in enumerate(body):
        comment = re.sub(r" \* ", "; ", " ".join(" ".join(_comment_above(body, number)).split()))
        if kind == "service" and (rpc := _RPC.match(line)):
            sent = [
                f"{'stream of ' if stream else ''}{_linked(name)}"
                for stream, name in (rpc.group(2, 3), rpc.group(4, 5))
            ]
            rows.append((code(rpc[1]), *sent, comment))
        elif kind == "enum" and (value := _VALUE.match(line)):
            rows.append((code(value[1]), value[2], comment))
        elif found := _ONEOF.match(line):
            one_of = found[1]
        elif one_of and line.strip() == "}":
            one_of = ""
        elif kind == "message" and (field := _FIELD.match(line)):
            label = f"{field[1]} " if field[1] else f"one of `{one_of}`: " if one_of else ""
            rows.append((code(field[3]), field[4], label + _linked(field[2]), comment))
    heads = {"service": ("call", "request", "response", "meaning"), "enum": ("value", "number", "meaning")}
    return table(heads.get(kind, ("field", "number", "type", "meaning")), rows)


def _linked(name: str) -> str:
    """A type; ours are on this page."""
    ours = name[:1].isupper() and "." not in name
    return f"[{name}](#{name.lower()})" if ours else code(name)
