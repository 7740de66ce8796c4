"""`buf curl` (Go, connect-go) over gRPC: a program as `asked` says, with `call`, `stream` and `many`.

    python -m benchmarks.clients.buf_curl TARGET FOLDER VERB NUMBER    with BUF, the program, in the environment

A process for each call, so none shares a connection with another.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from google.protobuf.json_format import MessageToJson, Parse

from benchmarks.clients.asked import EMBED, SCORE_STREAM, Work, joined
from latentserve.v1 import embedding_pb2 as pb

_CODES = (
    *("ok", "canceled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists"),
    *("permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented"),
    *("internal", "unavailable", "data_loss", "unauthenticated"),
)
"""By gRPC's number, as it names them."""


def main(work: Work) -> None:
    """Does what it was told."""
    small = write(work, "small", [pb.EmbedRequest.FromString(work.small)])
    if work.verb == "stream":
        file = write(work, "stream", [pb.ScoreStreamRequest.FromString(one) for one in work.stream])
        hear(work, begin(work, SCORE_STREAM, file), pb.ScoreStreamResponse)
        return
    request = write(work, "request", [pb.EmbedRequest.FromString(work.request)])
    if work.verb == "call":
        hear(work, begin(work, EMBED, request), pb.EmbedResponse)
    elif work.verb == "many":
        hear(work, begin(work, EMBED, small), pb.EmbedResponse)
        for call in [begin(work, EMBED, request) for _ in range(work.number)]:
            hear(work, call, pb.EmbedResponse)


def write(work: Work, name: str, messages: list[Any]) -> str:
    """Messages as JSON, in a file of that name."""
    file = work.folder / f"{name}.json"
    file.write_text("\n".join(MessageToJson(message, indent=None) for message in messages))
    return str(file)


def begin(work: Work, method: str, file: str) -> subprocess.Popen[str]:
    """Starts a call."""
    scheme, secure = ("https", ("--cacert", str(work.folder / "ca.pem"))) if work.ca else ("http", ())
    command = [
        *(os.environ["BUF"], "curl", "--protocol", "grpc", "--http2-prior-knowledge"),
        *("--schema", f"{work.folder / 'descriptors.bin'}#format=binpb", "--data", f"@{file}", *secure),
        f"{scheme}://{work.target}{method}",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=work.folder)


def hear(work: Work, call: subprocess.Popen[str], kind: Any) -> None:
    """Waits, and says how it ended."""
    out, complaint = call.communicate()
    if call.returncode == 0:
        answers = [Parse(json.dumps(one), kind()).SerializeToString() for one in documents(out)]
        work.heard(0, "", joined(answers) if kind is pb.ScoreStreamResponse else answers[0])
        return
    try:
        (error,) = documents(complaint)
        work.heard(_CODES.index(error["code"]), error.get("message", ""))
    except (ValueError, KeyError):  # it failed before there was a call
        work.heard(call.returncode >> 3 or 2, complaint)


def documents(text: str) -> list[Any]:
    """JSON values one after another."""
    decoder, found, start = json.JSONDecoder(), [], 0
    while start < len(text.rstrip()):
        value, start = decoder.raw_decode(text, start + len(text[start:]) - len(text[start:].lstrip()))
        found.append(value)
    return found


if __name__ == "__main__":
    main(Work.read())
